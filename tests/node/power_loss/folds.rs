//! Power failures while the log's segments are folded into the checkpoint and used again.

use counter_tests::wait::PATIENCE;
use redis::aio::MultiplexedConnection;

use super::*;

const COUNTERS: usize = 1000;
/// Fewer than elsewhere: there is more to write and to compare.
const FAILURES: usize = 4;

/// Counters with long names: few rounds of them fill a segment.
fn counters() -> impl Iterator<Item = String> {
    (0..COUNTERS).map(|number| format!("{number:0>400}"))
}

async fn connect(node: &TestNode) -> anyhow::Result<MultiplexedConnection> {
    let (host, port) = node.redis()?;
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
    Ok(redis::Client::open(format!("redis://{host}:{port}"))?.get_multiplexed_async_connection_with_config(&config).await?)
}

/// Sends a command for each counter, all in one pipeline.
async fn each(connection: &mut MultiplexedConnection, command: &str) -> anyhow::Result<Vec<Option<i64>>> {
    let mut pipe = redis::pipe();
    for counter in counters() {
        pipe.cmd(command).arg(counter);
    }
    Ok(pipe.query_async(connection).await?)
}

/// Counts all counters up, round after round, until a segment was folded. Returns how often.
async fn count_rounds(node: &TestNode) -> anyhow::Result<i64> {
    let mut connection = connect(node).await?;
    let current = node.data().join("store/checkpoint/current");
    let empty = std::fs::read(&current)?;
    for round in 1..100 {
        assert_eq!(each(&mut connection, "INCR").await?, vec![Some(round); COUNTERS]);
        if std::fs::read(&current)? != empty {
            return Ok(round);
        }
    }
    anyhow::bail!("a hundred rounds were not folded: {}", node.log_tail())
}

impl Life {
    /// How many rounds a client knows all of in so many events.
    fn whole_rounds(&self, events: usize, rounds: i64) -> i64 {
        let told = self.told(events);
        let whole = |round: &i64| told.split("\r\n").filter(|&line| line == format!(":{round}")).count() == COUNTERS;
        (1..=rounds).rev().find(whole).unwrap_or(0)
    }
}

/// What each counter has, where it was never counted 0.
async fn counts(node: &TestNode) -> anyhow::Result<Vec<i64>> {
    let mut connection = connect(node).await?;
    Ok(each(&mut connection, "GET").await?.into_iter().map(Option::unwrap_or_default).collect())
}

#[tokio::test]
async fn always_loses_nothing_while_the_log_is_folded() -> anyhow::Result<()> {
    let mut random = random();
    let (mut life, rounds) = Life::of("Always", async |node, _| count_rounds(node).await).await?;
    for events in life.moments(FAILURES, "checkpoint", &mut random) {
        println!("after {events} of {} events", life.trace.events.len());
        let least = life.whole_rounds(events, rounds);
        life.after(events)?.lose_power(&mut random)?.replace(&life.node.data())?;
        life.node.start_ready().await?;
        let counts = counts(&life.node).await?;
        assert!(counts.iter().all(|count| (least..=rounds).contains(count)), "{counts:?} of {least} to {rounds}");
        let next: Vec<_> = counts.iter().map(|count| Some(count + 1)).collect();
        assert_eq!(each(&mut connect(&life.node).await?, "INCR").await?, next);
        life.node.kill().await?;
    }
    Ok(())
}

/// The process is killed when its keeper has just given or taken a name, so that the kernel alone knows of it; the next one goes on from there,
/// and the power fails when that has just done the same.
#[tokio::test]
async fn a_start_after_a_kill_builds_on_nothing_that_the_kernel_alone_has() -> anyhow::Result<()> {
    let mut random = random();
    let (mut life, rounds) = Life::of("Always", async |node, _| count_rounds(node).await).await?;
    let log = life.folder.path().join("trace");
    let by_keeper = |events: &usize| life.trace.calls[life.trace.events[events - 1].call].thread == "checkpoint";
    for killed in named(&life.trace).filter(by_keeper).collect::<Vec<_>>() {
        life.after(killed)?.seen()?.replace(&life.node.data())?;
        life.node.trace_to(Some(log.clone()));
        life.node.start_ready().await?;
        let pid = life.node.pid().context("it has ended")?;
        each(&mut connect(&life.node).await?, "INCR").await?;
        life.node.kill().await?;
        life.node.trace_to(None);
        let next = trace::read_ended(&log, pid).await?;
        std::fs::remove_file(&log)?;
        let least = life.whole_rounds(killed, rounds);
        for (failed, least) in named(&next).map(|failed| (failed, least)).chain([(next.events.len(), least + 1)]) {
            println!("killed after {killed} of {} events, and without power {failed} later", life.trace.events.len());
            for _ in 0..2 {
                life.after(killed)?.go_on(failed, &next)?.lose_power(&mut random)?.replace(&life.node.data())?;
                life.node.start_ready().await?;
                let counts = counts(&life.node).await?;
                assert!(counts.iter().all(|count| (least..=rounds + 1).contains(count)), "{counts:?} of {least} to {rounds}");
                life.node.kill().await?;
            }
        }
    }
    Ok(())
}
