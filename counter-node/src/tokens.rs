//! Secrets from files that change under us: the cluster token, with the one before it, and the public API's token.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use counter_core::proof::{AdminRequest, BodyDigest, ClusterToken};

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

/// The cluster token in a file `…/token`, and the one before it in `…/previous` beside it, if that is there. Both are read
/// again when they change; a file that is empty or, for the token, gone leaves the token as it was.
///
/// Accepted are the token, and for ten minutes after a change was seen (the start of the process counts as one) the one
/// that `previous` holds and the one that this process held before. Taking `previous` away ends that at once.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    held: ArcSwap<Held>,
    looked: Mutex<Instant>,
}

#[derive(Debug)]
struct Held {
    token: ClusterToken,
    previous: Option<Earlier>,
    replaced: Option<Earlier>,
}

/// A token that is no longer the current one, since this was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Earlier {
    token: ClusterToken,
    since: Instant,
}

impl Earlier {
    fn is_accepted(&self) -> bool {
        self.since.elapsed() < PREVIOUS_ACCEPTED
    }
}

impl TokenFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`TokenError`], when it cannot be read or is empty.
    pub fn open(path: &Path) -> Result<Self, TokenError> {
        let token = read(path)?;
        let now = Instant::now();
        let previous = read_previous(path).map(|token| Earlier { token, since: now });
        let held = Held { token, previous, replaced: None };
        Ok(Self { path: path.to_owned(), held: ArcSwap::from_pointee(held), looked: Mutex::new(now) })
    }

    /// The tokens that count now, the current one first.
    fn accepted(&self) -> Vec<ClusterToken> {
        self.look(Instant::now());
        let held = self.held.load();
        let mut accepted = vec![held.token.clone()];
        for earlier in [&held.previous, &held.replaced].into_iter().flatten().filter(|earlier| earlier.is_accepted()) {
            if !accepted.contains(&earlier.token) {
                accepted.push(earlier.token.clone());
            }
        }
        accepted
    }

    /// Reads the files again, if it is time.
    fn look(&self, now: Instant) {
        // Whoever finds another at it goes on with what is there.
        let Ok(mut looked) = self.looked.try_lock() else { return };
        if now.duration_since(*looked) < REREAD {
            return;
        }
        *looked = now;
        let held = self.held.load_full();
        let token = read(&self.path).unwrap_or_else(|error| {
            tracing::warn!(%error, "the cluster token cannot be read again; the old one stays");
            held.token.clone()
        });
        let previous = match (read_previous(&self.path), &held.previous) {
            (Some(token), Some(known)) if known.token == token => Some(known.clone()),
            (found, _) => found.map(|token| Earlier { token, since: now }),
        };
        if token == held.token && previous == held.previous {
            return;
        }
        let replaced = if token != held.token {
            Some(Earlier { token: held.token.clone(), since: now })
        } else {
            held.replaced.clone().filter(|_| held.previous.is_none() || previous.is_some())
        };
        tracing::info!(path = %self.path.display(), "cluster token reread");
        self.held.store(Arc::new(Held { token, previous, replaced }));
    }
}

fn read(path: &Path) -> Result<ClusterToken, TokenError> {
    let bytes = std::fs::read(path).map_err(|source| TokenError::Read { path: path.to_owned(), source })?;
    let token = ClusterToken::new(&bytes);
    if token.is_empty() { Err(TokenError::Empty { path: path.to_owned() }) } else { Ok(token) }
}

fn read_previous(path: &Path) -> Option<ClusterToken> {
    read(&path.with_file_name("previous")).ok()
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
    pub fn admitting_peer(&self, path: &str, to: &str, body: &BodyDigest, proof: &str) -> Option<ClusterToken> {
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

    /// A token file, and how to let time pass for it.
    fn file(token: &str, previous: Option<&str>) -> (tempfile::TempDir, TokenFile) {
        let folder = tempfile::tempdir().unwrap();
        write(&folder, "token", token);
        previous.into_iter().for_each(|previous| write(&folder, "previous", previous));
        let file = TokenFile::open(&folder.path().join("token")).unwrap();
        (folder, file)
    }

    fn write(folder: &tempfile::TempDir, name: &str, token: &str) {
        std::fs::write(folder.path().join(name), format!("{token}\n")).unwrap();
    }

    fn look_again(file: &TokenFile) {
        *file.looked.lock().unwrap() -= REREAD;
    }

    /// As if all that was seen had been seen so much earlier.
    fn age(file: &TokenFile, by: Duration) {
        let Held { token, previous, replaced } = &*file.held.load_full();
        let aged = |earlier: &Option<Earlier>| {
            earlier.as_ref().map(|earlier| Earlier { since: earlier.since.checked_sub(by).unwrap(), ..earlier.clone() })
        };
        file.held.store(Arc::new(Held { token: token.clone(), previous: aged(previous), replaced: aged(replaced) }));
    }

    fn tokens<const N: usize>(texts: [&str; N]) -> Vec<ClusterToken> {
        texts.map(|text| ClusterToken::new(text.as_bytes())).to_vec()
    }

    #[test]
    fn a_changed_token_is_reread_and_the_one_before_still_accepted() {
        let (folder, file) = file("old", None);
        write(&folder, "token", "new");
        assert_eq!(file.accepted(), tokens(["old"]), "not before it is time to look");
        look_again(&file);
        assert_eq!(file.accepted(), tokens(["new", "old"]));
        age(&file, PREVIOUS_ACCEPTED);
        assert_eq!(file.accepted(), tokens(["new"]));
        write(&folder, "token", "");
        look_again(&file);
        assert_eq!(file.accepted(), tokens(["new"]), "an empty file leaves it as it was");
    }

    #[test]
    fn the_previous_token_is_accepted_while_its_file_is_there_and_no_longer_than_ten_minutes() {
        let (folder, file) = file("new", Some("old"));
        assert_eq!(file.accepted(), tokens(["new", "old"]));
        age(&file, PREVIOUS_ACCEPTED);
        assert_eq!(file.accepted(), tokens(["new"]));
        write(&folder, "token", "newer");
        write(&folder, "previous", "new");
        look_again(&file);
        assert_eq!(file.accepted(), tokens(["newer", "new"]), "once, although it is also what was held before");
        std::fs::remove_file(folder.path().join("previous")).unwrap();
        look_again(&file);
        assert_eq!(file.accepted(), tokens(["newer"]), "taken away");
    }

    #[test]
    fn the_token_that_admits_a_peer_is_told() {
        let (_folder, file) = file("new", Some("old"));
        let (tokens, old) = (ClusterTokens(Some(file)), ClusterToken::new(b"old"));
        let body = BodyDigest::of(b"body");
        let proof = old.prove_peer("/path", "node", &body);
        assert_eq!(tokens.admitting_peer("/path", "node", &body, &proof), Some(old));
        assert_eq!(tokens.admitting_peer("/path", "other", &body, &proof), None);
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
