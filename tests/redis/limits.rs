//! What clients can make the port hold, and who is refused beyond it.

use counter_tests::node::TestNode;

use crate::wire::Wire;

#[tokio::test]
async fn one_connection_too_many_is_told_so() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &["--max-connections", "2"])?;
    node.start_ready().await?;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::to(&node).await?;
        wire.ask("ping", "+PONG\r\n").await?;
        open.push(wire);
    }
    let mut refused = Wire::to(&node).await?;
    refused.expect("-ERR max number of clients reached\r\n").await?;
    open[0].ask("ping", "+PONG\r\n").await
}

#[tokio::test]
async fn who_breaks_the_protocol_is_answered_what_came_before_told_why_and_closed_on() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    node.start_ready().await?;
    for (sent, told) in [
        (b"*1\r\n$4\r\nPING\r\n*1\r\nx".to_vec(), "+PONG\r\n-ERR Protocol error: expected '$', got 'x'\r\n"),
        (b"*99999999\r\n".to_vec(), "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n$99999999\r\n".to_vec(), "-ERR Protocol error: invalid bulk length\r\n"),
        (vec![b'x'; 70_000], "-ERR Protocol error: too big inline request\r\n"),
    ] {
        let mut wire = Wire::to(&node).await?;
        wire.send(&sent).await?;
        wire.expect(told).await?;
        wire.closed().await?;
    }
    Wire::to(&node).await?.ask("ping", "+PONG\r\n").await
}

#[tokio::test]
async fn a_client_that_never_reads_makes_the_node_hold_little_and_others_are_served() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &["--storage", "memory"])?;
    node.start_ready().await?;
    let memory = || -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid().unwrap_or_default()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()?)
    };
    Wire::to(&node).await?.ask("ping", "+PONG\r\n").await?;
    let before = memory()?;
    let mut deaf = Wire::to(&node).await?;
    let echo = format!("*2\r\n$4\r\nECHO\r\n$60000\r\n{}\r\n", "x".repeat(60_000));
    // Until the node reads no more: it waits for its answers to be taken.
    let flood = async {
        for _ in 0..5_000 {
            deaf.send(echo.as_bytes()).await?;
        }
        anyhow::bail!("300 MB were taken in")
    };
    let stuck: Result<anyhow::Result<()>, _> = tokio::time::timeout(std::time::Duration::from_secs(3), flood).await;
    anyhow::ensure!(stuck.is_err(), "{stuck:?}");
    let held = memory()?.saturating_sub(before);
    assert!(held < 32 << 10, "{held} KiB");
    Wire::to(&node).await?.ask("ping", "+PONG\r\n").await
}
