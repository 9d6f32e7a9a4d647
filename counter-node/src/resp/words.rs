//! How refusals are worded to Redis clients.
//!
//! The first word decides what clients do. `CLUSTERDOWN`, `TRYAGAIN`, `READONLY` and `OOM` say that *nothing was applied*;
//! cluster clients try some of them again by themselves, which is safe. `OUTCOMEUNKNOWN` is no word of Redis's, so no
//! client tries again by itself.

use std::borrow::Cow;

use counter_core::counter::KeyError;
use counter_core::token::TokenError;

use crate::router::Failure;

/// An error reply: its code, and what it says.
pub(super) type Refused = Cow<'static, str>;

pub(super) const NOT_A_NUMBER: Refused = Cow::Borrowed("ERR value is not an integer or out of range");
pub(super) const SYNTAX: Refused = Cow::Borrowed("ERR syntax error");
pub(super) const TOKEN_OF_ONE_KEY: Refused =
    Cow::Borrowed("ERR TOKEN goes with one key and one token, as in DEL key TOKEN token: nothing was reset");
pub(super) const NO_AUTH: Refused = Cow::Borrowed("NOAUTH Authentication required.");
pub(super) const OVERFLOW: Refused = Cow::Borrowed("ERR increment or decrement would overflow");

/// What became of a request that failed.
pub(super) fn failure(failure: &Failure) -> Refused {
    match failure {
        Failure::Range { .. } => OVERFLOW,
        Failure::OutcomeUnknown { reason } => format!("OUTCOMEUNKNOWN the update may or may not count: {reason}").into(),
        Failure::TooManyCounters { limit } => format!("OOM not applied: the node holds {limit} counters, its limit").into(),
        Failure::TooMuchMemory { limit_bytes } => {
            format!("OOM not applied: the node's counters take {limit_bytes} bytes, its limit").into()
        }
        Failure::TokenReused => "ERR TOKEN has been used for another update of this key".into(),
        Failure::TokenExpired { message } | Failure::TokenFromFuture { message } => format!("ERR {message}").into(),
        Failure::TooManyTokens { limit } => format!("OOM not applied: the node remembers {limit} tokens, its limit").into(),
        Failure::Overloaded { what, limit } => format!("TRYAGAIN not applied: there are {limit} {what} already").into(),
        Failure::ReadOnly { reason, .. } => format!("READONLY not applied: {reason}").into(),
        // Nothing of it is asked for here.
        Failure::TooManyMarks { counters, limit } => format!("ERR {counters} counters are more than {limit}").into(),
        Failure::NotApplied { reason, .. } | Failure::Behind { reason, .. } => {
            format!("CLUSTERDOWN not applied: {reason}").into()
        }
    }
}

pub(super) fn token(error: TokenError) -> Refused {
    format!("ERR invalid TOKEN: it {error}").into()
}

pub(super) fn key(error: KeyError) -> Refused {
    format!("ERR invalid key: it {error}").into()
}

pub(super) fn arity(command: &str) -> Refused {
    format!("ERR wrong number of arguments for '{command}' command").into()
}

/// A name of a command or an option as errors repeat it: short, and of visible characters.
pub(super) fn shown(name: &[u8]) -> impl std::fmt::Display + '_ {
    name.get(..128).unwrap_or(name).escape_ascii()
}

pub(super) fn unknown_subcommand(container: &str, sub: &[u8]) -> Refused {
    format!("ERR unknown subcommand '{}'. Try {container} HELP.", shown(sub)).into()
}
