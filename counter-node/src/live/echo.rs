//! An echo for conformance tests, made of the live connections' own parts: they are accepted, read, answered and closed alike, with the
//! same buffers. Short texts go out as counts do, past the task's own way out, and all else as answers do. Off unless asked for.
//!
//! Two things differ: messages may be as long as the suite's, and nobody is pinged, so that the suite's silent cases end by themselves.

use std::iter::once;
use std::pin::Pin;

use futures::future::poll_fn;
use tokio::io::AsyncWrite as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::socket::{Ended, Socket, accept, close, ended, next, poll_send};
use super::value::framed;
use super::wire::{Told, Wire};
use crate::server::TakenOver;

/// The suite sends messages of up to 16 MiB.
const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Texts that go out as counts do: the longest count has a page's name in it, each byte of which may be written as six.
const COUNT_BYTES_MAX: usize = 4 << 10;

/// Sends back what comes, until either end closes.
pub async fn serve(connection: TakenOver) {
    let TakenOver { stream, early, begin, cut } = connection;
    let (mut socket, wire) = accept(stream, early, MESSAGE_BYTES_MAX).await;
    let conversation = async {
        loop {
            match next(&mut socket).await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if answer(&mut socket, &wire, message).await.is_err() {
                        return Ended::Gone;
                    }
                }
                // Pings are answered below, when there is more to read or to write.
                Some(Ok(_)) => {}
                Some(Err(error)) => return ended(&error),
                None => return Ended::Gone,
            }
        }
    };
    let how = tokio::select! {
        how = conversation => how,
        () = begin.cancelled() => Ended::Stopped,
        () = cut.cancelled() => Ended::Stopped,
    };
    if let Ended::Close(code, reason) = how {
        cut.run_until_cancelled(close(socket, code, reason)).await;
    }
}

async fn answer(socket: &mut Socket, wire: &Wire, message: Message) -> Result<(), Error> {
    if let Message::Text(text) = &message
        && text.len() <= COUNT_BYTES_MAX
    {
        match wire.tell(|| Some(framed(text))) {
            Told::Whole | Told::Nothing => return Ok(()),
            Told::Begun => {
                // What is left goes out before this nothing.
                let mut line = socket.get_mut();
                poll_fn(|cx| Pin::new(&mut line).poll_write(cx, &[])).await?;
                return Ok(());
            }
            Told::Later => {}
        }
    }
    let mut messages = once(message);
    poll_fn(|cx| poll_send(socket, &mut messages, cx)).await
}
