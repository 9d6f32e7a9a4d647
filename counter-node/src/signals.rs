//! What ends the process: SIGTERM, SIGINT, and for a child of `operator local` the end of its standard input.

use std::io::{self, Read as _};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after a second signal: whoever sends one does not want to wait for a graceful stop. Nothing that was
/// acknowledged is lost by it.
const EXIT_AT_ONCE: i32 = 130;

/// A token that is cancelled when the process shall stop.
///
/// # Errors
/// When the signals cannot be listened to.
pub fn stop(on_stdin_close: bool) -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopping = stop.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if stopping.is_cancelled() {
                std::process::exit(EXIT_AT_ONCE);
            }
            tracing::info!(signal = name, "stopping");
            stopping.cancel();
        }
    });
    if on_stdin_close {
        follow_stdin(stop.clone())?;
    }
    Ok(stop)
}

/// A plain thread, because a read of standard input cannot be cancelled and would hold up the end of the runtime.
fn follow_stdin(stop: CancellationToken) -> io::Result<()> {
    let follow = move || {
        let mut ignored = [0; 256];
        while matches!(io::stdin().lock().read(&mut ignored), Ok(1..)) {}
        tracing::info!("standard input closed, stopping");
        stop.cancel();
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(follow).map(drop)
}
