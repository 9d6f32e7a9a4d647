//! The peer of live connections: tokio-tungstenite alone, with the least that tells everyone what one of them says.

use std::net::SocketAddr;

use futures::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// As the library advises for many connections, in the place of 128 KiB.
const READ_BYTES: usize = 4 << 10;
/// Messages that a slow client may be behind.
const BEHIND: usize = 16;

/// Serves until the process is ended.
pub(crate) fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let (told, _) = broadcast::channel(BEHIND);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(converse(stream, told.clone(), told.subscribe()));
        }
    })
}

/// Ends with its client.
async fn converse(stream: TcpStream, say: broadcast::Sender<Utf8Bytes>, mut told: broadcast::Receiver<Utf8Bytes>) -> Option<()> {
    let config = WebSocketConfig::default().read_buffer_size(READ_BYTES);
    let mut socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await.ok()?;
    loop {
        tokio::select! {
            said = socket.next() => {
                if let Message::Text(text) = said?.ok()? {
                    drop(say.send(text));
                }
            }
            text = told.recv() => match text {
                Ok(text) => socket.send(Message::Text(text)).await.ok()?,
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            },
        }
    }
}
