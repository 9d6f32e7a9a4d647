//! A batch's requests for counters of other shards. They are sent side by side, and yet each counter's in their order:
//! what comes for a counter that was asked for already goes into the next *wave*, unless it can be one with it.

use std::collections::HashMap;
use std::sync::Arc;

use counter_core::counter::Key;
use futures::future::join_all;

use super::batch::Told;
use super::reply::Replies;
use super::words;
use crate::http::Backend as _;
use crate::pages::NodePages;
use crate::router::{Action, Failure, Reading, Write};

/// What is asked of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Read,
    /// Increments and decrements that follow each other, as one: they come to the same as if nobody had come between.
    Add(i128),
    /// What stands for itself: resets, sets, and all that has a token.
    Other(Write),
}

impl From<Write> for Ask {
    fn from(write: Write) -> Self {
        match write {
            Write { action: Action::Increment(by), token: None } => Self::Add(by.into()),
            Write { action: Action::Decrement(by), token: None } => Self::Add(-i128::from(by)),
            write => Self::Other(write),
        }
    }
}

impl Ask {
    /// Both, if one can stand for both.
    fn and(self, then: Self) -> Option<Self> {
        match (self, then) {
            (Self::Read, Self::Read) => Some(Self::Read),
            // Within what is surely one update.
            (Self::Add(first), Self::Add(second)) => {
                Some(first + second).filter(|sum| i64::try_from(*sum).is_ok()).map(Self::Add)
            }
            _ => None,
        }
    }

    async fn perform(self, pages: &Arc<NodePages>, key: &Key) -> Result<Reading, Failure> {
        match self {
            Self::Read => pages.read(key.clone()).await,
            Self::Other(write) => pages.update(key.clone(), write).await,
            Self::Add(by) => {
                let amount = u64::try_from(by.unsigned_abs()).unwrap_or(u64::MAX);
                let action = if by < 0 { Action::Decrement(amount) } else { Action::Increment(amount) };
                pages.update(key.clone(), action).await
            }
        }
    }
}

/// A place in the output that waits for an answer.
#[derive(Debug)]
pub(super) struct Hole {
    pub(super) at: usize,
    told: Told,
    muted: bool,
    answer: Option<Result<Reading, Failure>>,
}

impl Hole {
    pub(super) fn write(&self, out: &mut Replies) {
        match &self.answer {
            _ if self.muted => {}
            Some(Ok(reading)) => self.told.write(reading, out),
            Some(Err(failure)) => out.error(&words::failure(failure)),
            // Every hole is asked for.
            None => out.error("ERR internal error"),
        }
    }
}

/// What is asked of one counter in one wave, and who waits for it.
#[derive(Debug)]
struct Asked {
    key: Key,
    ask: Ask,
    /// The number of the hole, and what alone was asked for it.
    waiting: Vec<(usize, Ask)>,
}

#[derive(Debug, Default)]
pub(super) struct Away {
    waves: Vec<Vec<Asked>>,
    /// Each counter's last wave, and its place there.
    last: HashMap<Key, (usize, usize)>,
    holes: Vec<Hole>,
}

impl Away {
    pub(super) fn is_empty(&self) -> bool {
        self.holes.is_empty()
    }

    pub(super) fn holes(&self) -> usize {
        self.holes.len()
    }

    /// Answers nothing to those from the hole of this number on, whose output was cut off at `at`.
    pub(super) fn mute(&mut self, from: usize, at: usize) {
        for hole in self.holes.iter_mut().skip(from) {
            (hole.muted, hole.at) = (true, at);
        }
    }

    /// Asks this of the counter, and tells it at this place of the output.
    pub(super) fn push(&mut self, key: Key, ask: Ask, told: Told, at: usize) {
        let hole = self.holes.len();
        self.holes.push(Hole { at, told, muted: false, answer: None });
        let last = self.last.get(&key).copied();
        if let Some((wave, place)) = last {
            let asked = &mut self.waves[wave][place];
            if let Some(both) = asked.ask.and(ask) {
                asked.ask = both;
                asked.waiting.push((hole, ask));
                return;
            }
        }
        let wave = last.map_or(0, |(wave, _)| wave + 1);
        if wave == self.waves.len() {
            self.waves.push(Vec::new());
        }
        self.last.insert(key.clone(), (wave, self.waves[wave].len()));
        self.waves[wave].push(Asked { key, ask, waiting: vec![(hole, ask)] });
    }

    /// Has everything done.
    pub(super) async fn run(&mut self, pages: &Arc<NodePages>) {
        self.last.clear();
        for wave in std::mem::take(&mut self.waves) {
            let answers = join_all(wave.into_iter().map(|asked| asked.perform(pages))).await;
            for (hole, answer) in answers.into_iter().flatten() {
                self.holes[hole].answer = Some(answer);
            }
        }
    }

    /// What has been answered, in the order of the output.
    pub(super) fn take_answers(&mut self) -> Vec<Hole> {
        std::mem::take(&mut self.holes)
    }
}

impl Asked {
    async fn perform(self, pages: &Arc<NodePages>) -> Vec<(usize, Result<Reading, Failure>)> {
        let answer = self.ask.perform(pages, &self.key).await;
        if self.waiting.len() > 1 && matches!(answer, Err(Failure::Range { .. })) {
            // Not all of them fit: then each for itself.
            let mut answers = Vec::with_capacity(self.waiting.len());
            for (hole, ask) in self.waiting {
                answers.push((hole, ask.perform(pages, &self.key).await));
            }
            return answers;
        }
        self.shares(&answer)
    }

    /// What each is told of the whole's answer: what the counter had come to after its own part.
    fn shares(self, answer: &Result<Reading, Failure>) -> Vec<(usize, Result<Reading, Failure>)> {
        let Self { waiting, .. } = self;
        let mut after: i128 = 0;
        let mut answers: Vec<_> = waiting
            .into_iter()
            .rev()
            .map(|(hole, ask)| {
                let share = answer.clone().map(|reading| less(reading, after));
                if let Ask::Add(by) = ask {
                    after += by;
                }
                (hole, share)
            })
            .collect();
        answers.reverse();
        answers
    }
}

/// The reading as it was before `after` was added.
fn less(reading: Reading, after: i128) -> Reading {
    let count = i128::from(reading.count) - after;
    let count = count.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    Reading { count: i64::try_from(count).unwrap_or(reading.count), tally: reading.tally - after, ..reading }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes()).unwrap()
    }

    fn reading(count: i64) -> Reading {
        Reading { count, clamped: false, tally: count.into(), updated_at: None, exists: true, replayed: false, viewers: 0 }
    }

    #[test]
    fn updates_of_a_counter_in_a_row_are_one_and_each_is_told_its_own_number() {
        let mut away = Away::default();
        for (place, by) in [5_i128, -2, 1].into_iter().enumerate() {
            away.push(key("a"), Ask::Add(by), Told::Count, place);
        }
        assert_eq!((away.waves.len(), away.waves[0].len()), (1, 1));
        let asked = away.waves.pop().unwrap().pop().unwrap();
        assert_eq!(asked.ask, Ask::Add(4));
        let counts: Vec<_> =
            asked.shares(&Ok(reading(104))).into_iter().map(|(hole, share)| (hole, share.unwrap().count)).collect();
        assert_eq!(counts, [(0, 105), (1, 103), (2, 104)]);
    }

    #[test]
    fn what_differs_waits_for_what_came_before_it_and_other_counters_do_not() {
        let mut away = Away::default();
        let asks = [Ask::Add(1), Ask::Read, Ask::Read, Ask::Other(Action::Reset.into()), Ask::Other(Action::Reset.into())];
        for ask in asks {
            away.push(key("a"), ask, Told::Count, 0);
            away.push(key("b"), Ask::Read, Told::Value, 0);
        }
        let sizes: Vec<Vec<usize>> =
            away.waves.iter().map(|wave| wave.iter().map(|asked| asked.waiting.len()).collect()).collect();
        assert_eq!(sizes, [vec![1, 5], vec![2], vec![1], vec![1]]);
    }
}
