//! Small clusters on a network that loses nothing: what holds when nothing goes wrong. The rest is the simulation's.

mod feeds;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use super::*;
use crate::counter::Update;
use crate::id::{ActorId, ClusterId, ShardId};
use crate::layout::{LAYOUT_FORMAT, LayoutVersion, Move, MovePhase, Node, Shard};
use crate::slot::{Slot, SlotRange};
use crate::table::TableLimits;

const LIMITS: TableLimits = TableLimits { counters: 1_000_000, memory_bytes: 1 << 30, tokens: 1_000, token_window_ms: 1_000 };

pub(super) fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

fn name(shard: u16, replica: u16) -> NodeName {
    NodeName::of("c", ShardId(shard), replica)
}

/// Slots in two halves, with so many replicas each; `moved` is the second half's place.
fn layout(version: u64, shards: u16, replicas: u16, moves: Vec<Move>, moved: u16) -> Layout {
    let node = |name: NodeName| Node { name, http: "h:1".into(), admin: "h:1".into(), peer: "h:1".into(), resp: None };
    let (lower, upper): (SlotRange, SlotRange) = ("0-8191".parse().unwrap(), "8192-16383".parse().unwrap());
    let shard = |number: u16| Shard {
        shard: ShardId(number),
        slots: [(0, lower), (moved, upper)].into_iter().filter(|(owner, _)| *owner == number).map(|(_, range)| range).collect(),
        nodes: (0..replicas).map(|replica| node(name(number, replica))).collect(),
    };
    Layout {
        format: LAYOUT_FORMAT,
        cluster: ClusterId(1),
        version: LayoutVersion(version),
        shards: (0..shards).map(shard).collect(),
        moves,
        virtual_shards: Vec::new(),
    }
}

struct Place {
    presence: Presence,
    viewers: Arc<Viewers>,
    table: Table,
    fed: BTreeMap<Key, FeedReading>,
}

struct Cluster {
    now_ms: u64,
    places: BTreeMap<NodeName, Place>,
    on_way: VecDeque<(NodeName, NodeName, PresenceMessage)>,
    sent: u64,
}

impl Cluster {
    fn new(layout: &Layout) -> Self {
        let mut cluster = Self { now_ms: 1_000, places: BTreeMap::new(), on_way: VecDeque::new(), sent: 0 };
        for node in layout.nodes() {
            cluster.start(&node.name, 1);
        }
        cluster.adopt(layout);
        cluster
    }

    fn start(&mut self, name: &NodeName, start: u64) {
        let viewers = Arc::new(Viewers::new(7));
        let presence = Presence::new(name.clone(), start, PresenceConfig::default(), viewers.clone());
        let place = Place { presence, viewers, table: Table::new(7, LIMITS), fed: BTreeMap::new() };
        self.places.insert(name.clone(), place);
    }

    fn now(&self) -> Now {
        Now { monotonic_ms: self.now_ms, wall_ms: self.now_ms }
    }

    fn at(&mut self, name: &NodeName, act: impl FnOnce(&mut Presence, &Table, Now) -> Vec<PresenceEffect>) {
        let now = self.now();
        let Some(place) = self.places.get_mut(name) else { return };
        for effect in act(&mut place.presence, &place.table, now) {
            match effect {
                PresenceEffect::Send { to, message } => {
                    self.sent += 1;
                    self.on_way.push_back((name.clone(), to, message));
                }
                PresenceEffect::Fed { readings, .. } => place.fed.extend(readings),
            }
        }
    }

    fn adopt(&mut self, layout: &Layout) {
        for name in self.names() {
            self.at(&name, |presence, table, now| presence.adopt_layout(table, now, layout));
        }
    }

    fn names(&self) -> Vec<NodeName> {
        self.places.keys().cloned().collect()
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.on_way.pop_front() {
            let bytes = postcard::to_stdvec(&message).unwrap();
            assert!(bytes.len() < 300 << 10, "{} bytes", bytes.len());
            let message = postcard::from_bytes(&bytes).unwrap();
            self.at(&to, |presence, table, now| presence.handle_messages(table, now, &from, vec![message]));
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.now_ms += 50;
            for name in self.names() {
                self.at(&name, |presence, table, now| presence.handle_tick(table, now));
            }
            self.deliver();
        }
    }

    fn set(&mut self, at: &NodeName, page: &str, sessions: u32) {
        self.at(at, |presence, table, now| {
            presence.set_sessions(&key(page), sessions, now);
            presence.flush(table, now)
        });
        self.deliver();
    }

    fn seen(&self, page: &str, shard: u16) -> Vec<Option<u64>> {
        let replicas = self.places.iter().filter(|(name, _)| name.0.starts_with(&format!("c-{shard}-")));
        replicas.map(|(_, place)| place.viewers.read(&key(page)).map(|seen| seen.viewers)).collect()
    }
}

/// A page in the lower half of the slots, and one in the upper.
fn pages() -> (&'static str, &'static str) {
    let of =
        |upper: bool| ["a", "b", "c", "d", "e"].into_iter().find(|page| (key(page).slot().number() >= 8192) == upper).unwrap();
    (of(false), of(true))
}

#[test]
fn a_node_alone_knows_its_viewers_at_once() {
    let mut cluster = Cluster::new(&layout(1, 1, 1, vec![], 0));
    cluster.run(100);
    cluster.set(&name(0, 0), "a", 2);
    assert_eq!(cluster.seen("a", 0), [Some(2)]);
    let place = &cluster.places[&name(0, 0)];
    assert_eq!(place.viewers.total(key("a").slot()), Some(2));
    assert_eq!(place.fed[&key("a")].viewers, 2);
    assert!(cluster.on_way.is_empty());
}

#[test]
fn sessions_on_any_node_are_seen_at_all_replicas_and_told_to_all_watchers() {
    let mut cluster = Cluster::new(&layout(1, 2, 3, vec![], 1));
    cluster.run(200);
    let (lower, _) = pages();
    for (place, sessions) in [((0, 0), 1), ((0, 1), 2), ((1, 2), 4)] {
        cluster.set(&name(place.0, place.1), lower, sessions);
    }
    cluster.at(&name(1, 0), |presence, table, now| {
        presence.set_watched(&key(lower), true);
        presence.flush(table, now)
    });
    cluster.run(200);
    assert_eq!(cluster.seen(lower, 0), [Some(7); 3]);
    assert_eq!(cluster.seen(lower, 1), [None; 3], "its slot is not theirs");
    for watcher in [(0, 0), (0, 1), (1, 2), (1, 0)] {
        assert_eq!(cluster.places[&name(watcher.0, watcher.1)].fed[&key(lower)].viewers, 7, "{watcher:?}");
    }
    cluster.set(&name(1, 2), lower, 0);
    cluster.run(100);
    assert_eq!(cluster.seen(lower, 0), [Some(3); 3]);
}

#[test]
fn a_tally_that_changes_is_told_to_watchers() {
    let mut cluster = Cluster::new(&layout(1, 1, 3, vec![], 0));
    cluster.run(200);
    let watcher = name(0, 1);
    cluster.set(&watcher, "a", 1);
    let feeder = cluster.places[&watcher].presence.owner.watchers.in_slot(key("a").slot());
    assert_eq!(feeder.len(), 1, "a replica feeds itself");
    let place = cluster.places.get_mut(&watcher).unwrap();
    place.table.set_writer(Slot::all(), Some(ActorId { origin: 1, incarnation: 1 }));
    place.table.apply(&key("a"), Update::Increment(5), None, crate::hlc::Hlc(9)).unwrap();
    assert!(place.viewers.is_watched(key("a").slot()));
    place.presence.changed([&key("a")]);
    cluster.run(100);
    let reading = cluster.places[&watcher].fed[&key("a")];
    assert_eq!((reading.tally, reading.viewers), (5, 1));
}

#[test]
fn a_dead_gateway_is_counted_for_its_lease_and_a_leaving_one_is_not() {
    let mut cluster = Cluster::new(&layout(1, 2, 2, vec![], 1));
    cluster.run(200);
    let (lower, _) = pages();
    cluster.set(&name(1, 0), lower, 3);
    cluster.set(&name(1, 1), lower, 4);
    cluster.run(1_000);
    cluster.places.remove(&name(1, 0));
    cluster.run(3_000);
    assert_eq!(cluster.seen(lower, 0), [Some(7); 2]);
    cluster.run(2_100);
    assert_eq!(cluster.seen(lower, 0), [Some(4); 2]);
    cluster.at(&name(1, 1), |presence, table, now| presence.farewell(table, now));
    cluster.deliver();
    assert_eq!(cluster.seen(lower, 0), [Some(0); 2]);
    // The other replica of its own shard is dead: nothing awaits that for longer than a lease.
    assert!(!cluster.places[&name(1, 1)].presence.has_left(cluster.now()));
    cluster.run(5_000);
    assert!(cluster.places[&name(1, 1)].presence.has_left(cluster.now()));
}

#[test]
fn a_replica_that_starts_anew_knows_nothing_until_it_knows_all() {
    let mut cluster = Cluster::new(&layout(1, 2, 2, vec![], 1));
    cluster.run(200);
    let (lower, _) = pages();
    for gateway in [(0, 0), (1, 0), (1, 1)] {
        cluster.set(&name(gateway.0, gateway.1), lower, 2);
    }
    cluster.run(200);
    cluster.start(&name(0, 1), 2);
    let whole = layout(1, 2, 2, vec![], 1);
    cluster.at(&name(0, 1), |presence, table, now| presence.adopt_layout(table, now, &whole));
    assert_eq!(cluster.seen(lower, 0), [Some(6), None]);
    cluster.run(150);
    // Its own former start is still under its lease at the sibling: what that had here is not known otherwise.
    assert_eq!(cluster.seen(lower, 0), [Some(6), Some(6)]);
}

/// Others may not find the way to a process that has just started, as long as its name leads to where the one before was; and its first
/// question may be lost.
#[test]
fn a_replica_that_hears_others_by_their_answers_alone_takes_none_of_them_for_dead() {
    let mut cluster = Cluster::new(&layout(1, 2, 2, vec![], 1));
    cluster.run(200);
    let (lower, _) = pages();
    for gateway in [(0, 0), (1, 0), (1, 1)] {
        cluster.set(&name(gateway.0, gateway.1), lower, 2);
    }
    cluster.run(200);
    let started = name(0, 1);
    cluster.start(&started, 2);
    let whole = layout(1, 2, 2, vec![], 1);
    cluster.at(&started, |presence, table, now| presence.adopt_layout(table, now, &whole));
    cluster.on_way.clear();
    // Longer than a lease since it has started, and not yet one since they have answered.
    for _ in 0..5_800 / 50 {
        cluster.now_ms += 50;
        for name in cluster.names() {
            cluster.at(&name, |presence, table, now| presence.handle_tick(table, now));
        }
        cluster.on_way.retain(|(from, to, _)| *to != started || *from == started);
        while let Some((from, to, message)) = cluster.on_way.pop_front() {
            let others = cluster.on_way.len();
            cluster.at(&to, |presence, table, now| presence.handle_messages(table, now, &from, vec![message]));
            let said = cluster.on_way.split_off(others);
            cluster.on_way.extend(said.into_iter().filter(|(_, to, _)| *to != started || from == started));
        }
        assert!(matches!(cluster.seen(lower, 0)[1], None | Some(6)), "{:?} at {} ms", cluster.seen(lower, 0), cluster.now_ms);
    }
    assert_eq!(cluster.seen(lower, 0)[1], Some(6));
    cluster.run(10_000);
    assert_eq!(cluster.seen(lower, 0)[1], Some(6));
}

#[test]
fn slots_that_move_are_known_before_and_after() {
    let mut cluster = Cluster::new(&layout(1, 2, 2, vec![], 0));
    cluster.run(200);
    let (_, upper) = pages();
    for (number, gateway) in [(0, 0), (1, 0), (1, 1)].into_iter().enumerate() {
        cluster.set(&name(gateway.0, gateway.1), upper, u32::try_from(number).unwrap() + 1);
    }
    assert_eq!((cluster.seen(upper, 0), cluster.seen(upper, 1)), (vec![Some(6); 2], vec![None; 2]));
    let half = || vec!["8192-16383".parse().unwrap()];
    let moving = |phase| vec![Move { from: ShardId(0), to: ShardId(1), slots: half(), phase }];
    cluster.adopt(&layout(2, 2, 2, moving(MovePhase::Copying), 0));
    cluster.run(150);
    assert_eq!((cluster.seen(upper, 0), cluster.seen(upper, 1)), (vec![Some(6); 2], vec![Some(6); 2]));
    cluster.adopt(&layout(3, 2, 2, moving(MovePhase::Flipped), 1));
    cluster.set(&name(0, 0), upper, 5);
    cluster.run(100);
    assert_eq!(cluster.seen(upper, 1), [Some(10); 2]);
    cluster.adopt(&layout(4, 2, 2, vec![], 1));
    cluster.run(150);
    assert_eq!((cluster.seen(upper, 0), cluster.seen(upper, 1)), (vec![None; 2], vec![Some(10); 2]));
    let top = cluster.places[&name(1, 1)].viewers.top(3, b"");
    assert_eq!(top, [(key(upper), 10)]);
    assert!(cluster.places[&name(0, 1)].viewers.top(3, b"").is_empty());
}

#[test]
fn a_long_ledger_goes_out_in_parts_and_is_seen_as_a_whole() {
    let mut cluster = Cluster::new(&layout(1, 2, 1, vec![], 0));
    cluster.run(200);
    let gateway = name(1, 0);
    let pages: Vec<Key> = (0..20_000).map(|number| key(&format!("page-{number}"))).collect();
    cluster.at(&gateway, |presence, table, now| {
        pages.iter().for_each(|page| presence.set_sessions(page, 1, now));
        presence.flush(table, now)
    });
    cluster.deliver();
    let viewers = &cluster.places[&name(0, 0)].viewers;
    assert_eq!(Slot::all().map(|slot| viewers.total(slot).unwrap()).sum::<u64>(), 20_000);
    assert_eq!(viewers.top(2, b"page-1999"), [(key("page-1999"), 1), (key("page-19990"), 1)]);
}

#[test]
fn a_lease_of_many_pages_ends_step_by_step_and_nothing_comes_in_between() {
    let mut cluster = Cluster::new(&layout(1, 2, 1, vec![], 0));
    cluster.run(200);
    let (gateway, owner) = (name(1, 0), name(0, 0));
    let pages: Vec<Key> = (0..20_000).map(|number| key(&format!("page-{number}"))).collect();
    cluster.at(&gateway, |presence, table, now| {
        pages.iter().for_each(|page| presence.set_sessions(page, 1, now));
        presence.flush(table, now)
    });
    cluster.run(2_000);
    let total = |cluster: &Cluster| -> u64 {
        let viewers = &cluster.places[&owner].viewers;
        Slot::all().map(|slot| viewers.total(slot).unwrap()).sum()
    };
    let is_ending = |cluster: &Cluster| cluster.places[&owner].presence.is_ending();
    // It is cut off, and back when its lease has just ended.
    let cut = cluster.places.remove(&gateway).unwrap();
    while total(&cluster) == 20_000 {
        cluster.run(50);
    }
    let left = 20_000 - PresenceConfig::default().ended_max as u64;
    assert_eq!((total(&cluster), is_ending(&cluster)), (left, true));
    cluster.places.insert(gateway.clone(), cut);
    cluster.at(&gateway, |presence, table, now| presence.handle_tick(table, now));
    cluster.deliver();
    assert_eq!((total(&cluster), is_ending(&cluster)), (left, true), "what it has would be taken off with what it had");
    cluster.at(&owner, |presence, table, now| presence.go_on(table, now));
    assert_eq!((total(&cluster), is_ending(&cluster)), (0, false));
    let watched = pages.iter().filter(|page| cluster.places[&owner].viewers.is_watched(page.slot())).count();
    assert_eq!(watched, 0);
    cluster.run(3_000);
    assert_eq!((total(&cluster), is_ending(&cluster)), (20_000, false));
}

#[test]
fn who_differs_begins_anew() {
    let mut cluster = Cluster::new(&layout(1, 2, 1, vec![], 0));
    cluster.run(200);
    let (gateway, owner) = (name(1, 0), name(0, 0));
    cluster.set(&gateway, "a", 3);
    // A change that the gateway knows nothing of.
    let id = cluster.places[&gateway].presence.id().clone();
    let place = cluster.places.get_mut(&owner).unwrap();
    let number = place.presence.owner.known(&id).unwrap();
    let held = &mut place.presence.owner.gateways.get_mut(&number).unwrap().copies;
    let reached = held.reached().unwrap();
    let change = Change { sequence: reached.upto, key: key("b"), state: PageState { sessions: 9, ..PageState::default() } };
    let delta = Delta { base: reached.base, after: 0, upto: reached.upto + 1, head: reached.upto + 9, changes: vec![change] };
    held.take(delta, LayoutVersion(1), 9);
    cluster.run(50);
    cluster.set(&gateway, "c", 1);
    cluster.set(&gateway, "c", 2);
    cluster.run(2_000);
    let place = &cluster.places[&owner];
    let (ledger, _) = place.presence.owner.gateways[&number].copies.shown().unwrap();
    assert!(ledger.get(&(key("b").slot(), key("b"))).is_none());
    assert_eq!(ledger.len(), 2);
}

#[test]
fn a_quiet_cluster_says_little() {
    let mut cluster = Cluster::new(&layout(1, 2, 3, vec![], 1));
    cluster.run(6_000);
    let before = cluster.sent;
    cluster.run(10_000);
    let per_second = (cluster.sent - before) / 10;
    // 6 nodes each renew at 5 others, which answer; 6 tell 2 siblings at most each 100 ms.
    assert!(per_second <= 60 + 120, "{per_second} messages a second");
}

#[test]
fn unique_viewers_are_people_and_not_tabs() {
    let mut cluster = Cluster::new(&layout(1, 2, 2, vec![], 0));
    cluster.run(200);
    let unique = |cluster: &Cluster| cluster.places[&name(0, 1)].viewers.unique(&key("a")).unwrap();
    assert_eq!(unique(&cluster), (0, false));
    for gateway in [name(0, 0), name(1, 0)] {
        cluster.at(&gateway, |presence, table, now| {
            presence.set_sessions(&key("a"), 3, now);
            [7, 7].into_iter().for_each(|user| presence.name_came(&key("a"), user, now));
            presence.flush(table, now)
        });
    }
    cluster.deliver();
    assert_eq!(unique(&cluster), (3, false), "one person in four tabs, and two sessions without a name");
    cluster.at(&name(1, 0), |presence, table, now| {
        presence.set_sessions(&key("a"), 1_000, now);
        (0..1_000_u64).for_each(|user| presence.name_came(&key("a"), user.wrapping_mul(0x9e37_79b9_7f4a_7c15), now));
        presence.flush(table, now)
    });
    cluster.run(1_200);
    let (people, is_estimate) = unique(&cluster);
    assert!(is_estimate && people.abs_diff(1_001) < 100, "{people}");
    cluster.set(&name(1, 0), "a", 0);
    cluster.run(100);
    assert_eq!(unique(&cluster), (2, false));
}

#[test]
fn nobody_tells_a_node_that_it_is_gone() {
    let mut cluster = Cluster::new(&layout(1, 1, 2, vec![], 0));
    cluster.run(200);
    cluster.set(&name(0, 0), "a", 2);
    let gateway = cluster.places[&name(0, 0)].presence.id().clone();
    let gone = Heard { gateway, renewal: 1, age_ms: 0, reached: None, gone: true };
    let message = PresenceMessage::Heard(vec![gone]);
    cluster.at(&name(0, 0), |presence, table, now| presence.handle_messages(table, now, &name(0, 1), vec![message]));
    cluster.run(100);
    assert_eq!(cluster.seen("a", 0), [Some(2); 2]);
}

#[test]
fn a_page_that_everyone_has_left_keeps_that_moment_for_a_while() {
    let mut cluster = Cluster::new(&layout(1, 1, 1, vec![], 0));
    cluster.run(100);
    for sessions in [1, 0, 2, 0] {
        cluster.run(50);
        cluster.set(&name(0, 0), "a", sessions);
    }
    let left = PageViewers { viewers: 0, changed_at: Some(crate::hlc::Hlc::from_wall_ms(cluster.now_ms)) };
    let read = |cluster: &Cluster| cluster.places[&name(0, 0)].viewers.read(&key("a")).unwrap();
    cluster.run(50_000);
    assert_eq!(read(&cluster), left);
    assert_eq!(cluster.places[&name(0, 0)].presence.owner.left.len(), 1);
    cluster.run(11_000);
    assert_eq!(read(&cluster), PageViewers::default());
}

/// Messages of each kind, as a busy cluster has sent them to one of its nodes.
fn messages_to(to: &NodeName) -> Vec<(NodeName, Vec<u8>)> {
    let mut cluster = Cluster::new(&layout(1, 2, 2, vec![], 1));
    let mut heard = Vec::new();
    for round in 0..40_u32 {
        cluster.now_ms += 50;
        for name in cluster.names() {
            cluster.at(&name, |presence, table, now| {
                presence.set_sessions(&key(["a", "b", "c", "d"][round as usize % 4]), round % 5, now);
                presence.name_came(&key("a"), u64::from(round), now);
                presence.handle_tick(table, now)
            });
        }
        let sent = cluster.on_way.iter().filter(|(_, receiver, _)| receiver == to);
        heard.extend(sent.map(|(from, _, message)| (from.clone(), postcard::to_stdvec(message).unwrap())));
        if round == 20 {
            // Somebody has missed something, and asks for it.
            cluster.on_way.clear();
        }
        cluster.deliver();
    }
    heard
}

static HEARD: OnceLock<Vec<(NodeName, Vec<u8>)>> = OnceLock::new();

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(40))]

    /// Peers prove that they are peers, and may be broken or of another release.
    #[test]
    fn garbled_messages_leave_sums_that_are_right(
        garbles in proptest::collection::vec((proptest::prelude::any::<usize>(), proptest::prelude::any::<usize>(), proptest::prelude::any::<u8>()), 1..200)
    ) {
        let me = name(0, 0);
        let heard = HEARD.get_or_init(|| messages_to(&me));
        let mut cluster = Cluster::new(&layout(1, 2, 2, vec![], 1));
        cluster.run(100);
        for (message, place, byte) in garbles {
            let (from, mut bytes) = heard[message % heard.len()].clone();
            let place = place % bytes.len();
            bytes[place] = byte;
            let Ok(message) = postcard::from_bytes::<PresenceMessage>(&bytes) else { continue };
            cluster.at(&me, |presence, table, now| presence.handle_messages(table, now, &from, vec![message]));
            cluster.now_ms += 20;
            cluster.at(&me, |presence, table, now| presence.handle_tick(table, now));
        }
        let place = &cluster.places[&me];
        let top: u64 = place.viewers.top(1_000, b"").iter().map(|(_, viewers)| viewers).sum();
        let total: u64 = Slot::all().filter(|slot| place.viewers.is_owned(*slot)).filter_map(|slot| place.viewers.total(slot)).sum();
        if place.presence.status().complete {
            proptest::prop_assert_eq!(top, total);
        }
        // Nothing of it outlives its lease.
        cluster.now_ms += 60;
        cluster.at(&me, |presence, table, now| presence.handle_tick(table, now));
        for _ in 0..200 {
            cluster.now_ms += 50;
            cluster.at(&me, |presence, table, now| presence.handle_tick(table, now));
        }
        proptest::prop_assert!(cluster.places[&me].viewers.top(1, b"").is_empty());
        proptest::prop_assert_eq!(cluster.places[&me].presence.status().gateways, 1);
    }
}

#[test]
fn what_is_told_is_known_at_every_replica_that_answers() {
    let layout = layout(1, 2, 2, vec![], 1);
    let mut cluster = Cluster::new(&layout);
    cluster.run(2_000);
    let (gateway, page) = (name(0, 0), key("a"));
    let before = cluster.places[&gateway].presence.mark();
    let now = cluster.now();
    assert!(cluster.places[&gateway].presence.is_told(before, now));
    cluster.at(&gateway, |presence, table, now| {
        presence.set_sessions(&page, 1, now);
        presence.flush(table, now)
    });
    let mark = cluster.places[&gateway].presence.mark();
    let is_told = |cluster: &Cluster, mark, now| cluster.places[&gateway].presence.is_told(mark, now);
    assert!(mark > before && !is_told(&cluster, mark, now));
    // All messages but those to one replica, which is not waited for when it has been silent for a while.
    let dead = name(u16::from(layout.owner(page.slot()).unwrap().shard != ShardId(0)), 1);
    cluster.places.remove(&dead);
    cluster.run(500);
    let now = cluster.now();
    assert!(!is_told(&cluster, mark, now));
    cluster.run(3_000);
    let now = cluster.now();
    assert!(is_told(&cluster, mark, now));
}
