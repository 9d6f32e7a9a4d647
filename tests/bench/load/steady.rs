//! RESP load at a fixed rate, whatever the server does: each request has its time, and its latency counts from then. What
//! holds the server up for a moment so shows in every request that falls into that moment.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::fill::key;
use crate::figures::Figures;
use crate::server::pin_this_thread;

/// Requests a second. Less than half of what the slowest row takes, so that no queue forms by itself.
const PER_SECOND: u64 = 40_000;
const CONNECTIONS: u64 = 4;
/// How many requests fall due on a connection at once, each millisecond.
const BATCH: u64 = PER_SECOND / 1_000 / CONNECTIONS;
/// Over how many keys they go.
pub(crate) const KEYS: u64 = 1_000_000;
/// Long enough for some segments of the log.
pub(crate) const SECONDS_MIN: u64 = 30;

/// Increments keys at random for so long.
pub(crate) fn run(address: SocketAddr, seconds: u64) -> anyhow::Result<Figures> {
    let begin = Instant::now() + Duration::from_millis(100);
    let one = |number| {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let (due, dues) = channel();
        let answers = stream.try_clone()?;
        let reader = thread::spawn(move || read(answers, &dues));
        let writer = thread::spawn(move || write(stream, &due, begin, seconds * 1_000, number));
        anyhow::Ok((reader, writer))
    };
    let connections: Vec<_> = (0..CONNECTIONS).map(one).collect::<Result<_, _>>()?;
    let mut all = Vec::new();
    for (reader, writer) in connections {
        writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        all.extend(reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??);
    }
    all.sort_by(f64::total_cmp);
    let at = |share: usize| all.get((all.len() * share / 10_000).min(all.len().saturating_sub(1))).copied();
    #[expect(clippy::cast_precision_loss, reason = "some millions")]
    let per_second = all.len() as f64 / Duration::from_secs(seconds).as_secs_f64();
    Ok(Figures {
        per_second: Some(per_second),
        p50_ms: at(5_000),
        p99_ms: at(9_900),
        p999_ms: at(9_990),
        max_ms: at(10_000),
        ..Figures::default()
    })
}

/// Sends what is due, each millisecond.
fn write(mut stream: TcpStream, due: &Sender<Instant>, begin: Instant, milliseconds: u64, seed: u64) -> anyhow::Result<()> {
    pin_this_thread(1)?;
    let mut random = seed + 1;
    for millisecond in 0..milliseconds {
        let at = begin + Duration::from_millis(millisecond);
        thread::sleep(at.saturating_duration_since(Instant::now()));
        let mut commands = Vec::new();
        for _ in 0..BATCH {
            // xorshift
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            write!(commands, "*2\r\n$4\r\nINCR\r\n$16\r\n{}\r\n", key(random % KEYS))?;
            due.send(at)?;
        }
        stream.write_all(&commands)?;
    }
    Ok(())
}

/// How long each took, in milliseconds.
fn read(answers: TcpStream, dues: &Receiver<Instant>) -> anyhow::Result<Vec<f64>> {
    pin_this_thread(1)?;
    let mut answers = BufReader::with_capacity(1 << 16, answers);
    let mut line = String::new();
    let mut all = Vec::new();
    for due in dues {
        line.clear();
        answers.read_line(&mut line).context("an increment was not answered")?;
        if !line.starts_with(':') {
            bail!("an increment was answered with `{}`", line.trim_end());
        }
        all.push(due.elapsed().as_secs_f64() * 1e3);
    }
    Ok(all)
}
