//! Makes counters, many at a time, over RESP: one increment for each of so many keys of 16 bytes.

use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::bail;

use crate::http::Connection;

/// Commands sent before their answers are read.
const PIPELINE: u64 = 1_000;

/// The key of this number: 16 bytes.
pub(crate) fn key(number: u64) -> String {
    format!("key:{number:012}")
}

/// Increments the first keys, once each.
pub(crate) fn run(address: SocketAddr, counters: u64) -> anyhow::Result<()> {
    run_named(address, counters, key)
}

/// Increments so many keys of these names, once each.
pub(crate) fn run_named(address: SocketAddr, counters: u64, name: impl Fn(u64) -> String) -> anyhow::Result<()> {
    send(address, counters, |number, commands| {
        let key = name(number);
        Ok(write!(commands, "*2\r\n$4\r\nINCR\r\n${}\r\n{key}\r\n", key.len())?)
    })
}

/// Increments the first keys in turn, each time under another token, which says that it was made now.
pub(crate) fn run_tokens(address: SocketAddr, tokens: u64, keys: u64) -> anyhow::Result<()> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    send(address, tokens, |number, commands| {
        let key = key(number % keys);
        let head = "*4\r\n$4\r\nINCR\r\n$16\r\n";
        Ok(write!(commands, "{head}{key}\r\n$5\r\nTOKEN\r\n$26\r\n{now_ms:013}-{number:012}\r\n")?)
    })
}

type Commands = BufWriter<TcpStream>;

/// Sends so many increments, many at a time, and reads their answers.
fn send(address: SocketAddr, count: u64, command: impl Fn(u64, &mut Commands) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut answers = BufReader::with_capacity(1 << 16, stream.try_clone()?);
    let mut commands = BufWriter::with_capacity(1 << 16, stream);
    let mut line = String::new();
    let mut sent = 0;
    while sent < count {
        let upto = count.min(sent + PIPELINE);
        for number in sent..upto {
            command(number, &mut commands)?;
        }
        commands.flush()?;
        for _ in sent..upto {
            line.clear();
            answers.read_line(&mut line)?;
            if !line.starts_with(':') {
                bail!("an increment was answered with `{}`", line.trim_end());
            }
        }
        sent = upto;
    }
    Ok(())
}

/// Waits until every node's site total says that all of their increments have arrived everywhere.
pub(crate) fn wait_until_equal(nodes: &[SocketAddr], counters: u64) -> anyhow::Result<()> {
    let all = i64::try_from(counters)? * i64::try_from(nodes.len())?;
    let deadline = Instant::now() + Duration::from_secs(900);
    for node in nodes {
        while Connection::open(*node)?.count("GET", "/counter")? != all {
            if Instant::now() > deadline {
                bail!("the replicas are not equal after 900 s");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}
