//! The token by which a client that connects anew names the session that it had, at this or another node.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

const PROOF_BYTES: usize = 16;

/// A session without an id of its own: the start of the gateway that had it, its number there, and the proof that whoever
/// says so was told by that gateway. As text: `GATEWAY-NUMBER-PROOF`, in hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionToken {
    pub gateway: u64,
    pub number: u64,
    proof: [u8; PROOF_BYTES],
}

/// What a gateway makes its tokens with. Whoever takes over its sessions gets it, too.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeKey([u8; 32]);

impl ResumeKey {
    /// A key of 32 random bytes.
    #[must_use]
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The token of a session.
    #[must_use]
    pub fn token(&self, gateway: u64, number: u64) -> SessionToken {
        let mac = self.mac(gateway, number).finalize().into_bytes();
        let mut proof = [0; PROOF_BYTES];
        proof.iter_mut().zip(mac).for_each(|(proof, byte)| *proof = byte);
        SessionToken { gateway, number, proof }
    }

    /// Whether the token was made with this key. Takes the same time whatever differs.
    #[must_use]
    pub fn admits(&self, token: &SessionToken) -> bool {
        self.mac(token.gateway, token.number).verify_truncated_left(&token.proof).is_ok()
    }

    fn mac(&self, gateway: u64, number: u64) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(&self.0)
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        mac.update(&gateway.to_be_bytes());
        mac.update(&number.to_be_bytes());
        mac
    }
}

impl fmt::Debug for ResumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeKey(…)")
    }
}

impl fmt::Display for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}-", self.gateway, self.number)?;
        self.proof.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Not what [`SessionToken`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no token of a session")]
pub struct NoToken;

impl FromStr for SessionToken {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let number = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| NoToken);
        let mut parts = text.splitn(3, '-');
        let mut part = || parts.next().ok_or(NoToken);
        let (gateway, session, digits) = (number(part()?)?, number(part()?)?, part()?);
        let proof = u128::from_str_radix(digits, 16).map_err(|_| NoToken)?.to_be_bytes();
        let token = Self { gateway, number: session, proof };
        // One session has one text.
        let mut written = String::with_capacity(text.len());
        write!(written, "{token}").map_err(|_| NoToken)?;
        if written == text { Ok(token) } else { Err(NoToken) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_holds_for_its_session_only() {
        let key = ResumeKey::new([7; 32]);
        let token = key.token(0x1234, 42);
        let text = token.to_string();
        assert_eq!((text.parse(), text.len()), (Ok(token), 16 + 1 + 2 + 1 + 32));
        assert!(key.admits(&token));
        for other in [
            SessionToken { gateway: 0x1235, ..token },
            SessionToken { number: 43, ..token },
            SessionToken { proof: key.token(0x1234, 43).proof, ..token },
            ResumeKey::new([8; 32]).token(0x1234, 42),
        ] {
            assert!(!key.admits(&other), "{other}");
        }
        assert!(!format!("{key:?}").contains('7'), "a key is not printed");
    }

    #[test]
    fn what_is_no_token_is_not_read() {
        let text = ResumeKey::new([7; 32]).token(1, 2).to_string();
        let longer = format!("{text}0");
        let upper = text.to_uppercase();
        for wrong in
            ["", "-", "--", "1-2-3", &text[1..], &text[..text.len() - 1], &longer, &upper, &text.replacen('-', "-+", 1), "é-1-1"]
        {
            assert_eq!(wrong.parse::<SessionToken>(), Err(NoToken), "{wrong}");
        }
    }
}
