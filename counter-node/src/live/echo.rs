//! An echo on the same WebSocket stack as the live connections, for conformance tests. Off unless asked for.

use futures::SinkExt as _;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::socket::{Ended, Socket, close, ended, next};
use super::wire::Line;
use crate::server::TakenOver;

/// The suite sends messages of up to 16 MiB.
const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Sends back what comes, until either end closes.
pub async fn serve(connection: TakenOver) {
    let TakenOver { stream, early, begin, cut } = connection;
    let config = WebSocketConfig::default()
        .read_buffer_size(64 << 10)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let mut socket = Socket::from_partially_read(Line::new(stream), early.to_vec(), Role::Server, Some(config)).await;
    let conversation = async {
        loop {
            match next(&mut socket).await {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if socket.send(message).await.is_err() {
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
