//! What a port says to a client before it closes on it: whole answers, written without hyper.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// How many clients are told at once that they are too many; more are closed on without a word.
pub(super) const AT_ONCE: usize = 64;
/// How long a refused client may go on sending.
pub(super) const TIME: Duration = Duration::from_secs(1);

/// One answer: the status line's end, further headers, and the problem.
#[derive(Clone, Copy)]
pub(super) struct Refusal {
    status: &'static str,
    headers: &'static str,
    problem: &'static str,
}

pub(super) const TOO_MANY: Refusal = Refusal {
    status: "503 Service Unavailable",
    headers: "retry-after: 1\r\n",
    problem: r#"{"type":"/problems/overloaded","title":"The node has too much to do","status":503,"detail":"The port has as many connections open as it may. Try again."}"#,
};

pub(super) const HEAD_TOO_LONG: Refusal = Refusal {
    status: "431 Request Header Fields Too Large",
    headers: "",
    problem: r#"{"type":"about:blank","title":"Request Header Fields Too Large","status":431,"detail":"The request's head, its path included, is too long."}"#,
};

pub(super) const NO_HTTP: Refusal = Refusal {
    status: "400 Bad Request",
    headers: "",
    problem: r#"{"type":"/problems/bad-input","title":"The request is wrong","status":400,"detail":"The request's head is not valid HTTP."}"#,
};

impl Refusal {
    /// The whole answer.
    pub(super) fn text(self) -> String {
        let Self { status, headers, problem } = self;
        let length = problem.len();
        format!(
            "HTTP/1.1 {status}\r\n{headers}content-type: application/problem+json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{problem}"
        )
    }
}

/// Tells a client that it is one too many, beside the accept loop.
pub(super) fn too_many(mut stream: TcpStream, at_once: &Arc<Semaphore>, answer: Arc<str>) {
    let Ok(place) = Arc::clone(at_once).try_acquire_owned() else { return };
    tokio::spawn(async move {
        let _ = tokio::time::timeout(TIME, send(&mut stream, &answer)).await;
        drop(place);
    });
}

/// Sends the answer and closes.
pub(super) async fn send(stream: &mut TcpStream, answer: &str) -> io::Result<()> {
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing with unread bytes resets the connection, and the client might never see the answer.
    let mut unread = [0; 4096];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}
