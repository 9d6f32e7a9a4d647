use super::*;
use crate::hlc::Hlc;
use crate::id::{ClusterId, ShardId};
use crate::layout::{LAYOUT_FORMAT, Node, Shard};

const GATEWAY: ActorId = ActorId { origin: 1, incarnation: 1 };
const REPLICA: ActorId = ActorId { origin: 2, incarnation: 1 };
const READING: Reading = Reading { tally: 1, updated_at: Some(Hlc(9)), exists: true, viewers: 0 };

fn node(name: &str) -> Node {
    let address = format!("{name}:1");
    Node { name: name.into(), http: address.clone(), admin: address.clone(), peer: address, resp: None }
}

/// Shard 0 is the gateway `g` with no slots, shard 1 owns them all.
fn layout(version: u64, owners: &[&str]) -> Layout {
    let shard = |shard, slots: &[&str], nodes: &[&str]| Shard {
        shard: ShardId(shard),
        slots: slots.iter().map(|range| range.parse().unwrap()).collect(),
        nodes: nodes.iter().map(|name| node(name)).collect(),
    };
    let shards = vec![shard(0, &[], &["g"]), shard(1, &["0-16383"], owners)];
    Layout {
        format: LAYOUT_FORMAT,
        cluster: ClusterId(1),
        version: LayoutVersion(version),
        shards,
        moves: vec![],
        virtual_shards: vec![],
    }
}

fn forwarder(owners: &[&str]) -> Forwarder {
    let mut forwarder = Forwarder::new(GATEWAY, "g".into(), ForwardConfig::default());
    forwarder.handle_layout(0, &layout(1, owners));
    forwarder
}

fn key() -> Key {
    Key::new(b"page").unwrap()
}

fn sent(effects: Vec<ForwardEffect>) -> Vec<(NodeName, ForwardRequest)> {
    effects
        .into_iter()
        .map(|effect| match effect {
            ForwardEffect::Send { to, request } => (to, request),
            other => panic!("expected only messages, got {other:?}"),
        })
        .collect()
}

fn outcomes(effects: Vec<ForwardEffect>) -> Vec<(u64, Outcome)> {
    effects
        .into_iter()
        .map(|effect| match effect {
            ForwardEffect::Complete { ticket, outcome } => (ticket.0, outcome),
            other => panic!("expected only outcomes, got {other:?}"),
        })
        .collect()
}

fn reply(request: &ForwardRequest, answer: Answer) -> ForwardReply {
    ForwardReply { message: request.message, layout: None, answer }
}

/// Answers the question for a session, and returns what is sent then.
fn open(forwarder: &mut Forwarder, now_ms: u64, inbox: &mut ForwardInbox) -> Vec<(NodeName, ForwardRequest)> {
    let (_, request) = sent(forwarder.poll(now_ms)).remove(0);
    assert_eq!(request.ask, Ask::Open);
    let Received::Answer(answer) = inbox.receive(request.clone()) else { panic!("opening applies nothing") };
    forwarder.handle_reply(now_ms, reply(&request, answer));
    sent(forwarder.poll(now_ms))
}

fn inbox() -> ForwardInbox {
    ForwardInbox::new(REPLICA, InboxConfig::default())
}

fn submit(forwarder: &mut Forwarder, now_ms: u64, tickets: std::ops::Range<u64>) {
    for ticket in tickets {
        forwarder.submit(now_ms, key(), Attempt::new(Update::Increment(1), None), Ticket(ticket));
    }
}

fn updates_of(request: &ForwardRequest) -> usize {
    match &request.ask {
        Ask::Apply { updates, .. } => updates.len(),
        Ask::Open | Ask::Read { .. } => 0,
    }
}

/// A forwarder with one update under way to the sticky replica.
fn one_under_way(owners: &[&str]) -> (Forwarder, ForwardInbox, NodeName, ForwardRequest) {
    let (mut forwarder, mut inbox) = (forwarder(owners), inbox());
    submit(&mut forwarder, 0, 0..1);
    let (to, request) = open(&mut forwarder, 0, &mut inbox).remove(0);
    (forwarder, inbox, to, request)
}

#[test]
fn updates_of_one_counter_share_a_message_and_each_has_its_own_reply() {
    let (mut forwarder, mut inbox) = (forwarder(&["a"]), inbox());
    submit(&mut forwarder, 0, 0..3);
    let messages = open(&mut forwarder, 0, &mut inbox);
    assert_eq!(messages.iter().map(|(_, request)| updates_of(request)).collect::<Vec<_>>(), [3]);
    let at = |tally| ItemResult::Done(Reading { tally, ..READING });
    forwarder.handle_reply(1, reply(&messages[0].1, Answer::Results(vec![at(1), at(2), at(3)])));
    let tallies = outcomes(forwarder.poll(1)).into_iter().map(|(ticket, outcome)| match outcome {
        Outcome::Done(reading) => (ticket, reading.tally),
        other => panic!("{other:?}"),
    });
    assert_eq!(tallies.collect::<Vec<_>>(), [(0, 1), (1, 2), (2, 3)]);
}

#[test]
fn with_two_messages_under_way_updates_are_collected_until_a_reply() {
    let (mut forwarder, _, _, first) = one_under_way(&["a"]);
    submit(&mut forwarder, 0, 1..2);
    assert_eq!(sent(forwarder.poll(0)).len(), 1, "a second goes at once");
    submit(&mut forwarder, 0, 2..9);
    assert_eq!(forwarder.poll(0), []);
    forwarder.handle_reply(1, reply(&first, Answer::Results(vec![ItemResult::Done(READING)])));
    let mut effects = forwarder.poll(1);
    assert_eq!(outcomes(effects.drain(..1).collect()), [(0, Outcome::Done(READING))]);
    assert_eq!(updates_of(&sent(effects)[0].1), 7);
}

#[test]
fn after_a_message_of_many_what_comes_is_gathered_for_a_moment_or_until_a_reply() {
    let few = ForwardConfig::default().few_items;
    let gather_ms = ForwardConfig::default().gather_ms;
    let sends = |effects: Vec<ForwardEffect>| {
        sent(effects.into_iter().filter(|effect| matches!(effect, ForwardEffect::Send { .. })).collect())
    };
    let (mut forwarder, _, _, first) = one_under_way(&["a"]);
    submit(&mut forwarder, 0, 1..2);
    let second = sends(forwarder.poll(0)).remove(0).1;
    submit(&mut forwarder, 0, 2..3 + u64::try_from(few).unwrap());
    forwarder.handle_reply(1, reply(&first, Answer::Results(vec![ItemResult::Done(READING)])));
    forwarder.handle_reply(1, reply(&second, Answer::Results(vec![ItemResult::Done(READING)])));
    let many = sends(forwarder.poll(1)).remove(0).1;
    assert_eq!(updates_of(&many), 1 + few);

    submit(&mut forwarder, 1, 20..22);
    assert_eq!(sends(forwarder.poll(gather_ms)), []);
    assert_eq!(forwarder.next_wakeup_ms(), Some(1 + gather_ms));
    let gathered = sends(forwarder.poll(1 + gather_ms)).remove(0).1;
    assert_eq!(updates_of(&gathered), 2);
    // Few again: the next need not wait, but for its place.
    forwarder.handle_reply(4, reply(&many, Answer::Results(vec![ItemResult::Done(READING); 1 + few])));
    submit(&mut forwarder, 4, 30..31);
    assert_eq!(sends(forwarder.poll(4)).len(), 1);
}

#[test]
fn a_counter_sticks_to_one_replica_and_counters_spread() {
    let mut chosen = std::collections::BTreeSet::new();
    for name in 0..20 {
        let key = Key::new(format!("page-{name}").as_bytes()).unwrap();
        let target = |ticket| {
            let mut forwarder = forwarder(&["a", "b", "c"]);
            forwarder.submit(0, key.clone(), Attempt::new(Update::Increment(1), None), Ticket(ticket));
            sent(forwarder.poll(0)).remove(0).0
        };
        assert_eq!(target(1), target(2));
        chosen.insert(target(3));
    }
    assert_eq!(chosen.len(), 3);
}

#[test]
fn what_was_not_sent_goes_to_another_replica() {
    let (mut forwarder, _, to, request) = one_under_way(&["a", "b"]);
    forwarder.handle_failure(1, request.message, Failure::NotSent);
    let (other, request) = sent(forwarder.poll(1)).remove(0);
    assert_eq!((request.ask, other != to), (Ask::Open, true));
}

#[test]
fn what_may_have_arrived_is_repeated_to_the_same_process_only_and_then_unknown() {
    let (mut forwarder, _, to, first) = one_under_way(&["a", "b"]);
    for _ in 1..ForwardConfig::default().attempts_max {
        forwarder.handle_failure(0, first.message, Failure::Lost);
        assert_eq!(forwarder.poll(0), []);
        let due_ms = forwarder.next_wakeup_ms().unwrap();
        assert_eq!(sent(forwarder.poll(due_ms)), [(to.clone(), first.clone())]);
    }
    forwarder.handle_failure(0, first.message, Failure::Lost);
    assert_eq!(outcomes(forwarder.poll(0)), [(0, Outcome::Unknown)]);
}

#[test]
fn a_process_started_anew_refuses_a_repetition_and_the_client_hears_unknown() {
    let (mut forwarder, _, _, first) = one_under_way(&["a", "b"]);
    forwarder.handle_failure(0, first.message, Failure::Lost);
    let (_, again) = sent(forwarder.poll(60)).remove(0);
    let mut restarted = ForwardInbox::new(ActorId { incarnation: 2, ..REPLICA }, InboxConfig::default());
    let Received::Answer(answer) = restarted.receive(again.clone()) else { panic!("must not apply") };
    forwarder.handle_reply(60, reply(&again, answer));
    assert_eq!(outcomes(forwarder.poll(60)), [(0, Outcome::Unknown)]);
}

#[test]
fn a_process_started_anew_refuses_a_first_copy_and_it_is_sent_again_in_a_new_session() {
    let (mut forwarder, _, _, first) = one_under_way(&["a"]);
    let mut restarted = ForwardInbox::new(ActorId { incarnation: 2, ..REPLICA }, InboxConfig::default());
    let Received::Answer(answer) = restarted.receive(first.clone()) else { panic!("must not apply") };
    forwarder.handle_reply(0, reply(&first, answer));
    let messages = open(&mut forwarder, 0, &mut restarted);
    assert!(matches!(restarted.receive(messages[0].1.clone()), Received::Apply { .. }));
}

#[test]
fn a_replica_that_has_not_applied_is_passed_over() {
    let (mut forwarder, _, to, first) = one_under_way(&["a", "b"]);
    let refused = ItemResult::NotApplied(NotApplied::ReadOnly);
    forwarder.handle_reply(0, reply(&first, Answer::Results(vec![refused])));
    let (other, _) = sent(forwarder.poll(0)).remove(0);
    assert_ne!(other, to);
    submit(&mut forwarder, 0, 5..6);
    assert_eq!(forwarder.poll(0), [], "the next update waits for the other replica's session");
}

#[test]
fn when_nobody_applies_the_client_hears_why_in_bounded_time() {
    let (mut forwarder, _, _, first) = one_under_way(&["a"]);
    let refused = |request: &ForwardRequest| reply(request, Answer::Results(vec![ItemResult::NotApplied(NotApplied::ReadOnly)]));
    forwarder.handle_reply(0, refused(&first));
    let mut now_ms = 0;
    let outcome = loop {
        assert!(now_ms <= ForwardConfig::default().total_timeout_ms, "too late");
        now_ms = forwarder.next_wakeup_ms().unwrap().max(now_ms);
        match forwarder.poll(now_ms).pop() {
            Some(ForwardEffect::Send { request, .. }) => forwarder.handle_reply(now_ms, refused(&request)),
            Some(ForwardEffect::Complete { outcome, .. }) => break outcome,
            Some(ForwardEffect::Local { .. }) | None => now_ms += 1,
        }
    };
    assert_eq!(outcome, Outcome::NotApplied(NotApplied::ReadOnly));
}

#[test]
fn a_refusal_for_good_is_passed_on() {
    let (mut forwarder, _, _, first) = one_under_way(&["a", "b"]);
    let refusal = Refusal::TooManyCounters { limit: 5 };
    forwarder.handle_reply(0, reply(&first, Answer::Results(vec![refusal.into()])));
    assert_eq!(outcomes(forwarder.poll(0)), [(0, Outcome::Refused(refusal))]);
}

#[test]
fn reads_are_tried_at_any_replica() {
    let mut forwarder = forwarder(&["a", "b"]);
    forwarder.submit_read(0, key(), Ticket(1));
    let (first, request) = sent(forwarder.poll(0)).remove(0);
    forwarder.handle_failure(1, request.message, Failure::Lost);
    let (second, request) = sent(forwarder.poll(1)).remove(0);
    assert_ne!(first, second);
    forwarder.handle_reply(2, reply(&request, Answer::Results(vec![ItemResult::Done(READING)])));
    assert_eq!(outcomes(forwarder.poll(2)), [(1, Outcome::Done(READING))]);
}

#[test]
fn a_new_layout_takes_what_was_not_sent_along() {
    let (mut forwarder, ..) = one_under_way(&["a"]);
    submit(&mut forwarder, 0, 1..2);
    assert_eq!(sent(forwarder.poll(0)).len(), 1);
    submit(&mut forwarder, 0, 2..3);
    forwarder.handle_layout(1, &layout(2, &["b"]));
    assert_eq!(sent(forwarder.poll(1)).remove(0).0, "b".into());
}

#[test]
fn what_comes_to_this_node_by_a_new_layout_is_done_here() {
    let (mut forwarder, ..) = one_under_way(&["a"]);
    submit(&mut forwarder, 0, 1..3);
    forwarder.poll(0);
    submit(&mut forwarder, 0, 3..4);
    let mut moved = layout(2, &["a"]);
    moved.shards[0].slots = std::mem::take(&mut moved.shards[1].slots);
    forwarder.handle_layout(1, &moved);
    let local = ForwardEffect::Local {
        ticket: Ticket(3),
        key: key(),
        operation: Operation::Update(Attempt::new(Update::Increment(1), None)),
    };
    assert_eq!(forwarder.poll(1), [local]);
}

#[test]
fn a_full_queue_refuses() {
    let config = ForwardConfig { queue_max: 2, ..ForwardConfig::default() };
    let mut forwarder = Forwarder::new(GATEWAY, "g".into(), config);
    forwarder.handle_layout(0, &layout(1, &["a"]));
    submit(&mut forwarder, 0, 0..3);
    let mut effects = forwarder.poll(0);
    assert_eq!(effects.len(), 2, "a refusal, and the question for a session");
    effects.truncate(1);
    assert_eq!(outcomes(effects), [(2, Outcome::NotApplied(NotApplied::Overloaded))]);
}

#[test]
fn what_was_never_sent_is_certainly_not_applied_when_time_is_over() {
    let mut forwarder = forwarder(&["a"]);
    submit(&mut forwarder, 0, 0..1);
    let mut now_ms = 0;
    let mut completed = Vec::new();
    while let Some(wakeup_ms) = forwarder.next_wakeup_ms() {
        now_ms = wakeup_ms.max(now_ms + 1);
        let effects = forwarder.poll(now_ms);
        completed.extend(effects.into_iter().filter(|effect| matches!(effect, ForwardEffect::Complete { .. })));
    }
    assert_eq!(outcomes(completed), [(0, Outcome::NotApplied(NotApplied::Unreachable))]);
}

#[test]
fn an_inbox_applies_a_message_once_and_repeats_its_answer() {
    let (_, mut inbox, _, request) = one_under_way(&["a"]);
    let Received::Apply { session, message, .. } = inbox.receive(request.clone()) else { panic!("must apply") };
    assert_eq!(inbox.receive(request.clone()), Received::Answer(Answer::InProgress));
    let answer = inbox.finish(GATEWAY, session, message, vec![ItemResult::Done(READING)]);
    assert_eq!(inbox.receive(request), Received::Answer(answer));
}

#[test]
fn an_inbox_refuses_what_lies_below_the_floor() {
    let (_, mut inbox, _, request) = one_under_way(&["a"]);
    let Ask::Apply { session, updates, .. } = request.ask.clone() else { panic!("an update") };
    let later = MessageId(request.message.0 + 5);
    let ask = Ask::Apply { session, floor: later, updates };
    assert!(matches!(inbox.receive(ForwardRequest { message: later, ask, ..request.clone() }), Received::Apply { .. }));
    assert_eq!(inbox.receive(request), Received::Answer(Answer::Forgotten));
}

#[test]
fn an_inbox_that_has_forgotten_a_forwarder_refuses_it() {
    let (_, _, _, request) = one_under_way(&["a"]);
    let mut small = ForwardInbox::new(REPLICA, InboxConfig { sessions_max: 1, messages_max: 1 });
    for forwarder in [GATEWAY, ActorId { origin: 7, incarnation: 1 }] {
        small.receive(ForwardRequest { forwarder, ask: Ask::Open, ..request.clone() });
    }
    assert_eq!(small.receive(request), Received::Answer(Answer::Forgotten));
}

#[test]
fn beyond_its_window_an_inbox_refuses_instead_of_applying_again() {
    let (_, _, _, request) = one_under_way(&["a"]);
    let mut small = ForwardInbox::new(REPLICA, InboxConfig { sessions_max: 1, messages_max: 1 });
    let Received::Answer(Answer::Opened(session)) = small.receive(ForwardRequest { ask: Ask::Open, ..request.clone() }) else {
        panic!("opening answers at once")
    };
    let numbered = |id| ForwardRequest {
        message: MessageId(id),
        ask: Ask::Apply { session, floor: MessageId(1), updates: vec![] },
        ..request.clone()
    };
    assert!(matches!(small.receive(numbered(1)), Received::Apply { .. }));
    assert!(matches!(small.receive(numbered(2)), Received::Apply { .. }));
    assert_eq!(small.receive(numbered(1)), Received::Answer(Answer::Forgotten));
}
