//! DEL, EXISTS, TYPE and TTL: whether counters exist, and that they do not.
//!
//! A counter exists when somebody has updated it since it was last reset. DEL is a reset: what others count at the same
//! time at another replica survives it.

use counter_core::counter::Key;
use counter_core::token::Token;

use super::{Args, Executed, Later, Refused, Replies, Resp, Step, Turn, counters, words};
use crate::http::Backend as _;
use crate::router::{Action, Write};

/// What is told of a counter but its number.
#[derive(Clone, Copy, Debug)]
pub(in crate::resp) enum Property {
    Type,
    TimeToLive,
}

impl Property {
    fn write(self, exists: bool, out: &mut Replies) {
        match (self, exists) {
            (Self::Type, true) => out.simple("string"),
            (Self::Type, false) => out.simple("none"),
            (Self::TimeToLive, true) => out.integer(-1),
            (Self::TimeToLive, false) => out.integer(-2),
        }
    }
}

/// `DEL key [key …]`, `DEL key TOKEN token`
pub(super) fn del(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    turn.moved(args.get(1))?;
    if let Some(token) = token(args)? {
        return Ok(Step::Later(Later::DeleteOnce(turn.batch.key(args.get(1))?, token)));
    }
    let keys = keys(turn, args)?;
    if !keys.iter().all(|key| turn.batch.holds(key)) {
        return Ok(Step::Later(Later::Delete(keys)));
    }
    let (mut deleted, start) = (0, turn.out.len());
    for (place, key) in keys.iter().enumerate() {
        match turn.batch.reset_here(key.as_bytes()) {
            Some(existed) => deleted += i64::from(existed),
            // The slot or the storage has just gone. The rest is done elsewhere, and those that are done count as done.
            None => return Ok(Step::Later(Later::Delete(keys[place..].to_vec()))),
        }
    }
    turn.out.integer(deleted);
    turn.batch.tells_since(start, turn.out);
    Ok(Step::Done)
}

/// `EXISTS key [key …]`
pub(super) fn exists(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    turn.moved(args.get(1))?;
    let mut existing = 0;
    for key in args.from(1) {
        match turn.batch.read_here(key) {
            Some(reading) => existing += i64::from(reading.exists),
            None => return Ok(Step::Later(Later::Exist(keys(turn, args)?))),
        }
    }
    turn.out.integer(existing);
    Ok(Step::Done)
}

/// `TYPE key`
pub(super) fn kind(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    property(turn, args, Property::Type)
}

/// `TTL key`, `PTTL key`
pub(super) fn ttl(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    property(turn, args, Property::TimeToLive)
}

fn property(turn: &mut Turn<'_, '_>, args: Args<'_>, property: Property) -> Executed {
    turn.moved(args.get(1))?;
    match turn.batch.read_here(args.get(1)) {
        Some(reading) => property.write(reading.exists, turn.out),
        None => return Ok(Step::Later(Later::Tell(turn.batch.key(args.get(1))?, property))),
    }
    Ok(Step::Done)
}

/// The token of a DEL. Behind the first key the word is never a key: who has forgotten that only one key goes with a token
/// is told so, and loses no number.
fn token(args: Args<'_>) -> Result<Option<Token>, Refused> {
    match (2..args.len()).find(|index| args.is(*index, "token")) {
        None => Ok(None),
        Some(2) if args.len() == 4 => counters::parse_token(args.get(3)).map(Some),
        Some(_) => Err(words::TOKEN_OF_ONE_KEY),
    }
}

fn keys(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Result<Vec<Key>, Refused> {
    args.from(1).map(|key| turn.batch.key(key)).collect()
}

/// Counters of several shards. They are asked one after the other's kind: first which exist, then those are reset.
pub(super) async fn delete(resp: &Resp, keys: Vec<Key>, out: &mut Replies) -> Result<(), Refused> {
    let mut keys = keys;
    // One that is named twice is there once.
    let mut seen = std::collections::HashSet::new();
    keys.retain(|key| seen.insert(key.clone()));
    let existing = existing(resp, keys).await?;
    let resets = existing.into_iter().map(|key| (key, Write::from(Action::Reset))).collect();
    let mut deleted = 0;
    for answer in resp.pages.update_many(resets).await {
        answer.map_err(|failure| words::failure(&failure))?;
        deleted += 1;
    }
    out.integer(deleted);
    Ok(())
}

/// Resets a counter under a token, also one that does not exist: a repetition is to take nothing away that was counted
/// since. It tells that there was none, as nothing was there that it took away.
pub(super) async fn delete_once(resp: &Resp, key: Key, token: Token, out: &mut Replies) -> Result<(), Refused> {
    let failed = |failure| words::failure(&failure);
    let before = resp.pages.read(key.clone()).await.map_err(failed)?;
    let write = Write { action: Action::Reset, token: Some(token) };
    let after = resp.pages.update(key, write).await.map_err(failed)?;
    out.integer(i64::from(before.exists && !after.replayed));
    Ok(())
}

pub(super) async fn exist(resp: &Resp, keys: Vec<Key>, out: &mut Replies) -> Result<(), Refused> {
    let existing = existing(resp, keys).await?.len();
    out.integer(i64::try_from(existing).unwrap_or(i64::MAX));
    Ok(())
}

pub(super) async fn tell(resp: &Resp, key: Key, property: Property, out: &mut Replies) -> Result<(), Refused> {
    let reading = resp.pages.read(key).await.map_err(|failure| words::failure(&failure))?;
    property.write(reading.exists, out);
    Ok(())
}

/// Those of the counters that exist, each as often as it is named.
async fn existing(resp: &Resp, keys: Vec<Key>) -> Result<Vec<Key>, Refused> {
    let readings = resp.pages.read_many(keys.clone()).await;
    let mut existing = Vec::new();
    for (key, reading) in keys.into_iter().zip(readings) {
        let reading = reading.map_err(|failure| words::failure(&failure))?;
        existing.extend(reading.exists.then_some(key));
    }
    Ok(existing)
}
