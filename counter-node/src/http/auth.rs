//! The bearer tokens of which an update needs one, where `--api-token-file` asks for it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use subtle::{Choice, ConstantTimeEq as _};

use super::problem::Problem;
use crate::clock::millis;

/// How often the file is looked at, by the first request after that time.
const REREAD: Duration = Duration::from_secs(2);

/// Why the token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("cannot read the API token file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the API token file {} has no token in it", path.display())]
    Empty { path: PathBuf },
}

/// The tokens in a file, one a line, so that a new one can be handed out before the old one goes. The file is read
/// again when it changes; while it is gone or empty, the tokens stay as they were.
#[derive(Debug)]
pub struct ApiTokens {
    path: PathBuf,
    accepted: ArcSwap<Tokens>,
    since: Instant,
    /// When the file is looked at next, in milliseconds after `since`.
    look_at_ms: AtomicU64,
}

#[derive(PartialEq, Eq)]
struct Tokens(Vec<Vec<u8>>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

impl ApiTokens {
    /// Reads the file.
    ///
    /// # Errors
    /// [`TokenFileError`] when it cannot be read, or has no token in it.
    pub fn open(path: &Path) -> Result<Self, TokenFileError> {
        let accepted = ArcSwap::from_pointee(read(path)?);
        let look_at_ms = AtomicU64::new(millis(REREAD));
        Ok(Self { path: path.to_owned(), accepted, since: Instant::now(), look_at_ms })
    }

    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        self.reread(millis(self.since.elapsed()));
        let Some(authorization) = headers.get(AUTHORIZATION) else {
            return Err(Problem::unauthorized("The request carries no Authorization header."));
        };
        match bearer(authorization.as_bytes()) {
            Some(token) if self.accepted.load().contains(token) => Ok(()),
            Some(_) => Err(Problem::unauthorized("The request's token is not one of this node's.")),
            None => Err(Problem::unauthorized("The request's Authorization header is not of the form `Bearer TOKEN`.")),
        }
    }

    /// Whether an update with this header `Authorization` is admitted.
    pub(super) fn admits(&self, authorization: &[u8]) -> bool {
        bearer(authorization).is_some_and(|token| self.accepts(token))
    }

    /// Whether this is one of the tokens.
    pub fn accepts(&self, token: &[u8]) -> bool {
        self.reread(millis(self.since.elapsed()));
        self.accepted.load().contains(token)
    }

    fn reread(&self, now_ms: u64) {
        let look_at_ms = self.look_at_ms.load(Ordering::Relaxed);
        let next_ms = now_ms.saturating_add(millis(REREAD));
        let due = now_ms >= look_at_ms;
        // Whoever moves the time on reads the file; the others go on with what is there.
        if !due || self.look_at_ms.compare_exchange(look_at_ms, next_ms, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        match read(&self.path) {
            Ok(tokens) if tokens == **self.accepted.load() => {}
            Ok(tokens) => {
                tracing::info!(path = %self.path.display(), "API tokens reread");
                self.accepted.store(tokens.into());
            }
            Err(error) => tracing::warn!(%error, "the API token file cannot be used; the tokens stay as they were"),
        }
    }
}

impl Tokens {
    /// Takes the same time whichever token it is, and however much of it is right.
    fn contains(&self, token: &[u8]) -> bool {
        self.0.iter().fold(Choice::from(0), |found, accepted| found | accepted.as_slice().ct_eq(token)).into()
    }
}

/// The token of `Bearer TOKEN`; the scheme in any case.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let space = authorization.iter().position(|byte| *byte == b' ')?;
    let (scheme, token) = authorization.split_at(space);
    scheme.eq_ignore_ascii_case(b"bearer").then(|| token.trim_ascii())
}

fn read(path: &Path) -> Result<Tokens, TokenFileError> {
    let bytes = std::fs::read(path).map_err(|source| TokenFileError::Read { path: path.to_owned(), source })?;
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let tokens: Vec<_> = lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
    if tokens.is_empty() { Err(TokenFileError::Empty { path: path.to_owned() }) } else { Ok(Tokens(tokens)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(tokens: &ApiTokens, authorization: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization.parse().unwrap());
        tokens.admit(&headers).is_ok()
    }

    #[test]
    fn any_token_of_the_file_is_admitted_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        std::fs::write(&path, "first\n\n  second \n").unwrap();
        let tokens = ApiTokens::open(&path).unwrap();
        for authorization in ["Bearer first", "bearer second"] {
            assert!(admits(&tokens, authorization), "{authorization}");
        }
        for authorization in ["Bearer", "Bearer ", "Bearer firs", "Bearer first2", "Basic first", "first", "Bearer first second"]
        {
            assert!(!admits(&tokens, authorization), "{authorization}");
        }
        assert!(tokens.admit(&HeaderMap::new()).is_err());
        assert!(!format!("{tokens:?}").contains("first"));
    }

    #[test]
    fn a_changed_file_is_reread_and_an_unusable_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        assert!(matches!(ApiTokens::open(&path), Err(TokenFileError::Read { .. })));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(ApiTokens::open(&path), Err(TokenFileError::Empty { .. })));
        std::fs::write(&path, "old").unwrap();
        let tokens = ApiTokens::open(&path).unwrap();

        std::fs::write(&path, "new").unwrap();
        tokens.reread(millis(REREAD) - 1);
        assert!(admits(&tokens, "Bearer old"), "the file was looked at too early");
        tokens.reread(millis(REREAD));
        assert!(admits(&tokens, "Bearer new") && !admits(&tokens, "Bearer old"));

        std::fs::remove_file(&path).unwrap();
        tokens.reread(millis(REREAD) * 2);
        assert!(admits(&tokens, "Bearer new"));
    }
}
