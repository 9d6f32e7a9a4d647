//! A real Redis or Valkey on a loopback address, and what befalls it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;

use crate::ports;
use crate::process::{Process, signal};
use crate::wait::until;

/// How long a server that runs may take for an answer to a test.
const ANSWER_TIME: Duration = Duration::from_secs(5);
const STOP_GRACE: Duration = Duration::from_secs(30);
/// Every acknowledged write is on the disk.
pub const APPEND_ONLY: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// The servers that there are here, by path or by name: those that are installed, and the Valkey that `tests/redis/clients`
/// fetches. One that is missing is named on standard output, and left out.
///
/// # Panics
/// When both are missing.
#[must_use]
#[expect(clippy::print_stdout, reason = "what was not tested is said where tests say it")]
pub fn servers() -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let home = std::env::var_os("HOME").unwrap_or_default();
    let cache = std::env::var_os("DC_CACHE").map_or_else(|| Path::new(&home).join(".cache/distributed-counter"), PathBuf::from);
    folders.push(cache.join("redis/valkey/bin"));
    let find = |name: &str| {
        let found = folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file());
        if found.is_none() {
            println!("{name} is not installed: its tests are left out");
        }
        found.map(|program| program.display().to_string())
    };
    let found: Vec<String> = ["redis-server", "valkey-server"].into_iter().filter_map(find).collect();
    assert!(!found.is_empty(), "neither redis-server nor valkey-server is installed: a storage in Redis was not tested");
    found
}

/// One server: its address and folder, which outlive its processes, and its process while there is one.
#[derive(Debug)]
pub struct TestRedis {
    program: String,
    port: u16,
    folder: PathBuf,
    flags: Vec<String>,
    process: Option<Process>,
}

impl TestRedis {
    /// A server that runs and answers; its files are made in `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start(program: &str, folder: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let mut redis =
            Self { program: program.to_owned(), port: ports::free()?, folder: folder.to_owned(), flags, process: None };
        redis.restart().await?;
        Ok(redis)
    }

    /// Starts it again after it was killed, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", "", "--dir"]).arg(&self.folder);
        command.args(&self.flags);
        let log = self.folder.join("log");
        self.process = Some(Process::start(command, &log)?);
        until("the server answers", async || match self.connect() {
            Ok(_) => Ok(()),
            // It wants a password: it answers.
            Err(error) if error.to_string().contains("NOAUTH") => Ok(()),
            Err(error) => Err(error),
        })
        .await
        .with_context(|| crate::process::tail(&log))
    }

    /// Ends its process with SIGKILL.
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("the server does not run")?.kill().await
    }

    /// Ends its process in order.
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.process.take().context("the server does not run")?.stop(STOP_GRACE).await.map(drop)
    }

    /// Removes what it has on its disk.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn remove_files(&self) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.is_dir() {
                std::fs::remove_dir_all(path)?;
            } else if path.extension().is_some_and(|extension| extension == "rdb" || extension == "aof") {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Stops its process for a while.
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn pause(&self) -> anyhow::Result<()> {
        signal(self.pid()?, "STOP").await
    }

    /// Lets its process go on after [`Self::pause`].
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn resume(&self) -> anyhow::Result<()> {
        signal(self.pid()?, "CONT").await
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.process.as_ref().and_then(Process::pid).context("the server does not run")
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL without a password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The URL with the password of the default user.
    #[must_use]
    pub fn url_with(&self, password: &str) -> String {
        format!("redis://:{password}@127.0.0.1:{}", self.port)
    }

    /// Gives a command, on a connection of its own, and returns its answer.
    ///
    /// # Errors
    /// When the server refuses, or does not answer.
    pub fn ask(&self, words: &[&str]) -> anyhow::Result<redis::Value> {
        give(self.connect()?, words)
    }

    /// The same with the password of the default user.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn ask_as(&self, password: &str, words: &[&str]) -> anyhow::Result<redis::Value> {
        give(redis::Client::open(self.url_with(password))?.get_connection_with_timeout(ANSWER_TIME)?, words)
    }

    /// The keys that fit the pattern, sorted.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn keys(&self, pattern: &str) -> anyhow::Result<Vec<String>> {
        let mut keys: Vec<String> = redis::from_redis_value(self.ask(&["KEYS", pattern])?)?;
        keys.sort();
        Ok(keys)
    }

    fn connect(&self) -> anyhow::Result<redis::Connection> {
        let mut connection = redis::Client::open(self.url())?.get_connection_with_timeout(ANSWER_TIME)?;
        connection.set_read_timeout(Some(ANSWER_TIME))?;
        redis::cmd("PING").exec(&mut connection)?;
        Ok(connection)
    }
}

fn give(mut connection: redis::Connection, words: &[&str]) -> anyhow::Result<redis::Value> {
    let (name, arguments) = words.split_first().context("no command")?;
    Ok(redis::cmd(name).arg(arguments).query(&mut connection)?)
}
