//! A connection that sends bytes and sees bytes.

use std::time::Duration;

use anyhow::Context as _;
use counter_tests::node::TestNode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Long: only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Wire(TcpStream);

impl Wire {
    pub(crate) async fn to(node: &TestNode) -> anyhow::Result<Self> {
        Ok(Self(TcpStream::connect(node.entry.resp.as_deref().context("no Redis port")?).await?))
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.0.write_all(bytes).await?)
    }

    /// Reads exactly what is expected, or says what came.
    pub(crate) async fn expect(&mut self, expected: &str) -> anyhow::Result<()> {
        let mut came = Vec::new();
        while came.len() < expected.len() {
            let mut more = vec![0; expected.len() - came.len()];
            let read = tokio::time::timeout(PATIENCE, self.0.read(&mut more)).await;
            let read = read.with_context(|| format!("only {} of {expected:?}", came.escape_ascii()))??;
            anyhow::ensure!(read > 0, "closed after {} of {expected:?}", came.escape_ascii());
            came.extend_from_slice(&more[..read]);
            anyhow::ensure!(expected.as_bytes().starts_with(&came), "{} instead of {expected:?}", came.escape_ascii());
        }
        Ok(())
    }

    /// Sends inline requests in one write, and expects these answers.
    pub(crate) async fn ask(&mut self, requests: &str, expected: &str) -> anyhow::Result<()> {
        self.send(format!("{}\r\n", requests.replace('\n', "\r\n")).as_bytes()).await?;
        self.expect(expected).await.with_context(|| requests.to_owned())
    }

    /// Sends one inline request, and returns the one line of its answer.
    pub(crate) async fn line(&mut self, request: &str) -> anyhow::Result<String> {
        self.send(format!("{request}\r\n").as_bytes()).await?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let read = tokio::time::timeout(PATIENCE, self.0.read_u8()).await;
            line.push(read.with_context(|| format!("{request}: only {}", line.escape_ascii()))??);
        }
        Ok(String::from_utf8(line)?.trim_end().to_owned())
    }

    /// Waits until the node closes, with nothing said before.
    pub(crate) async fn closed(&mut self) -> anyhow::Result<()> {
        let mut rest = Vec::new();
        match tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.context("still open")? {
            Ok(_) => anyhow::ensure!(rest.is_empty(), "{} before the end", rest.escape_ascii()),
            Err(error) => anyhow::ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "{error}"),
        }
        Ok(())
    }
}
