//! A relay in front of a port, which can be cut: a partition between processes that goes on answering everyone else.

use std::io;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Cuts and mends all relays that were made with it.
#[derive(Debug, Clone)]
pub struct Cut(watch::Sender<bool>);

impl Default for Cut {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Cut {
    /// Breaks every connection, and takes no new ones.
    pub fn cut(&self) {
        self.0.send_replace(true);
    }

    /// Takes connections again.
    pub fn mend(&self) {
        self.0.send_replace(false);
    }
}

/// A relay, until it is dropped.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub address: String,
    task: JoinHandle<()>,
}

impl Relay {
    /// A relay to `target`.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(target: &str, cut: &Cut) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (target, cut) = (target.to_owned(), cut.0.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target.clone(), cut.subscribe()));
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends with either side, and when it is cut.
async fn carry(mut client: TcpStream, target: String, mut cut: watch::Receiver<bool>) {
    if *cut.borrow_and_update() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = cut.wait_for(|cut| *cut) => {}
    }
}
