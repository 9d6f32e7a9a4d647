//! Copies come to what their ledger is, whatever happens to the messages between.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::key::Key;

const BYTES_MAX: usize = 90;

/// What happens next. Numbers pick a page, a message or a copy, modulo how many there are.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Enter {
        page: u8,
        sessions: u32,
    },
    Send {
        to: usize,
    },
    /// One copy is brought on by the other.
    Relay {
        to: usize,
    },
    Deliver {
        message: usize,
    },
    Repeat {
        message: usize,
    },
    Lose {
        message: usize,
    },
    /// A replica has started anew.
    Restart {
        at: usize,
    },
}

fn turn() -> impl Strategy<Value = Turn> {
    let message = any::<usize>();
    prop_oneof![
        6 => (0_u8..6, 0_u32..3).prop_map(|(page, sessions)| Turn::Enter { page, sessions }),
        4 => (0_usize..2).prop_map(|to| Turn::Send { to }),
        1 => (0_usize..2).prop_map(|to| Turn::Relay { to }),
        4 => message.prop_map(|message| Turn::Deliver { message }),
        1 => message.prop_map(|message| Turn::Repeat { message }),
        1 => message.prop_map(|message| Turn::Lose { message }),
        1 => (0_usize..2).prop_map(|at| Turn::Restart { at }),
    ]
}

#[derive(Debug)]
struct Run {
    ledger: Ledger,
    sequence: u64,
    absent_max: usize,
    copies: [Copies; 2],
    /// How far the gateway has heard that the copies are.
    heard: [Option<Reached>; 2],
    on_way: Vec<(usize, Delta, bool)>,
    /// By its head, the digest of each state of the ledger.
    digests: BTreeMap<u64, u64>,
}

impl Run {
    fn new(absent_max: usize) -> Self {
        Self {
            ledger: Ledger::new(0),
            sequence: 0,
            absent_max,
            copies: Default::default(),
            heard: [None; 2],
            on_way: Vec::new(),
            digests: BTreeMap::from([(0, 0)]),
        }
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn enter(&mut self, page: u8, sessions: u32) {
        let key = Key::new(&[b'a' + page]).unwrap();
        let sequence = self.next();
        self.ledger.enter(sequence, (key.slot(), key), PageState { sessions, ..PageState::default() });
        self.ledger.forget(self.absent_max);
        self.digests.insert(sequence, self.ledger.digest());
    }

    fn send(&mut self, to: usize) {
        let anew = Reached { base: self.next(), upto: 0 };
        let reached = self.heard[to].filter(|reached| reached.follows(&self.ledger)).unwrap_or(anew);
        self.on_way.push((to, Delta::of(&self.ledger, self.ledger.head(), reached, BYTES_MAX), false));
    }

    fn relay(&mut self, to: usize) {
        let Some((ledger, own)) = self.copies[1 - to].shown() else { return };
        let anew = Reached { base: own.base.max(own.upto), upto: 0 };
        let reached = self.copies[to].reached().filter(|reached| reached.follows(ledger)).unwrap_or(anew);
        let delta = Delta::of(ledger, own.upto, reached, BYTES_MAX);
        self.on_way.push((to, delta, true));
    }

    fn deliver(&mut self, (to, delta, relayed): (usize, Delta, bool)) -> Result<(), TestCaseError> {
        let head = delta.head;
        let Taken { whole, .. } = self.copies[to].take(delta, LayoutVersion(1), self.absent_max);
        if whole && !relayed {
            let (shown, reached) = self.copies[to].shown().unwrap();
            prop_assert_eq!(reached.upto, head);
            prop_assert_eq!(shown.digest(), self.digests[&head], "whole at {}, and another", head);
        }
        if !relayed {
            self.heard[to] = self.copies[to].reached();
        }
        Ok(())
    }

    fn take(&mut self, turn: Turn) -> Result<(), TestCaseError> {
        let pick = |message: usize, run: &Self| message.checked_rem(run.on_way.len());
        match turn {
            Turn::Enter { page, sessions } => self.enter(page, sessions),
            Turn::Send { to } => self.send(to),
            Turn::Relay { to } => self.relay(to),
            Turn::Deliver { message } => {
                if let Some(index) = pick(message, self) {
                    let message = self.on_way.remove(index);
                    self.deliver(message)?;
                }
            }
            Turn::Repeat { message } => {
                if let Some(index) = pick(message, self) {
                    self.deliver(self.on_way[index].clone())?;
                }
            }
            Turn::Lose { message } => {
                if let Some(index) = pick(message, self) {
                    self.on_way.remove(index);
                }
            }
            Turn::Restart { at } => self.copies[at] = Copies::default(),
        }
        Ok(())
    }

    /// Messages get through again, old ones first.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for message in std::mem::take(&mut self.on_way) {
            self.deliver(message)?;
        }
        for copy in [0, 1] {
            self.heard[copy] = self.copies[copy].reached();
            // Each page is a message of its own at the least.
            for _ in 0..20 {
                self.send(copy);
                let message = self.on_way.pop().unwrap();
                self.deliver(message)?;
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn copies_converge_under_any_schedule(absent_max in 0_usize..4, turns in prop::collection::vec(turn(), 0..60)) {
        let mut run = Run::new(absent_max);
        for turn in turns {
            run.take(turn)?;
        }
        run.settle()?;
        for copies in &run.copies {
            let (shown, reached) = copies.shown().unwrap();
            prop_assert_eq!(reached.upto, run.ledger.head());
            prop_assert_eq!(shown.digest(), run.ledger.digest());
            prop_assert!(shown.iter().eq(run.ledger.iter()));
        }
    }

    #[test]
    fn what_changes_in_a_copy_adds_up_to_what_it_shows(turns in prop::collection::vec(turn(), 0..60)) {
        let mut run = Run::new(1);
        let mut sums: BTreeMap<Place, i64> = BTreeMap::new();
        for turn in turns {
            match turn {
                Turn::Deliver { .. } if !run.on_way.is_empty() => {
                    let (to, delta, _) = run.on_way.remove(0);
                    let taken = run.copies[to].take(delta, LayoutVersion(1), 1);
                    for (place, before, now) in taken.changed.into_iter().filter(|_| to == 0) {
                        let sum = sums.entry(place).or_default();
                        prop_assert_eq!(*sum, i64::from(before.sessions));
                        *sum += i64::from(now.sessions) - i64::from(before.sessions);
                    }
                    run.heard[to] = run.copies[to].reached();
                }
                Turn::Restart { .. } => {}
                turn => run.take(turn)?,
            }
            if matches!(turn, Turn::Repeat { .. }) {
                // What that changed has not been summed up.
                return Ok(());
            }
        }
        let shown = run.copies[0].shown().map(|(ledger, _)| ledger.clone()).unwrap_or_default();
        for (place, sum) in sums {
            prop_assert_eq!(sum, shown.get(&place).map_or(0, |state| i64::from(state.sessions)));
        }
    }
}

#[test]
fn a_part_of_a_later_state_does_not_make_an_earlier_message_whole() {
    let mut run = Run::new(9);
    run.enter(0, 1);
    run.enter(1, 1);
    run.send(0);
    // On its way: both pages. Meanwhile the first changes again, and what is sent next is cut before it.
    let late = run.on_way.pop().unwrap();
    run.enter(0, 2);
    let reached = Reached { base: late.1.base, upto: 0 };
    let part = Delta::of(&run.ledger, run.ledger.head(), reached, 1);
    run.deliver((0, part, false)).unwrap();
    assert!(run.copies[0].shown().is_none());
    run.deliver(late).unwrap();
    assert_eq!(run.copies[0].shown().unwrap().0.len(), 2);
}

/// Whoever left a page and came back has heard nothing since: what is watched again is to be told again.
#[test]
fn a_copy_that_is_begun_anew_tells_of_a_page_that_has_become_again_what_it_was() {
    let mut run = Run::new(9);
    run.enter(0, 1);
    run.enter(1, 1);
    run.send(0);
    let sent = run.on_way.pop().unwrap();
    run.deliver(sent).unwrap();
    // What it becomes in between never gets here.
    run.enter(0, 0);
    run.enter(0, 1);
    run.heard[0] = None;
    run.send(0);
    let (to, anew, _) = run.on_way.pop().unwrap();
    let changed = run.copies[to].take(anew, LayoutVersion(1), 9).changed;
    let page = Key::new(b"a").unwrap();
    let state = PageState { sessions: 1, ..PageState::default() };
    assert_eq!(changed, [((page.slot(), page), state.clone(), state)]);
}
