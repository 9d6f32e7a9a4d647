//! Tokens: a client's names for single updates, by which a repeated update is recognised and not counted again.
//!
//! The effect of an update under a token enters its actor's entry at once, like any other; the [`TokenRecord`] is the
//! memory of who counted the token. Where two replicas have counted the same one, the records meet, all replicas see the
//! same winner, and what the others have counted counts no more. See [`crate::vector`].

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::counter::{Key, Observed, Update};
use crate::id::ActorId;

/// How far, in milliseconds, a token's time may lie ahead of the clock of the node that takes it.
pub const TOKEN_FUTURE_MS: u64 = 60_000;
/// For how long, in milliseconds, a token is recognised, if nothing else is said.
pub const TOKEN_WINDOW_MS: u64 = 600_000;
/// How many bytes a [`TokenName`] has as text of storage.
pub const TOKEN_NAME_BYTES: usize = 40;

/// A client's name for one update of one counter. The same id means nothing for another counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token {
    pub id: u128,
    /// When the client made it, in milliseconds since the Unix epoch. One without is made when it is first seen.
    pub made_ms: Option<u64>,
}

/// Why a text names no update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("must have 1 to {TOKEN_TEXT_MAX} characters")]
    Length,
    #[error("must consist of visible ASCII characters")]
    NotVisible,
}

/// The longest text of a token, in bytes.
pub const TOKEN_TEXT_MAX: usize = 255;
/// A time in front of a token has so many digits: enough until the year 2286.
const TIME_DIGITS: usize = 13;

impl FromStr for Token {
    type Err = TokenError;

    /// A UUID of version 7 gives id and time. `<milliseconds since the Unix epoch, 13 digits>-<anything>` gives its time.
    /// Any other text of 1 to [`TOKEN_TEXT_MAX`] visible ASCII characters is a token without one.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.is_empty() || text.len() > TOKEN_TEXT_MAX {
            return Err(TokenError::Length);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::NotVisible);
        }
        if let Some((id, made_ms)) = uuid_v7(text) {
            return Ok(Self { id, made_ms: Some(made_ms) });
        }
        let hash = Sha256::digest(text.as_bytes());
        let id = hash.first_chunk::<16>().map_or(0, |bytes| u128::from_be_bytes(*bytes));
        Ok(Self { id, made_ms: time_in_front(text) })
    }
}

fn time_in_front(text: &str) -> Option<u64> {
    let (time, _) = text.split_once('-')?;
    let is_time = time.len() == TIME_DIGITS && time.bytes().all(|byte| byte.is_ascii_digit());
    if is_time { time.parse().ok() } else { None }
}

/// The number of a UUID of version 7, and the milliseconds in it.
fn uuid_v7(text: &str) -> Option<(u128, u64)> {
    let lengths = text.split('-').map(str::len);
    if !lengths.eq([8, 4, 4, 4, 12]) || text.as_bytes().get(14) != Some(&b'7') {
        return None;
    }
    let digits: String = text.split('-').collect();
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let id = u128::from_str_radix(&digits, 16).ok()?;
    Some((id, u64::try_from(id >> 80).ok()?))
}

/// That an actor has counted a token. Several of one token exist only where several replicas took it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub key: Key,
    pub id: u128,
    pub actor: ActorId,
    /// In milliseconds since the Unix epoch; 48 bits of it are kept.
    pub made_ms: u64,
    pub update: Update,
    /// How high the update has raised its actor's entry: the part that it adds to, increments or decrements. Whoever has
    /// cleared so much of the entry has cleared the update.
    pub position: u64,
    /// What a reset clears.
    pub observed: Option<Box<Observed>>,
}

/// A record's name in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenName {
    /// The hash of the counter's key.
    pub key_hash: u64,
    pub id: u128,
    pub actor: ActorId,
}

impl TokenName {
    /// The name as bytes that sort as it does.
    #[must_use]
    pub fn to_bytes(self) -> [u8; TOKEN_NAME_BYTES] {
        let mut bytes = [0; TOKEN_NAME_BYTES];
        let parts = [
            &self.key_hash.to_be_bytes()[..],
            &self.id.to_be_bytes(),
            &self.actor.origin.to_be_bytes(),
            &self.actor.incarnation.to_be_bytes(),
        ];
        let all = parts.into_iter().flatten();
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = *from);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Token {
        text.parse().unwrap()
    }

    #[test]
    fn a_uuid_of_version_7_gives_its_number_and_its_time_whatever_its_case() {
        let made = token("017F22E2-79B0-7CC3-98C4-DC0C0C07398F");
        assert_eq!(made, Token { id: 0x017f_22e2_79b0_7cc3_98c4_dc0c_0c07_398f, made_ms: Some(1_645_557_742_000) });
        assert_eq!(token("017f22e2-79b0-7cc3-98c4-dc0c0c07398f"), made);
    }

    #[test]
    fn a_time_in_front_is_the_tokens_and_all_else_has_none() {
        assert_eq!(token("1900000000000-cart-7").made_ms, Some(1_900_000_000_000));
        for text in ["190000000000-short", "19000000000000-long", "19000000000x0-x", "8e03978e-40d5-43dd-bc93-6894a57f9324", "x"]
        {
            assert_eq!(token(text).made_ms, None, "{text}");
        }
        assert_ne!(token("a").id, token("b").id);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        assert_eq!("".parse::<Token>(), Err(TokenError::Length));
        assert_eq!("x".repeat(256).parse::<Token>(), Err(TokenError::Length));
        assert!("x".repeat(255).parse::<Token>().is_ok());
        assert_eq!("a b".parse::<Token>(), Err(TokenError::NotVisible));
        assert_eq!("ä".parse::<Token>(), Err(TokenError::NotVisible));
    }
}
