//! One node's process: started, watched, started again when it dies, stopped.
//!
//! The process reads a pipe that only this program holds the other end of, and ends when that closes: however this
//! program ends, no child outlives it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};

use super::view::PortsView;
use super::{log, ports};

/// The wait before the first new start. Short, because most deaths are a developer's `kill -9`.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// The longest wait between two starts of a process that keeps dying.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A process that lived this long is healthy: its next death starts the waits anew.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// How long a node may take to finish its requests and to flush: its own limit, given by flag.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(10);
/// After this time a stopping process is killed. A little more than its own limit.
const KILL_AFTER: Duration = Duration::from_secs(13);

/// What to run.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    /// Names the settings that the process is made from: while it is the same, there is no reason to start anew.
    pub(super) template: String,
    /// Where its output goes.
    pub(super) log: PathBuf,
    pub(super) ports: PortsView,
}

/// Whether the process should be running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Run,
    Stop,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Its end is the child's signal to go.
    _stdin: Option<ChildStdin>,
    pid: u32,
    since: Instant,
    launch: Launch,
    /// When it was asked to stop.
    asked: Option<Instant>,
}

/// A node's process over all of its starts.
#[derive(Debug)]
pub(super) struct Process {
    launch: Launch,
    wish: Wish,
    running: Option<Running>,
    /// Deaths since it was last healthy.
    failures: u32,
    restarts: u32,
    starts: u32,
    retry_at: Option<Instant>,
    /// How it ended last, when nobody had asked it to.
    ended: Option<String>,
    /// Whether that end still waits for its new start.
    died: bool,
    /// What keeps it from starting.
    blocked: Option<String>,
}

impl Process {
    /// A process that starts at the next [`Self::tend`].
    pub(super) fn new(launch: Launch) -> Self {
        Self {
            launch,
            wish: Wish::Run,
            running: None,
            failures: 0,
            restarts: 0,
            starts: 0,
            retry_at: None,
            ended: None,
            died: false,
            blocked: None,
        }
    }

    /// Its process id while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.pid)
    }

    /// How often it was started.
    pub(super) fn starts(&self) -> u32 {
        self.starts
    }

    /// How often it was started again after it had died.
    pub(super) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Why it does not run, or why it ended last.
    pub(super) fn note(&self) -> Option<&str> {
        self.blocked.as_deref().or(self.ended.as_deref())
    }

    /// Whether it has been asked to stop and has not ended yet.
    pub(super) fn is_stopping(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.asked.is_some())
    }

    /// The ports of the running process, or of the next one.
    pub(super) fn ports(&self) -> PortsView {
        self.running.as_ref().map_or(self.launch.ports, |running| running.launch.ports)
    }

    /// The ports of the next process.
    pub(super) fn next_ports(&self) -> PortsView {
        self.launch.ports
    }

    /// What the running process, or else the next one, is made from.
    pub(super) fn template(&self) -> &str {
        self.running.as_ref().map_or(&self.launch.template, |running| &running.launch.template)
    }

    /// What the next start runs; a running process goes on as it is until [`Self::renew`].
    pub(super) fn set_launch(&mut self, launch: Launch) {
        if self.launch.template != launch.template || self.launch.ports != launch.ports {
            // The new settings may be what it was failing for.
            self.retry_at = None;
        }
        self.launch = launch;
    }

    /// Stops the running process, so that it comes back with the newest settings.
    pub(super) fn renew(&mut self, now: Instant) {
        self.ask(now);
    }

    /// Stops the process for good.
    pub(super) fn stop(&mut self, now: Instant) {
        self.wish = Wish::Stop;
        self.ask(now);
    }

    /// Ends the process at once.
    pub(super) fn kill(&mut self) {
        self.wish = Wish::Stop;
        self.signal(Signal::KILL);
    }

    /// Takes note of an end, and starts what is due. Returns whether anything changed.
    pub(super) fn tend(&mut self, now: Instant) -> bool {
        let before = (self.pid(), self.note().map(str::to_owned));
        self.reap(now);
        let late = |running: &Running| running.asked.is_some_and(|asked| now.duration_since(asked) >= KILL_AFTER);
        if self.running.as_ref().is_some_and(late) {
            self.signal(Signal::KILL);
        }
        if self.running.is_none() && self.wish == Wish::Run && self.retry_at.is_none_or(|due| due <= now) {
            self.start(now);
        }
        before != (self.pid(), self.note().map(str::to_owned))
    }

    fn reap(&mut self, now: Instant) {
        let Some(running) = &mut self.running else { return };
        let status = match running.child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) => Ok(status),
            Err(error) => Err(error),
        };
        let log = running.launch.log.clone();
        let (asked, lived) = (running.asked.is_some(), now.duration_since(running.since));
        self.running = None;
        if asked {
            self.retry_at = None;
            return;
        }
        self.died = true;
        self.ended = Some(match status {
            Ok(status) => obituary(status, log::last_line(&log)),
            Err(error) => format!("lost: {error}"),
        });
        self.failures = if lived >= HEALTHY_AFTER { 1 } else { self.failures.saturating_add(1) };
        self.retry_at = now.checked_add(backoff(self.failures));
    }

    fn start(&mut self, now: Instant) {
        if let Some(port) = ports::taken(self.launch.ports) {
            self.blocked = Some(format!("port {port} is taken by another program; free it, and the node starts"));
            self.retry_at = now.checked_add(Duration::from_secs(1));
            return;
        }
        match spawn(&self.launch) {
            Ok(mut child) => {
                let stdin = child.stdin.take();
                let pid = child.id().unwrap_or_default();
                self.blocked = None;
                self.starts = self.starts.saturating_add(1);
                if std::mem::take(&mut self.died) {
                    self.restarts = self.restarts.saturating_add(1);
                } else {
                    self.ended = None;
                }
                self.running = Some(Running { child, _stdin: stdin, pid, since: now, launch: self.launch.clone(), asked: None });
            }
            Err(error) => {
                self.blocked = Some(format!("cannot be started: {error}"));
                self.failures = self.failures.saturating_add(1);
                self.retry_at = now.checked_add(backoff(self.failures));
            }
        }
    }

    fn ask(&mut self, now: Instant) {
        let Some(running) = self.running.as_mut().filter(|running| running.asked.is_none()) else { return };
        running.asked = Some(now);
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended in this moment; the next look at it says so. Its id is not free before that.
            let _ = kill_process(pid, signal);
        }
    }
}

/// The wait after the n-th death in a row.
fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(10);
    BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MAX)
}

fn obituary(status: ExitStatus, last_line: Option<String>) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => {
            let line = last_line.map_or_else(String::new, |line| format!(": {line}"));
            format!("exited with {code}{line}")
        }
        (None, None) => "ended".to_owned(),
    }
}

fn spawn(launch: &Launch) -> io::Result<Child> {
    let output = log::start(&launch.log)?;
    Command::new(&launch.program)
        .args(&launch.args)
        // The flags decide, and there is no Pod.
        .env_remove("COUNTER_POD_UID")
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(output)
        // A group of its own: Ctrl-C in the terminal reaches the operator alone, which then stops its children in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::path::Path;

    use super::*;

    fn launch(folder: &Path, script: &str) -> Launch {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        Launch {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            template: "old".to_owned(),
            log: folder.join("a.log"),
            ports: PortsView { http: free, admin: free, peer: free, resp: None },
        }
    }

    /// Tends the process until `done`, for as long as a loaded machine may take.
    async fn tend_until(process: &mut Process, done: impl Fn(&Process) -> bool) {
        for _ in 0..1000 {
            process.tend(Instant::now());
            if done(process) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {process:?}");
    }

    #[tokio::test]
    async fn a_killed_process_comes_back_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::new(launch(folder.path(), "exec cat"));
        tend_until(&mut process, |process| process.pid().is_some()).await;
        process.signal(Signal::KILL);
        tend_until(&mut process, |process| process.restarts() == 1).await;
        assert_eq!(process.note(), Some("killed by signal 9"));
        assert!(process.pid().is_some());
    }

    #[tokio::test]
    async fn a_process_that_cannot_go_on_is_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::new(launch(folder.path(), "echo the data folder is corrupt; exit 65"));
        tend_until(&mut process, |process| process.note().is_some()).await;
        assert_eq!(process.note(), Some("exited with 65: the data folder is corrupt"));
    }

    #[tokio::test]
    async fn a_stopped_process_stays_down_and_a_renewed_one_comes_back_new() {
        let folder = tempfile::tempdir().unwrap();
        let old = launch(folder.path(), "exec cat");
        let mut process = Process::new(old.clone());
        tend_until(&mut process, |process| process.pid().is_some()).await;
        let first = process.pid();

        process.set_launch(Launch { args: vec!["-c".into(), "exec sleep 100".into()], template: "new".to_owned(), ..old });
        assert_eq!(process.template(), "old");
        process.renew(Instant::now());
        assert!(process.is_stopping());
        tend_until(&mut process, |process| process.pid().is_some() && process.pid() != first).await;
        assert_eq!(process.template(), "new");
        assert_eq!((process.restarts(), process.note()), (0, None));

        process.stop(Instant::now());
        tend_until(&mut process, |process| process.pid().is_none()).await;
        process.tend(Instant::now());
        assert_eq!(process.pid(), None);
    }

    #[tokio::test]
    async fn a_taken_port_is_named_and_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut waiting = launch(folder.path(), "exec cat");
        let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        waiting.ports.peer = stranger.local_addr().unwrap().port();
        let mut process = Process::new(waiting.clone());
        process.tend(Instant::now());
        let expected = format!("port {} is taken by another program; free it, and the node starts", waiting.ports.peer);
        assert_eq!(process.note(), Some(expected.as_str()));
        drop(stranger);
        tend_until(&mut process, |process| process.pid().is_some()).await;
        assert_eq!(process.note(), None);
    }

    #[test]
    fn waits_double_up_to_a_limit() {
        assert_eq!([1, 2, 3].map(|failures| backoff(failures).as_millis()), [200, 400, 800]);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }
}
