//! Secrets from files that change under us: the cluster token, with the one before it, and the public API's token.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use counter_core::proof::{AdminRequest, ClusterToken};

/// How long the token before the current one is still accepted.
const PREVIOUS_ACCEPTED: Duration = Duration::from_secs(600);
/// How often a file is looked at for changes.
const REREAD: Duration = Duration::from_secs(2);

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read the token file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the token file {} is empty", path.display())]
    Empty { path: PathBuf },
}

/// A secret in a file, read again when the file changes. A file that is gone or empty leaves the secret as it was.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    current: ArcSwap<Held>,
    looked: Mutex<(Instant, Option<SystemTime>)>,
}

#[derive(Debug)]
struct Held {
    token: ClusterToken,
    previous: Option<(ClusterToken, Instant)>,
}

impl TokenFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`TokenError`], when it cannot be read or is empty.
    pub fn open(path: &Path) -> Result<Self, TokenError> {
        let token = read(path)?;
        let previous = read(&path.with_file_name("previous")).ok().map(|token| (token, Instant::now()));
        Ok(Self {
            path: path.to_owned(),
            current: ArcSwap::from_pointee(Held { token, previous }),
            looked: Mutex::new((Instant::now(), modified(path))),
        })
    }

    /// The tokens that count now, the current one first.
    fn accepted(&self) -> Vec<ClusterToken> {
        self.reread();
        let held = self.current.load();
        let previous = held.previous.as_ref().filter(|(_, since)| since.elapsed() < PREVIOUS_ACCEPTED);
        std::iter::once(&held.token).chain(previous.map(|(token, _)| token)).cloned().collect()
    }

    /// The current token.
    #[must_use]
    pub fn current(&self) -> ClusterToken {
        self.reread();
        self.current.load().token.clone()
    }

    fn reread(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.0.elapsed() < REREAD {
            return;
        }
        let found = modified(&self.path);
        if found != looked.1 {
            match read(&self.path) {
                Ok(token) => self.replace(token),
                Err(error) => tracing::warn!(%error, "token file changed but cannot be used; the old token stays"),
            }
        }
        *looked = (Instant::now(), found);
    }

    fn replace(&self, token: ClusterToken) {
        let held = self.current.load_full();
        if held.token == token {
            return;
        }
        tracing::info!(path = %self.path.display(), "token reread");
        self.current.store(Arc::new(Held { token, previous: Some((held.token.clone(), Instant::now())) }));
    }
}

fn read(path: &Path) -> Result<ClusterToken, TokenError> {
    let bytes = std::fs::read(path).map_err(|source| TokenError::Read { path: path.to_owned(), source })?;
    let token = ClusterToken::new(&bytes);
    if token.is_empty() { Err(TokenError::Empty { path: path.to_owned() }) } else { Ok(token) }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

/// What this node proves and checks requests with. Without a token file the ports are on loopback only, and the token
/// is empty.
#[derive(Debug)]
pub struct ClusterTokens(Option<TokenFile>);

impl ClusterTokens {
    /// From `--cluster-token-file`, if there is one.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn open(path: Option<&Path>) -> Result<Self, TokenError> {
        path.map(TokenFile::open).transpose().map(Self)
    }

    /// Whether requests must carry a proof.
    #[must_use]
    pub fn required(&self) -> bool {
        self.0.is_some()
    }

    /// The tokens to try in turn when proving to a peer that may not have read the newest yet.
    #[must_use]
    pub fn to_prove_with(&self) -> Vec<ClusterToken> {
        self.0.as_ref().map_or_else(|| vec![ClusterToken::new(b"")], TokenFile::accepted)
    }

    /// The token that a peer message's proof is of, if it holds. The answer is to be proved with it too: the peer may not
    /// have read a newer one yet.
    #[must_use]
    pub fn admitting_peer(&self, path: &str, to: &str, body: &[u8], proof: &str) -> Option<ClusterToken> {
        self.to_prove_with().into_iter().find(|token| token.admits_peer(path, to, body, proof))
    }

    /// Whether an admin request's proof holds; without a token every request does.
    #[must_use]
    pub fn admit_admin(&self, request: &AdminRequest<'_>, proof: &str) -> bool {
        !self.required() || self.to_prove_with().iter().any(|token| token.admits_admin(request, proof))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_token_is_reread_and_the_one_before_still_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "old\n").unwrap();
        let file = TokenFile::open(&path).unwrap();
        std::fs::write(&path, "new\n").unwrap();
        *file.looked.lock().unwrap() = (Instant::now().checked_sub(REREAD).unwrap(), None);
        assert_eq!(file.accepted(), [ClusterToken::new(b"new"), ClusterToken::new(b"old")]);
        let (tokens, old) = (ClusterTokens(Some(file)), ClusterToken::new(b"old"));
        let proof = old.prove_peer("/path", "node", b"body");
        assert_eq!(tokens.admitting_peer("/path", "node", b"body", &proof), Some(old));
        assert_eq!(tokens.admitting_peer("/path", "other", b"body", &proof), None);
    }

    #[test]
    fn an_unusable_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let missing = TokenFile::open(&path).unwrap_err().to_string();
        assert!(missing.contains("cannot read the token file") && missing.contains("token"), "{missing}");
        std::fs::write(&path, " \n").unwrap();
        assert!(TokenFile::open(&path).unwrap_err().to_string().contains("is empty"));
    }
}
