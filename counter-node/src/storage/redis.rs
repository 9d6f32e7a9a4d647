//! The store in an external Redis or Valkey, for nodes without a volume.
//!
//! Each node has its records to itself, under its cluster's prefix and its own name, as it would on a volume: so whoever
//! reasons about identities, retirements and what a node forgets need not know where it keeps them. Two processes of one
//! name cannot both write: the later takes the records by a number that every write must show.
//!
//! A commit is a script, or several for what is large, and returns when Redis has answered. The script takes the larger of
//! what is sent and what is there, part by part. A slot's generation and its counters change together; slots of one commit
//! may be written and others not when it fails, as records of different slots do not rest on each other.
//!
//! After any failure the connection is not used again. What Redis holds may then be older than what was acknowledged (a
//! fail-over, a restart without its log, `FLUSHALL`): [`Store::sync`] says so, for the committer to write everything again.

mod batch;
mod error;
mod keys;
mod link;
mod load;
mod msgpack;
mod parts;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use redis::Value;

pub use self::error::RedisFailure;
use self::keys::Keys;
use self::link::{Link, Script, Url, list, pairs, text};
use super::memory::put_all;
use super::{Durability, Record, Store, StoreError, Visitor};

/// The format of what is in Redis; independent of the volume's. Format 1 was never released, and is not read.
const FORMAT: u32 = 2;
/// Fields of the hash `meta` that are this module's own.
const OWN_FIELDS: [&str; 2] = ["format", "holder"];

/// Which Redis, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    /// The file that holds the URL; read at each connection, and looked at for changes.
    pub url_file: PathBuf,
    /// What all keys of the cluster begin with: its id.
    pub prefix: String,
    /// The node's name.
    pub node: String,
}

/// A connection that works, and what it was made from.
struct Open {
    link: Link,
    url: Url,
    /// What every write shows.
    holder: String,
}

enum State {
    Open(Box<Open>),
    /// It failed, or a reopening is under way.
    Broken,
    Closed,
}

/// Records in Redis.
pub struct RedisStore {
    config: RedisConfig,
    keys: Keys,
    /// This process, among those that may hold the records; hexadecimal digits.
    process: String,
    /// The number under which this process took the records last.
    number: AtomicU64,
    state: Mutex<State>,
    /// All of `meta` but this module's own.
    meta: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl RedisStore {
    /// Connects, takes the node's records, and hands each to `visitor`.
    ///
    /// # Errors
    /// When Redis cannot be reached or refuses, or the records are damaged or of a newer format.
    pub fn open(config: &RedisConfig, visitor: &Visitor<'_>) -> Result<Self, StoreError> {
        let store = Self {
            config: config.clone(),
            keys: Keys::new(&config.prefix, &config.node),
            process: format!("{:016x}", rand::random::<u64>()),
            number: AtomicU64::new(0),
            state: Mutex::new(State::Broken),
            meta: Mutex::default(),
        };
        let mut open = store.connect()?;
        load::load(&mut open.link, &store.keys, visitor)?;
        for advice in load::advice(&mut open.link) {
            tracing::warn!(advice, "the configuration of Redis");
        }
        *store.state() = State::Open(Box::new(open));
        Ok(store)
    }

    /// Connects, and takes the records: from whoever had them, if this process never did.
    fn connect(&self) -> Result<Open, RedisFailure> {
        let url = Url::read(&self.config.url_file)?;
        let mut link = Link::connect(&url, &self.config.url_file)?;
        let key = self.keys.meta();
        let held: Vec<(String, Vec<u8>)> = self.held().iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let number = self.number.load(Ordering::Acquire);
        let answer = link.run(&key, |link| {
            let mut call = link.call(Script::Open, std::slice::from_ref(&key));
            call.arg(FORMAT).arg(&self.process).arg(number);
            // The first time there is nothing to give.
            for (name, value) in held.iter().filter(|_| number > 0) {
                call.arg(name).arg(value);
            }
            vec![call]
        })?;
        let (holder, meta) = opened(answer).ok_or(RedisFailure::NotRedis)?;
        let taken = holder.split(' ').next().and_then(|number| number.parse().ok()).ok_or(RedisFailure::NotRedis)?;
        self.number.store(taken, Ordering::Release);
        *self.held() = meta;
        Ok(Open { link, url, holder })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_open<T>(state: &mut State, use_it: impl FnOnce(&mut Open) -> Result<T, RedisFailure>) -> Result<T, StoreError> {
        match state {
            State::Open(open) => use_it(open).map_err(|failure| {
                *state = State::Broken;
                failure.into()
            }),
            State::Broken => Err(StoreError::Broken),
            State::Closed => Err(StoreError::Closed),
        }
    }

    /// Whether the records are still ours, and the URL still the one in the file.
    fn look(&self, open: &mut Open) -> Result<(), RedisFailure> {
        // A file that is gone, or unusable, leaves the connection as it is.
        if Url::read(&self.config.url_file).is_ok_and(|url| url != open.url && url.is_usable()) {
            return Err(RedisFailure::UrlChanged);
        }
        let key = self.keys.meta();
        match open.link.ask(&[redis::cmd("HGET").arg(&key).arg("holder").to_owned()], &key)?.pop().and_then(text) {
            None => Err(RedisFailure::Lost),
            Some(holder) if holder != open.holder => Err(RedisFailure::Superseded),
            Some(_) => Ok(()),
        }
    }
}

/// What the script `open` answers: the holder's text, and `meta`.
fn opened(mut answers: Vec<Value>) -> Option<(String, BTreeMap<String, Vec<u8>>)> {
    let [holder, meta] = <[Value; 2]>::try_from(list(answers.pop()?)?).ok()?;
    let meta = pairs(meta)?.into_iter().map(|(name, value)| (String::from_utf8_lossy(&name).into_owned(), value));
    Some((text(holder)?, meta.filter(|(name, _)| !OWN_FIELDS.contains(&name.as_str())).collect()))
}

impl Store for RedisStore {
    fn commit(&self, records: &[Record], _durability: Durability) -> Result<(), StoreError> {
        let parts = batch::parts(records)?;
        Self::with_open(&mut self.state(), |open| batch::send(&mut open.link, &self.keys, &open.holder, &parts))
    }

    fn may_wait(&self, _records: &[Record]) -> bool {
        true
    }

    fn meta(&self, name: &str) -> Option<Vec<u8>> {
        self.held().get(name).cloned()
    }

    fn put_meta(&self, values: &[(&str, Option<&[u8]>)]) -> Result<(), StoreError> {
        let key = self.keys.meta();
        // Held until `meta` is as written, so that the order is the same in both places.
        let mut state = self.state();
        Self::with_open(&mut state, |open| {
            let holder = open.holder.clone();
            open.link.run(&key, |link| {
                let mut call = link.call(Script::Meta, std::slice::from_ref(&key));
                call.arg(&holder);
                for (name, value) in values {
                    call.arg(*name).arg(if value.is_some() { "=" } else { "-" }).arg(value.unwrap_or_default());
                }
                vec![call]
            })
        })?;
        put_all(&mut self.held(), values);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        Self::with_open(&mut self.state(), |_| Ok(()))
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.state.try_lock() {
            Ok(mut state) => Self::with_open(&mut state, |open| self.look(open)),
            Err(TryLockError::Poisoned(poisoned)) => Self::with_open(&mut poisoned.into_inner(), |open| self.look(open)),
            // Somebody writes, and will learn of it.
            Err(TryLockError::WouldBlock) => Ok(()),
        }
    }

    fn reopen(&self) -> Result<(), StoreError> {
        {
            let mut state = self.state();
            if matches!(*state, State::Closed) {
                return Err(StoreError::Closed);
            }
            *state = State::Broken;
        }
        // Not under the lock: whoever wants to write meanwhile is to be refused at once.
        let open = self.connect()?;
        let mut state = self.state();
        if matches!(*state, State::Closed) {
            return Err(StoreError::Closed);
        }
        *state = State::Open(Box::new(open));
        Ok(())
    }

    fn close(&self) -> Result<(), StoreError> {
        match std::mem::replace(&mut *self.state(), State::Closed) {
            State::Open(_) => Ok(()),
            State::Broken => Err(StoreError::Broken),
            State::Closed => Err(StoreError::Closed),
        }
    }
}
