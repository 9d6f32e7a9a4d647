//! What holds of one node's orphans, and of a small world of a stopping gateway, heirs and clients, whatever happens in which order.

use proptest::prelude::*;

use super::*;

const GRACE_MS: u64 = 10_000;

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

fn secret() -> ResumeKey {
    ResumeKey::new([3; 32])
}

fn bequest(gateway: u64, viewers: &[(&str, u64)]) -> Bequest {
    let pages = viewers.iter().map(|(page, number)| (key(page), vec![(*number, Some(*number))])).collect();
    Bequest { gateway, key: secret(), grace_ms: GRACE_MS, pages }
}

fn resumption(gateway: u64, number: u64, page: &str) -> Resumption {
    (secret().token(gateway, number), key(page))
}

#[test]
fn an_orphan_counts_until_it_resumes_or_the_grace_is_over() {
    let mut orphans = Orphans::default();
    let came = orphans.inherit(bequest(1, &[("a", 1), ("b", 1), ("a", 2)]), 0).unwrap();
    assert_eq!(came, [(key("a"), Some(1)), (key("b"), Some(1)), (key("a"), Some(2))]);
    assert_eq!(orphans.inherit(bequest(1, &[("a", 1)]), 0).unwrap(), [], "twice is once");
    assert_eq!(orphans.resume(&resumption(1, 1, "a")), Resumed::Ended(Some(1)));
    assert_eq!(orphans.resume(&resumption(1, 1, "a")), Resumed::Known, "it ends once");
    assert_eq!(orphans.resume(&resumption(1, 1, "c")), Resumed::Known, "it was no viewer of that page");
    assert_eq!((orphans.len(), orphans.expire(GRACE_MS - 1)), (2, vec![]));
    assert_eq!(orphans.expire(GRACE_MS), [(key("b"), Some(1)), (key("a"), Some(2))]);
    assert!(orphans.is_empty());
    assert_eq!(orphans.resume(&resumption(1, 2, "a")), Resumed::Unknown);
}

#[test]
fn nobody_ends_the_session_of_another() {
    let mut orphans = Orphans::default();
    orphans.inherit(bequest(1, &[("a", 1), ("a", 2)]), 0).unwrap();
    let stranger = ResumeKey::new([4; 32]);
    assert_eq!(orphans.resume(&(stranger.token(1, 1), key("a"))), Resumed::Unknown);
    assert_eq!(orphans.resume(&resumption(2, 1, "a")), Resumed::Unknown, "a token is of one gateway");
    // Another's number with the proof of one's own.
    let own = secret().token(1, 2).to_string();
    let forged = own.replacen("-2-", "-1-", 1).parse().unwrap();
    assert_eq!(orphans.resume(&(forged, key("a"))), Resumed::Unknown);
    // A bequest under the same gateway does not change the key.
    orphans.inherit(Bequest { key: stranger.clone(), ..bequest(1, &[("a", 3)]) }, 0).unwrap();
    assert_eq!(orphans.resume(&(stranger.token(1, 1), key("a"))), Resumed::Unknown);
    assert_eq!(orphans.len(), 3);
}

#[test]
fn what_is_on_its_way_counts_here_until_the_heir_counts_it() {
    let mut orphans = Orphans::default();
    orphans.inherit(bequest(1, &[("a", 1), ("a", 2), ("a", 3)]), 0).unwrap();
    let part = orphans.set_out(1, 22, 4_000).unwrap();
    assert_eq!(part.pages, [(key("a"), vec![(1, Some(1))])]);
    assert_eq!((part.grace_ms, orphans.len()), (6_000, 3), "the grace began with the stop");
    assert_eq!(orphans.set_out(1, 22, 4_000), None, "one part is on its way");
    assert_eq!(orphans.resume(&resumption(1, 1, "a")), Resumed::Known);
    assert_eq!(orphans.returned(1), [(key("a"), Some(1))], "it had resumed meanwhile");
    assert_eq!(orphans.len(), 2);
    let rest = orphans.set_out(1, 1_000, 4_000).unwrap();
    assert_eq!(rest.pages, [(key("a"), vec![(2, Some(2)), (3, Some(3))])]);
    for _ in 0..2 {
        orphans.resume(&resumption(1, 2, "a"));
    }
    let arrived = orphans.arrived(1, &"h".into());
    assert_eq!(arrived.resumed, [resumption(1, 2, "a")]);
    assert_eq!((arrived.gone.len(), orphans.len(), orphans.set_out(1, 1_000, 4_000)), (2, 0, None));
    assert_eq!(orphans.resume(&resumption(1, 3, "a")), Resumed::At(vec!["h".into()]));
}

#[test]
fn there_are_so_many_and_no_more() {
    let mut orphans = Orphans::default();
    let viewers = |range: std::ops::Range<usize>| range.map(|number| (number as u64, None)).collect::<Vec<_>>();
    let full = Bequest { pages: vec![(key("a"), viewers(0..ORPHANS_MAX))], ..bequest(1, &[]) };
    assert_eq!(orphans.inherit(full, 0).unwrap().len(), ORPHANS_MAX);
    assert_eq!(orphans.inherit(bequest(2, &[("a", 1)]), 0), Err(TooManyOrphans));
    assert_eq!(orphans.gateways(), [1]);
    let endless = Bequest { grace_ms: u64::MAX, ..bequest(3, &[]) };
    orphans.expire(GRACE_MS);
    orphans.inherit(endless, 0).unwrap();
    orphans.expire(GRACE_MS_MAX);
    assert_eq!(orphans.gateways(), [0_u64; 0], "the heir bounds the grace");
}

/// A gateway that stops, nodes that may be heirs, and clients that come back at a node which never stops.
#[derive(Debug)]
struct World {
    now_ms: u64,
    nodes: Vec<Option<Orphans>>,
    /// By node, the viewers that count.
    counted: Vec<i64>,
    clients: Vec<Client>,
    /// Told by a client's new node, and to whom.
    telling: Vec<(usize, Resumption)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Away,
    Back,
}

const CLIENTS: u64 = 6;

impl World {
    fn new() -> Self {
        let viewers = (0..CLIENTS).map(|number| (number, None)).collect();
        let mut first = Orphans::default();
        first.inherit(Bequest { pages: vec![(key("a"), viewers)], ..bequest(1, &[]) }, 0).unwrap();
        let nodes = vec![Some(first), Some(Orphans::default()), Some(Orphans::default())];
        let counted = vec![i64::try_from(CLIENTS).unwrap(), 0, 0];
        Self { now_ms: 0, nodes, counted, clients: vec![Client::Away; 6], telling: Vec::new() }
    }

    fn step(&mut self, (act, which): (u8, u8)) {
        let which = usize::from(which);
        match act {
            0 => self.hand_on(which % 3, (which / 3) % 3, which / 9 % 3),
            1 => self.come_back(which % self.clients.len()),
            2 => self.tell(which),
            3 => self.now_ms += u64::try_from(which).unwrap() * 5,
            _ => self.expire(),
        }
    }

    /// `fate`: the part arrives and is answered; arrives and is not; does not arrive.
    fn hand_on(&mut self, from: usize, to: usize, fate: usize) {
        let now_ms = self.now_ms;
        let Some(bequest) = self.nodes[from].as_mut().and_then(|orphans| orphans.set_out(1, 30, now_ms)) else { return };
        // Whoever resumes meanwhile.
        self.tell(from + to);
        // Nodes stop in their order, and who has stopped inherits nothing.
        let takes = from < to && fate < 2;
        let came = self.nodes[to].as_mut().filter(|_| takes).map(|orphans| orphans.inherit(bequest, now_ms).unwrap());
        self.counted[to] += i64::try_from(came.as_ref().map_or(0, Vec::len)).unwrap();
        let from_orphans = self.nodes[from].as_mut().unwrap();
        let gone = if came.is_some() && fate == 0 {
            let Arrived { gone, resumed } = from_orphans.arrived(1, &NodeName(to.to_string()));
            self.telling.extend(resumed.into_iter().map(|resumption| (to, resumption)));
            gone.len()
        } else {
            from_orphans.returned(1).len()
        };
        self.counted[from] -= i64::try_from(gone).unwrap();
    }

    fn come_back(&mut self, client: usize) {
        if std::mem::replace(&mut self.clients[client], Client::Back) == Client::Away {
            // Its old gateway, or who may be the heir.
            self.telling.extend((0..3).map(|node| (node, resumption(1, client as u64, "a"))));
        }
    }

    fn tell(&mut self, which: usize) {
        if self.telling.is_empty() {
            return;
        }
        let (to, resumption) = self.telling.swap_remove(which % self.telling.len());
        match self.nodes[to].as_mut().map(|orphans| orphans.resume(&resumption)) {
            Some(Resumed::Ended(_)) => self.counted[to] -= 1,
            Some(Resumed::At(heirs)) => {
                self.telling.extend(heirs.iter().map(|heir| (heir.0.parse().unwrap(), resumption.clone())));
            }
            Some(Resumed::Known | Resumed::Unknown) | None => {}
        }
    }

    fn expire(&mut self) {
        for (orphans, counted) in self.nodes.iter_mut().zip(&mut self.counted) {
            let now_ms = self.now_ms;
            *counted -= orphans.as_mut().map_or(0, |orphans| i64::try_from(orphans.expire(now_ms).len()).unwrap());
        }
    }

    fn of(&self, client: Client) -> i64 {
        i64::try_from(self.clients.iter().filter(|other| **other == client).count()).unwrap()
    }

    fn check(&self) {
        for (orphans, counted) in self.nodes.iter().zip(&self.counted) {
            assert_eq!(orphans.as_ref().map_or(0, |orphans| i64::try_from(orphans.len()).unwrap()), *counted);
        }
        let orphans: i64 = self.counted.iter().sum();
        if self.now_ms < GRACE_MS {
            assert!(orphans >= self.of(Client::Away), "someone away is counted nowhere: {self:?}");
        }
    }
}

proptest! {
    #[test]
    fn who_is_away_counts_within_the_grace_and_nobody_after_it(acts in prop::collection::vec((0_u8..5, any::<u8>()), 0..200)) {
        let mut world = World::new();
        for act in acts {
            world.step(act);
            world.check();
        }
        world.now_ms = world.now_ms.max(GRACE_MS);
        world.expire();
        prop_assert_eq!(world.counted, [0, 0, 0]);
    }

    #[test]
    fn when_no_message_is_lost_a_client_counts_once_as_soon_as_all_have_heard(
        parts in prop::collection::vec((0_usize..3, 0_usize..3), 0..20),
        back in prop::collection::vec(any::<bool>(), 6),
        turns in prop::collection::vec(any::<u8>(), 40),
    ) {
        let mut world = World::new();
        let mut turns = turns.into_iter().map(usize::from);
        for (client, is_back) in back.iter().enumerate() {
            if *is_back {
                world.come_back(client);
            }
        }
        for (from, to) in parts {
            world.hand_on(from, to, 0);
            if let Some(turn) = turns.next() {
                world.tell(turn);
            }
            world.check();
        }
        while !world.telling.is_empty() {
            world.tell(turns.next().unwrap_or(0));
        }
        prop_assert_eq!(world.counted.iter().sum::<i64>(), world.of(Client::Away));
    }
}
