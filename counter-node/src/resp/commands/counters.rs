//! GET, SET and their kin: one counter's number.

use counter_core::token::Token;

use super::{Args, Executed, Refused, Step, Turn, words};
use crate::resp::batch::Told;
use crate::router::{Action, Write};

/// `INCR key [TOKEN token]`
pub(super) fn incr(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let token = token(args, 2)?;
    update(turn, args, Write { action: Action::Increment(1), token }, Told::Count)
}

/// `DECR key [TOKEN token]`
pub(super) fn decr(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let token = token(args, 2)?;
    update(turn, args, Write { action: Action::Decrement(1), token }, Told::Count)
}

/// `INCRBY key number [TOKEN token]`
pub(super) fn incrby(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let token = token(args, 3)?;
    update(turn, args, Write { action: add(args.number(2)?), token }, Told::Count)
}

/// `DECRBY key number [TOKEN token]`
pub(super) fn decrby(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let token = token(args, 3)?;
    let by = args.number(2)?.checked_neg().ok_or("ERR decrement would overflow")?;
    update(turn, args, Write { action: add(by), token }, Told::Count)
}

/// `GET key`
pub(super) fn get(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    turn.moved(args.get(1))?;
    turn.batch.read(args.get(1), Told::Value, turn.out)?;
    Ok(Step::Done)
}

/// `MGET key [key …]`. Of several shards, too: the answer is gathered.
pub(super) fn mget(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    turn.moved(args.get(1))?;
    // All keys are looked at first, so that the answer is an array or an error as a whole.
    for key in args.from(1) {
        turn.batch.check(key)?;
    }
    turn.out.array(args.len() - 1);
    for key in args.from(1) {
        turn.batch.read(key, Told::Value, turn.out)?;
    }
    Ok(Step::Done)
}

/// `SET key number [GET] [KEEPTTL] [TOKEN token]`
pub(super) fn set(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let options = if args.len() >= 5 && args.is(args.len() - 2, "token") { args.len() - 2 } else { args.len() };
    let token = token(args, options)?;
    let mut told = Told::Ok;
    for option in 3..options {
        match args.get(option) {
            word if word.eq_ignore_ascii_case(b"get") => told = Told::Value,
            // Nothing has a time to live.
            word if word.eq_ignore_ascii_case(b"keepttl") => {}
            word if CONDITIONS.iter().any(|condition| word.eq_ignore_ascii_case(condition)) => {
                return Err(format!(
                    "ERR SET option {} is not supported: counters neither expire nor are set on a condition",
                    words::shown(&word.to_ascii_uppercase())
                )
                .into());
            }
            _ => return Err(words::SYNTAX),
        }
    }
    update(turn, args, Write { action: Action::Set(args.number(2)?), token }, told)
}

/// Options of SET that Redis has and a counter cannot.
const CONDITIONS: [&[u8]; 6] = [b"ex", b"px", b"exat", b"pxat", b"nx", b"xx"];

/// `GETSET key number [TOKEN token]`
pub(super) fn getset(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let token = token(args, 3)?;
    update(turn, args, Write { action: Action::Set(args.number(2)?), token }, Told::Value)
}

fn update(turn: &mut Turn<'_, '_>, args: Args<'_>, write: Write, told: Told) -> Executed {
    turn.moved(args.get(1))?;
    turn.batch.update(args.get(1), write, told, turn.out)?;
    Ok(Step::Done)
}

fn add(by: i64) -> Action {
    if by < 0 { Action::Decrement(by.unsigned_abs()) } else { Action::Increment(by.unsigned_abs()) }
}

/// The token that follows a command's own arguments, of which there are so many with its name.
fn token(args: Args<'_>, own: usize) -> Result<Option<Token>, Refused> {
    match args.len() {
        length if length == own => Ok(None),
        length if length == own + 2 && args.is(own, "token") => parse_token(args.get(own + 1)).map(Some),
        _ => Err(arity(args)),
    }
}

pub(super) fn parse_token(bytes: &[u8]) -> Result<Token, Refused> {
    // What is no text has characters that no token has.
    String::from_utf8_lossy(bytes).parse().map_err(words::token)
}

fn arity(args: Args<'_>) -> Refused {
    words::arity(&String::from_utf8_lossy(args.get(0)).to_ascii_lowercase())
}
