//! Proof of the cluster token: whoever knows it can say so for one request without sending it.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

/// The header that carries a proof, as 64 hexadecimal digits.
pub const PROOF_HEADER: &str = "counter-proof";
/// The admin request's header that names the cluster.
pub const CLUSTER_HEADER: &str = "counter-cluster";
/// The admin request's header that names the node it is meant for.
pub const NODE_HEADER: &str = "counter-node";
/// The admin request's header that names the Pod it is meant for, by UID.
pub const POD_UID_HEADER: &str = "counter-pod-uid";

/// The peer request's header that announces its body, as [`BodyDigest`] writes it. The proof covers what is announced, so that
/// it can be checked before anything of the body is read.
pub const BODY_HEADER: &str = "counter-body";

/// What a body is announced by: its length, and its SHA-256. As text: `LENGTH-DIGITS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyDigest {
    bytes: usize,
    sha256: [u8; 32],
}

impl BodyDigest {
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self { bytes: body.len(), sha256: Sha256::digest(body).into() }
    }

    /// The body's length in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Display for BodyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.bytes, hex(&self.sha256))
    }
}

/// Not what [`BodyDigest`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no announcement of a body")]
pub struct NoDigest;

impl FromStr for BodyDigest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        let (bytes, digits) = text.split_once('-').ok_or(NoDigest)?;
        let sha256 = unhex(digits).and_then(|bytes| bytes.try_into().ok()).ok_or(NoDigest)?;
        Ok(Self { bytes: bytes.parse().map_err(|_| NoDigest)?, sha256 })
    }
}

/// The parts of an admin request that its proof covers; absent headers are empty.
#[derive(Debug, Clone, Copy)]
pub struct AdminRequest<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub cluster: &'a str,
    pub node: &'a str,
    pub pod_uid: &'a str,
    pub body: &'a [u8],
}

/// The secret that the nodes and the operator of one cluster share.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterToken(Vec<u8>);

impl std::fmt::Debug for ClusterToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterToken(…)")
    }
}

impl ClusterToken {
    /// A token from a file's bytes, without the white space around it.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.trim_ascii().to_vec())
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Proof for an admin request.
    #[must_use]
    pub fn prove_admin(&self, request: &AdminRequest<'_>) -> String {
        hex(&self.admin(request).finalize().into_bytes())
    }

    /// Whether `proof` is this token's for the admin request. Takes the same time whatever differs.
    #[must_use]
    pub fn admits_admin(&self, request: &AdminRequest<'_>, proof: &str) -> bool {
        unhex(proof).is_some_and(|bytes| self.admin(request).verify_slice(&bytes).is_ok())
    }

    /// Proof for a peer message to node `to`, or for the answer to one.
    #[must_use]
    pub fn prove_peer(&self, path: &str, to: &str, body: &BodyDigest) -> String {
        hex(&self.peer(path, to, body).finalize().into_bytes())
    }

    /// Whether `proof` is this token's for the peer message. Takes the same time whatever differs.
    #[must_use]
    pub fn admits_peer(&self, path: &str, to: &str, body: &BodyDigest, proof: &str) -> bool {
        unhex(proof).is_some_and(|bytes| self.peer(path, to, body).verify_slice(&bytes).is_ok())
    }

    fn admin(&self, request: &AdminRequest<'_>) -> Hmac<Sha256> {
        let AdminRequest { method, path, cluster, node, pod_uid, body } = *request;
        self.mac(&[b"admin", method.as_bytes(), path.as_bytes(), cluster.as_bytes(), node.as_bytes(), pod_uid.as_bytes(), body])
    }

    fn peer(&self, path: &str, to: &str, body: &BodyDigest) -> Hmac<Sha256> {
        let bytes = u64::try_from(body.bytes).unwrap_or(u64::MAX).to_be_bytes();
        self.mac(&[b"peer", path.as_bytes(), to.as_bytes(), &bytes, &body.sha256])
    }

    /// Every part goes in with its length, so that no two requests share their bytes.
    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(&self.0)
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        for part in parts {
            mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

fn hex(bytes: &[u8]) -> String {
    // Not by `{:02x}`, which takes two hundred instructions a byte: every message between nodes has four of these.
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some((digit(&pair[0])? << 4) | digit(&pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_request_and_its_token_only() {
        let token = ClusterToken::new(b" secret\n");
        let request = AdminRequest { method: "PUT", path: "/layout", cluster: "c", node: "n", pod_uid: "u", body: b"{}" };
        let proof = token.prove_admin(&request);
        assert!(token.admits_admin(&request, &proof));
        assert!(!token.admits_admin(&AdminRequest { body: b"{ }", ..request }, &proof));
        assert!(!token.admits_admin(&AdminRequest { cluster: "cn", node: "", ..request }, &proof));
        assert!(!ClusterToken::new(b"other").admits_admin(&request, &proof));
        assert!(!token.admits_admin(&request, "zz"));
        assert!(!token.admits_admin(&request, ""));
    }

    #[test]
    fn a_peer_proof_names_the_receiver() {
        let token = ClusterToken::new(b"secret");
        let body = BodyDigest::of(b"x");
        let proof = token.prove_peer("/peer/v2/forward", "a-0-0", &body);
        assert!(token.admits_peer("/peer/v2/forward", "a-0-0", &body, &proof));
        assert!(!token.admits_peer("/peer/v2/forward", "a-0-1", &body, &proof));
        assert!(!token.admits_peer("/peer/v2/forward", "a-0-0", &BodyDigest { bytes: 2, ..body }, &proof));
        assert!(!token.admits_peer("/peer/v2/forward", "a-0-0", &BodyDigest::of(b"y"), &proof));
    }

    #[test]
    fn an_announcement_reads_back() {
        let body = BodyDigest::of(b"hello");
        assert_eq!(body.to_string().parse(), Ok(body));
        assert_eq!(body.bytes(), 5);
        for wrong in ["", "5", "5-", "-5", "5-00", "x-00", &body.to_string().replacen('5', "-5", 1)] {
            assert_eq!(wrong.parse::<BodyDigest>(), Err(NoDigest), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_not_printed() {
        assert!(!format!("{:?}", ClusterToken::new(b"secret")).contains("secret"));
    }
}
