//! What clients can ask: one table says which commands there are, what they take, and who executes them.

mod client;
mod cluster;
mod command;
mod config;
mod connection;
mod counters;
mod info;
mod keys;
mod refused;
mod scan;
mod server;
mod table;

use std::ops::Range;
use std::sync::Arc;

use counter_core::counter::Key;
use counter_core::token::Token;

use super::batch::Batch;
use super::reply::Replies;
use super::session::Session;
use super::words::{self, Refused};
use super::{Figures, Resp};

pub(super) use table::{COMMANDS, Spec, find};

/// A request's arguments, where they stand in the buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Args<'a> {
    buffer: &'a [u8],
    ranges: &'a [Range<usize>],
}

impl<'a> Args<'a> {
    pub(super) fn new(buffer: &'a [u8], ranges: &'a [Range<usize>]) -> Self {
        Self { buffer, ranges }
    }

    /// How many there are, the command's name included.
    fn len(self) -> usize {
        self.ranges.len()
    }

    /// The argument at this place; empty when there is none.
    pub(super) fn get(self, index: usize) -> &'a [u8] {
        self.ranges.get(index).and_then(|range| self.buffer.get(range.clone())).unwrap_or_default()
    }

    /// Those from this place on.
    fn from(self, first: usize) -> impl Iterator<Item = &'a [u8]> {
        (first..self.len()).map(move |index| self.get(index))
    }

    /// Whether the argument at this place is this word, in any case.
    fn is(self, index: usize, word: &str) -> bool {
        self.get(index).eq_ignore_ascii_case(word.as_bytes())
    }

    fn number(self, index: usize) -> Result<i64, Refused> {
        super::number::parse(self.get(index)).ok_or(words::NOT_A_NUMBER)
    }
}

/// What a command works on.
pub(super) struct Turn<'t, 'r> {
    pub(super) resp: &'t Arc<Resp>,
    pub(super) session: &'t mut Session,
    pub(super) out: &'t mut Replies,
    pub(super) batch: &'t mut Batch<'r>,
    pub(super) figures: &'t mut Figures,
}

/// How to go on after a command.
#[derive(Debug)]
pub(super) enum Step {
    Done,
    /// The rest has to wait for others.
    Later(Later),
    Close,
}

/// What is done when all requests before it are.
#[derive(Debug)]
pub(super) enum Later {
    /// Reset these counters, and tell how many there were.
    Delete(Vec<Key>),
    /// Reset this counter unless that was done under the token before, and tell whether there was one.
    DeleteOnce(Key, Token),
    /// Tell how many of these counters exist.
    Exist(Vec<Key>),
    /// Tell whether the counter exists, as TYPE or TTL do.
    Tell(Key, keys::Property),
    /// Reset the counters of all slots of which this node is the master.
    Flush(Vec<counter_core::slot::Slot>),
}

type Executed = Result<Step, Refused>;

/// Executes one request. Its answer stands in the output, or comes with the batch's end or the returned step.
pub(super) fn execute(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Step {
    let start = turn.out.len();
    match try_execute(turn, args) {
        Ok(step) => step,
        Err(refused) => {
            turn.out.bytes.truncate(start);
            turn.figures.errors += 1;
            turn.out.error(&refused);
            Step::Done
        }
    }
}

fn try_execute(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let Some(spec) = find(args.get(0)) else {
        turn.resp.check_authenticated(turn.session)?;
        return Err(refused::unknown(args));
    };
    if !spec.takes(args.len()) {
        return Err(words::arity(spec.name));
    }
    if !spec.no_auth {
        turn.resp.check_authenticated(turn.session)?;
    }
    (spec.run)(turn, args)
}

/// Does what a command could not do within a batch.
pub(super) async fn perform(later: Later, resp: &Resp, out: &mut Replies) -> Result<(), Refused> {
    match later {
        Later::Delete(keys) => keys::delete(resp, keys, out).await,
        Later::DeleteOnce(key, token) => keys::delete_once(resp, key, token, out).await,
        Later::Exist(keys) => keys::exist(resp, keys, out).await,
        Later::Tell(key, property) => keys::tell(resp, key, property, out).await,
        Later::Flush(slots) => server::flush(resp, slots, out).await,
    }
}

impl Resp {
    fn check_authenticated(&self, session: &Session) -> Result<(), Refused> {
        if self.is_authenticated(session) { Ok(()) } else { Err(words::NO_AUTH) }
    }
}
