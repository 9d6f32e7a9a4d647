//! What other nodes say of their viewers.

use std::collections::VecDeque;
use std::sync::Arc;

use counter_core::counter::Key;
use counter_core::id::NodeName;
use counter_core::message::Envelope;
use counter_core::presence::{Presence, PresenceConfig, PresenceEffect, PresenceMessage, Viewers};
use counter_core::replica::Now;
use counter_core::slot::Slot;
use counter_core::table::Table;

use crate::layout;
use crate::peer::header;
use crate::records::limits;

/// Who listens.
const ME: &str = "c-0-0";
/// Twice a tick: later would be a stall.
const TICK_MS: u64 = 100;
/// A lease, and what it takes to notice its end.
const SILENCE_MS: u64 = 8_000;
/// Messages to three other nodes, and what is said to all of them anew.
const EFFECTS_MAX: usize = 64;

/// A node among others, without a rim.
struct Place {
    presence: Presence,
    viewers: Arc<Viewers>,
    table: Table,
    now: Now,
}

impl Place {
    fn start(name: &NodeName) -> Self {
        let (viewers, table) = (Arc::new(Viewers::new(7)), Table::new(7, limits()));
        let now = Now { monotonic_ms: 1_000, wall_ms: 1_700_000_000_000 };
        let mut presence = Presence::new(name.clone(), 5, PresenceConfig::default(), viewers.clone());
        drop(presence.adopt_layout(&table, now, &layout::example()));
        Self { presence, viewers, table, now }
    }

    fn tick(&mut self) -> Vec<PresenceEffect> {
        self.now.monotonic_ms += TICK_MS;
        self.now.wall_ms += TICK_MS;
        self.presence.handle_tick(&self.table, self.now)
    }

    fn take(&mut self, from: &NodeName, messages: Vec<PresenceMessage>) -> Vec<PresenceEffect> {
        self.presence.handle_messages(&self.table, self.now, from, messages)
    }
}

/// A page that the listener's shard owns.
fn page() -> Key {
    let pages = (0_u32..).map(|number| Key::new(format!("page-{number}").as_bytes()).unwrap());
    pages.into_iter().find(|page| page.slot().index() < 8_192).unwrap()
}

/// What is read encodes to what reads the same. Whatever a node is told, it answers within bounds; and when the others are silent,
/// it knows again what it has itself, and counts nobody else.
pub(crate) fn messages(bytes: &[u8]) {
    let Ok(envelope) = Envelope::<Vec<PresenceMessage>>::decode(bytes) else { return };
    assert_eq!(Envelope::decode(&envelope.encode()).as_ref(), Ok(&envelope));
    let (me, page) = (NodeName::from(ME), page());
    let mut place = Place::start(&me);
    place.presence.set_sessions(&page, 2, place.now);
    drop(place.presence.flush(&place.table, place.now));
    // As whoever it says that it is, and as nodes that are listened to.
    for from in [envelope.header.from, "c-0-1".into(), "c-1-0".into()] {
        let effects = place.take(&from, envelope.body.clone()).len();
        assert!(effects <= EFFECTS_MAX + 4 * envelope.body.len(), "{effects} effects of {} messages", envelope.body.len());
    }
    for _ in 0..SILENCE_MS / TICK_MS {
        let effects = place.tick().len();
        assert!(effects <= EFFECTS_MAX, "a tick has {effects} effects");
    }
    assert_eq!(place.viewers.read(&page).map(|page| page.viewers), Some(2), "its own viewers");
    let all: u64 = Slot::all().filter_map(|slot| place.viewers.total(slot)).sum();
    assert_eq!(all, 2, "viewers of nodes that are silent");
}

/// What three nodes have really said to the listener, some messages of each kind.
pub(crate) fn message_seeds() -> Vec<Vec<u8>> {
    let names = [ME, "c-0-1", "c-1-0"].map(NodeName::from);
    let mut places: Vec<Place> = names.iter().map(Place::start).collect();
    let (mut under_way, mut seeds) = (VecDeque::new(), Vec::<(std::mem::Discriminant<PresenceMessage>, Vec<u8>)>::new());
    for turn in 0..40_u32 {
        for (name, place) in names.iter().zip(&mut places) {
            let (page, now) = (page(), place.now);
            place.presence.set_sessions(&page, turn / 4, now);
            place.presence.name_came(&page, turn.into(), now);
            under_way.extend(place.tick().into_iter().map(|effect| (name.clone(), effect)));
        }
        while let Some((from, effect)) = under_way.pop_front() {
            let PresenceEffect::Send { to, message } = effect else { continue };
            if to.0 == ME {
                let kind = std::mem::discriminant(&message);
                if seeds.iter().filter(|(other, _)| *other == kind).count() < 4 {
                    let envelope = Envelope { header: crate::peer::header_from(&from), body: vec![message.clone()] };
                    seeds.push((kind, envelope.encode()));
                }
            }
            if let Some(place) = names.iter().position(|name| *name == to) {
                let effects = places[place].take(&from, vec![message]);
                under_way.extend(effects.into_iter().map(|effect| (to.clone(), effect)));
            }
        }
    }
    let others = vec![PresenceMessage::Resign { start: 5 }, PresenceMessage::Ask { start: 6 }];
    seeds.into_iter().map(|(_, seed)| seed).chain([Envelope { header: header(), body: others }.encode()]).collect()
}
