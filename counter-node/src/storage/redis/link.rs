//! A connection to Redis: made from the URL in a file, and asked in pipelines.

use std::path::Path;
use std::time::Duration;

use redis::{Cmd, Connection, ConnectionInfo, IntoConnectionInfo as _, Value, io::tcp::TcpSettings};

use super::RedisFailure;

/// How long a connection may take, with TLS and password.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// How long Redis may take for an answer. Longer, and updates would rather go to a sibling.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// The text of the URL, as it stands in the file. Not to be shown to anyone.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url(String);

impl Url {
    pub(super) fn read(path: &Path) -> Result<Self, RedisFailure> {
        let text = std::fs::read_to_string(path).map_err(|source| RedisFailure::UrlFile { path: path.to_path_buf(), source })?;
        Ok(Self(text.trim().to_owned()))
    }

    /// Whether it is a URL of a Redis at all.
    pub(super) fn is_usable(&self) -> bool {
        self.parse().is_some()
    }

    fn parse(&self) -> Option<ConnectionInfo> {
        let info = self.0.as_str().into_connection_info().ok()?;
        let settings = info.redis_settings().clone().set_lib_name("counter-node", env!("CARGO_PKG_VERSION"));
        // Else the last part of a pipeline waits for the answer to the first.
        Some(info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true)))
    }
}

/// A script, as Redis knows it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Script {
    Open,
    Meta,
    Commit,
}

const SCRIPTS: [&str; 3] = [include_str!("open.lua"), include_str!("meta.lua"), include_str!("commit.lua")];

/// A connection that works, until the first failure.
pub(super) struct Link {
    connection: Connection,
    /// What Redis calls the scripts, in the order of [`SCRIPTS`].
    hashes: [String; 3],
}

impl Link {
    /// Connects, and makes the scripts known.
    pub(super) fn connect(url: &Url, path: &Path) -> Result<Self, RedisFailure> {
        let unusable = || RedisFailure::Url { path: path.to_path_buf() };
        let client = redis::Client::open(url.parse().ok_or_else(unusable)?).map_err(|_| unusable())?;
        let connection = client.get_connection_with_timeout(CONNECT_TIME).map_err(|error| RedisFailure::connecting(&error))?;
        connection
            .set_read_timeout(Some(ANSWER_TIME))
            .and_then(|()| connection.set_write_timeout(Some(ANSWER_TIME)))
            .map_err(|error| RedisFailure::connecting(&error))?;
        let mut link = Self { connection, hashes: Default::default() };
        link.load_scripts()?;
        Ok(link)
    }

    fn load_scripts(&mut self) -> Result<(), RedisFailure> {
        let load = |script: &&str| redis::cmd("SCRIPT").arg("LOAD").arg(*script).to_owned();
        let hashes = self.ask(&SCRIPTS.iter().map(load).collect::<Vec<_>>(), "")?;
        for (hash, answer) in self.hashes.iter_mut().zip(hashes) {
            *hash = text(answer).ok_or(RedisFailure::NotRedis)?;
        }
        Ok(())
    }

    /// A call of a script; its arguments are to be added.
    pub(super) fn call(&self, script: Script, keys: &[String]) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.hashes[script as usize]).arg(keys.len()).arg(keys);
        call
    }

    /// Sends the commands at once and gives their answers. After an error the connection is not to be used again, but for
    /// [`RedisFailure::Refused`] with `NOSCRIPT`.
    pub(super) fn ask(&mut self, commands: &[Cmd], about: &str) -> Result<Vec<Value>, RedisFailure> {
        let mut packed = Vec::new();
        commands.iter().for_each(|command| command.write_packed_command(&mut packed));
        self.connection.send_packed_command(&packed).map_err(|error| RedisFailure::asking(&error))?;
        let mut refused = None;
        let mut answers = Vec::with_capacity(commands.len());
        for _ in commands {
            match self.connection.recv_response().and_then(Value::extract_error) {
                Ok(answer) => answers.push(answer),
                // The rest is still read, so that the connection stays in step.
                Err(error) if is_refusal(&error) => drop(refused.get_or_insert(error)),
                Err(error) => return Err(RedisFailure::asking(&error)),
            }
        }
        match refused {
            Some(error) => Err(RedisFailure::refused(&error, about)),
            None => Ok(answers),
        }
    }

    /// The same for calls of scripts, which may be repeated: `make` makes them. Redis may have been told to forget scripts.
    pub(super) fn run(&mut self, about: &str, make: impl Fn(&Self) -> Vec<Cmd>) -> Result<Vec<Value>, RedisFailure> {
        match self.ask(&make(self), about) {
            Err(RedisFailure::Refused { code, .. }) if code == "NOSCRIPT" => {
                self.load_scripts()?;
                self.ask(&make(self), about)
            }
            answered => answered,
        }
    }
}

fn is_refusal(error: &redis::RedisError) -> bool {
    matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension)
}

/// An answer as text.
pub(super) fn text(answer: Value) -> Option<String> {
    bytes(answer).and_then(|bytes| String::from_utf8(bytes).ok())
}

/// An answer as bytes.
pub(super) fn bytes(answer: Value) -> Option<Vec<u8>> {
    match answer {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        _ => None,
    }
}

/// An answer as a list.
pub(super) fn list(answer: Value) -> Option<Vec<Value>> {
    match answer {
        Value::Array(items) => Some(items),
        // As RESP3, which a URL may ask for, has it.
        Value::Map(pairs) => Some(pairs.into_iter().flat_map(|(name, value)| [name, value]).collect()),
        _ => None,
    }
}

/// Names and values.
pub(super) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// An answer that is names and values in turn.
pub(super) fn pairs(answer: Value) -> Option<Pairs> {
    let items = list(answer)?.into_iter().map(bytes).collect::<Option<Vec<_>>>()?;
    let mut items = items.into_iter();
    let mut pairs = Vec::with_capacity(items.len() / 2);
    while let Some(name) = items.next() {
        pairs.push((name, items.next()?));
    }
    Some(pairs)
}
