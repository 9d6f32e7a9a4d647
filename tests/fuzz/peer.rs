//! What other nodes send. A body comes with proof of the cluster's token, so its sender is no stranger; but it may be of
//! another release, or broken.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use counter_core::counter::{Entry, Key, Total, Update};
use counter_core::forward::{
    Answer, Ask, Attempt, ForwardConfig, ForwardInbox, ForwardReply, ForwardRequest, Forwarder, InboxConfig, MessageId, ReadItem,
    Received, Session, Ticket, UpdateItem,
};
use counter_core::hlc::Hlc;
use counter_core::id::{ActorId, ClusterId, NodeName};
use counter_core::layout::{Layout, LayoutVersion};
use counter_core::marks::Mark;
use counter_core::message::{DetailAsk, Envelope, Header, LayoutId, Message, Position};
use counter_core::replica::{Now, Replica, ReplicaConfig};
use counter_core::slot::{Slot, SlotRange};
use counter_core::table::Table;
use counter_core::vector::Generation;

use crate::layout;
use crate::records::{is_cleared, limits, table_with_counters};

const ME: ActorId = ActorId { origin: 1, incarnation: 1 };
const SIBLING: ActorId = ActorId { origin: 2, incarnation: 1 };
const NOW: Now = Now { monotonic_ms: 1_000, wall_ms: 1_700_000_000_000 };

pub(crate) fn header() -> Header {
    header_from(&"c-0-1".into())
}

pub(crate) fn header_from(node: &NodeName) -> Header {
    Header {
        cluster: Some(ClusterId(7)),
        from: node.clone(),
        to: Some("c-0-0".into()),
        actor: SIBLING,
        layout: Some(LayoutId::of(&layout::example())),
        clock: Hlc(1),
    }
}

thread_local! {
    static LAYOUT: Arc<Layout> = Arc::new(layout::example());
    /// A table in which nothing is, from one input to the next: making one and looking at all its slots takes many times what an
    /// input does.
    static EMPTY: Cell<Option<Table>> = const { Cell::new(None) };
}

/// What is read encodes to what reads the same; and a replica survives it, whatever it says.
pub(crate) fn messages(bytes: &[u8]) {
    let Ok(envelope) = Envelope::<Vec<Message>>::decode(bytes) else { return };
    assert_eq!(Envelope::decode(&envelope.encode()).as_ref(), Ok(&envelope));
    let table = EMPTY.take().unwrap_or_else(|| Table::new(7, limits()));
    let layout = LAYOUT.with(Arc::clone);
    let (mut replica, _) = Replica::new("c-0-0".into(), ME, Some(layout.clone()), ReplicaConfig::default(), 9, &table);
    let told = told_of(&envelope.body);
    // As whoever it says that it is, and as a sibling that is listened to.
    drop(replica.handle_envelope(&table, NOW, envelope.clone()));
    drop(replica.handle_envelope(&table, NOW, Envelope { header: header(), body: envelope.body }));
    drop(replica.handle_tick(&table, Now { monotonic_ms: 60_000, ..NOW }));
    let is_empty = sums_are_right_and_slots_are_cleared(&table, &told);
    // Under another layout it has written elsewhere: the table would remember of which slots.
    if is_empty && replica.layout() == Some(&layout) {
        EMPTY.set(Some(table));
    }
}

/// The slots of which messages tell what a replica may take over.
fn told_of(messages: &[Message]) -> BTreeSet<Slot> {
    let deltas = messages.iter().flat_map(|message| match message {
        Message::Delta { slots, .. } => slots.as_slice(),
        Message::DetailReply(reply) => reply.delta.as_slice(),
        Message::Hello
        | Message::LayoutAsk
        | Message::Layout(_)
        | Message::Superseded { .. }
        | Message::DeltaAck { .. }
        | Message::DigestAsk { .. }
        | Message::DigestReply(_)
        | Message::DetailAsk(_)
        | Message::PullAsk { .. }
        | Message::PullDone { .. }
        | Message::RetireAsk { .. }
        | Message::RetireReply { .. } => &[],
    });
    deltas.map(|delta| delta.slot).collect()
}

/// Whatever a replica took over, its sums are those of its counters; and it took over nothing else. Returns whether the table is as
/// new once the slots are cleared.
fn sums_are_right_and_slots_are_cleared(table: &Table, told: &BTreeSet<Slot>) -> bool {
    for slot in told {
        let vector = table.slot(*slot);
        let tallies = vector.keys().map(|key| vector.read(key).tally);
        assert_eq!(vector.tally(), tallies.fold(0, i128::saturating_add), "slot {slot}");
    }
    let is_empty = told.iter().filter(|slot| !is_cleared(table, **slot)).count() == 0;
    assert_eq!((table.counters(), table.tokens()), (0, 0), "something is in a slot of which nothing was told");
    is_empty
}

pub(crate) fn message_seeds() -> Vec<Vec<u8>> {
    let table = table_with_counters();
    let key = Key::new(b"front-page").unwrap();
    let slot = key.slot();
    let delta = table.slot(slot).delta(slot, [&key]);
    let ask = DetailAsk {
        round: 1,
        slot,
        generation: Generation(0),
        from: Position::FIRST,
        to: Position::LAST,
        counters: vec![(1, 2)],
        tokens: vec![3],
    };
    let bodies = vec![
        vec![Message::Hello, Message::LayoutAsk, Message::layout(&layout::example())],
        vec![Message::Delta { sequence: 1, slots: vec![delta] }, Message::DeltaAck { sequence: 1 }],
        vec![Message::DigestAsk { round: 1, digests: vec![(slot, 5)] }, Message::DetailAsk(ask)],
        vec![Message::PullAsk { errand: 1, slots: vec![SlotRange::ALL] }, Message::PullDone { errand: 1 }],
        vec![Message::Superseded { by: ActorId { origin: 1, incarnation: 9 }, silent_ms: 5 }],
    ];
    bodies.into_iter().map(|body| Envelope { header: header(), body }.encode()).collect()
}

/// An inbox answers every request once it is finished, and a forwarder settles every ticket at most once.
pub(crate) fn forwarded(bytes: &[u8]) {
    if let Ok(envelope) = Envelope::<ForwardRequest>::decode(bytes) {
        assert_eq!(Envelope::decode(&envelope.encode()).as_ref(), Ok(&envelope));
        let mut inbox = ForwardInbox::new(ME, InboxConfig::default());
        let forwarder = envelope.body.forwarder;
        if let Received::Apply { session, message, updates } = inbox.receive(envelope.body.clone()) {
            assert_eq!(inbox.receive(envelope.body), Received::Answer(Answer::InProgress), "{updates:?} are being applied");
            drop(inbox.finish(forwarder, session, message, Vec::new()));
        }
    }
    if let Ok(envelope) = Envelope::<ForwardReply>::decode(bytes) {
        assert_eq!(Envelope::decode(&envelope.encode()).as_ref(), Ok(&envelope));
        let mut forwarder = Forwarder::new(SIBLING, "c-1-0".into(), ForwardConfig::default());
        forwarder.handle_layout(0, &layout::example());
        let key = Key::new(b"front-page").unwrap();
        forwarder.submit(0, key, Attempt::new(Update::Increment(1), None), Ticket(1));
        let mut completed = forwarder.poll(0).len();
        for now_ms in [1, 100, 60_000] {
            forwarder.handle_reply(now_ms, envelope.body.clone());
            completed = completed.saturating_add(forwarder.poll(now_ms).len());
        }
        assert!(completed < 100, "one update made {completed} effects");
    }
}

pub(crate) fn forwarded_seeds() -> Vec<Vec<u8>> {
    let request = |ask| ForwardRequest { forwarder: SIBLING, message: MessageId(1), layout: LayoutVersion(3), ask };
    let token = "1900000000000-a".parse().ok();
    let mark = Mark { actor: ME, entry: Entry::default(), generation: Generation(1), cleared: Total::default() };
    let marks = vec![mark];
    let updates = vec![UpdateItem {
        key: Key::new(b"front-page").unwrap(),
        update: Update::Increment(1),
        token,
        marks: Some(marks.clone()),
    }];
    let session = Session { inbox: ME, number: 1 };
    let asks = [
        Ask::Open,
        Ask::Apply { session, floor: MessageId(0), updates },
        Ask::Read { reads: vec![ReadItem { key: Key::new(b"front-page").unwrap(), marks }] },
    ];
    asks.into_iter().map(|ask| Envelope { header: header(), body: request(ask) }.encode()).collect()
}
