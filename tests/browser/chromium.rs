//! A headless Chromium, driven by its DevTools protocol over two pipes: messages are JSON, each ended by a zero byte.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};

/// How long one command may take: far more than it takes, also on a machine that does much else.
const COMMAND_TIME: Duration = Duration::from_secs(60);
/// Where Debian and others put it.
const PROGRAMS: [&str; 3] = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const FLAGS: [&str; 8] = [
    "--headless",
    "--no-sandbox", // which needs rights that containers do not give; only the tests' own pages are opened
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-pipe",
    "--lang=en-US",
];

/// A browser; it ends when it is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Chromium(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    commands: mpsc::UnboundedSender<String>,
    shared: Arc<Mutex<Shared>>,
    _child: Child,
    _profile: TempDir,
}

/// What has come, and who waits for what.
#[derive(Debug, Default)]
struct Shared {
    last_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    /// Complaints by session: whatever a developer would see in red.
    complaints: HashMap<String, Vec<String>>,
}

impl Chromium {
    /// Starts one with a profile of its own.
    ///
    /// # Errors
    /// When there is none, or it does not start.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let profile = tempfile::tempdir()?;
        let program = PROGRAMS.iter().find(|program| Path::new(program).exists());
        let program = program.context("there is no Chromium: install Debian's chromium")?;
        let log = std::fs::File::create(profile.path().join("log"))?;
        // It reads commands from its third file and writes to its fourth.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh", program])
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let (input, output) = child.stdin.take().zip(child.stdout.take()).context("the browser has no pipes")?;
        let (commands, to_send) = mpsc::unbounded_channel();
        let shared = Arc::<Mutex<Shared>>::default();
        tokio::spawn(send(input, to_send));
        tokio::spawn(receive(output, shared.clone()));
        Ok(Self(Arc::new(Inner { commands, shared, _child: child, _profile: profile })))
    }

    /// Sends a command, to a tab's session or to the browser itself, and waits for its result.
    ///
    /// # Errors
    /// What the browser says is wrong.
    pub(crate) async fn command(&self, session: Option<&str>, method: &str, parameters: Value) -> anyhow::Result<Value> {
        let answer = self.submit(session, method, parameters)?;
        let answer = tokio::time::timeout(COMMAND_TIME, answer).await.with_context(|| format!("no answer to {method}"))?;
        let mut answer = answer.with_context(|| format!("the browser ended before it answered {method}"))?;
        if let Some(error) = answer.get("error") {
            bail!("{method}: {error}");
        }
        Ok(answer["result"].take())
    }

    /// Sends a command whose answer may never come.
    ///
    /// # Errors
    /// When the browser has ended.
    pub(crate) fn submit(
        &self,
        session: Option<&str>,
        method: &str,
        parameters: Value,
    ) -> anyhow::Result<oneshot::Receiver<Value>> {
        let (sender, receiver) = oneshot::channel();
        let mut message = json!({"method": method, "params": parameters});
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        let mut shared = self.shared();
        shared.last_id += 1;
        message["id"] = json!(shared.last_id);
        let id = shared.last_id;
        shared.waiting.insert(id, sender);
        self.0.commands.send(message.to_string()).context("the browser has ended")?;
        Ok(receiver)
    }

    /// What a tab's console has complained of so far.
    #[must_use]
    pub(crate) fn complaints(&self, session: &str) -> Vec<String> {
        self.shared().complaints.get(session).cloned().unwrap_or_default()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.0.shared)
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn send(mut input: ChildStdin, mut to_send: mpsc::UnboundedReceiver<String>) {
    while let Some(mut message) = to_send.recv().await {
        message.push('\0');
        if input.write_all(message.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn receive(output: ChildStdout, shared: Arc<Mutex<Shared>>) {
    let mut output = BufReader::new(output);
    let mut message = Vec::new();
    while output.read_until(0, &mut message).await.is_ok_and(|bytes| bytes > 0) {
        message.pop();
        if let Ok(message) = serde_json::from_slice::<Value>(&message) {
            take(&mut lock(&shared), message);
        }
        message.clear();
    }
    lock(&shared).waiting.clear();
}

fn take(shared: &mut Shared, message: Value) {
    if let Some(waiting) = message["id"].as_u64().and_then(|id| shared.waiting.remove(&id)) {
        // Whoever asked may have given up.
        let _ = waiting.send(message);
        return;
    }
    let said = &message["params"];
    let complaint = match message["method"].as_str() {
        Some("Runtime.exceptionThrown") => Some(said["exceptionDetails"].to_string()),
        Some("Runtime.consoleAPICalled")
            if ["error", "warning", "assert"].contains(&said["type"].as_str().unwrap_or_default()) =>
        {
            Some(said["args"].to_string())
        }
        Some("Log.entryAdded") if ["error", "warning"].contains(&said["entry"]["level"].as_str().unwrap_or_default()) => {
            Some(format!("{} {}", said["entry"]["text"], said["entry"]["url"]))
        }
        Some("Audits.issueAdded") if said["issue"]["code"] == "ContentSecurityPolicyIssue" => Some(said["issue"].to_string()),
        _ => None,
    };
    if let Some((complaint, session)) = complaint.zip(message["sessionId"].as_str()) {
        shared.complaints.entry(session.to_owned()).or_default().push(complaint);
    }
}
