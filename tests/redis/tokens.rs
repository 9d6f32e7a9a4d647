//! Updates under tokens: each counts once, and what is refused is refused in so many words.

use std::time::{SystemTime, UNIX_EPOCH};

use counter_tests::exact::token;
use counter_tests::node::{Cluster, TestNode};

use crate::wire::Wire;

/// A command that takes a token.
struct Case {
    /// What stands before the page.
    name: &'static str,
    /// What stands behind it.
    by: &'static str,
    /// What it answers for a page that counts 10.
    first: &'static str,
    /// What it answers when it is repeated after one more was counted.
    again: &'static str,
    /// What the page counts in the end.
    count: i64,
    /// Another update, for which its token is no good.
    other: &'static str,
}

const CASES: [Case; 9] = [
    Case { name: "INCR", by: "", first: ":11\r\n", again: ":12\r\n", count: 12, other: "INCRBY PAGE 2" },
    Case { name: "DECR", by: "", first: ":9\r\n", again: ":10\r\n", count: 10, other: "INCR PAGE" },
    Case { name: "INCRBY", by: " 5", first: ":15\r\n", again: ":16\r\n", count: 16, other: "INCRBY PAGE 6" },
    Case { name: "DECRBY", by: " 5", first: ":5\r\n", again: ":6\r\n", count: 6, other: "DEL PAGE" },
    Case { name: "DEL", by: "", first: ":1\r\n", again: ":0\r\n", count: 1, other: "DECR PAGE" },
    Case { name: "UNLINK", by: "", first: ":1\r\n", again: ":0\r\n", count: 1, other: "INCR PAGE" },
    Case { name: "SET", by: " 5", first: "+OK\r\n", again: "+OK\r\n", count: 6, other: "SET PAGE 6" },
    // What it replaced, and when it is repeated the number as it is then.
    Case { name: "GETSET", by: " 5", first: "$2\r\n10\r\n", again: "$1\r\n6\r\n", count: 6, other: "INCR PAGE" },
    Case { name: "SET", by: " 5 GET keepttl", first: "$2\r\n10\r\n", again: "$1\r\n6\r\n", count: 6, other: "DEL PAGE" },
];

impl Case {
    /// Its page at the shard whose pages are called like this.
    fn page(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.name)
    }

    fn request(&self, prefix: &str, token: &str) -> String {
        format!("{} {}{} TOKEN {token}", self.name, self.page(prefix), self.by)
    }
}

/// A token made so many seconds from now.
fn made_in(seconds: i64) -> anyhow::Result<String> {
    let now_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    Ok(format!("{}-x", now_ms + seconds * 1_000))
}

/// Each case on a page that counts 10; returns the tokens that were taken.
async fn each_counts_once(wire: &mut Wire, prefix: &str) -> anyhow::Result<Vec<String>> {
    let mut taken = Vec::new();
    for case in &CASES {
        let (page, token) = (case.page(prefix), token()?);
        let request = case.request(prefix, &token);
        assert_eq!(wire.line(&format!("SET {page} 10")).await?, "+OK");
        wire.ask(&request, case.first).await?;
        wire.line(&format!("INCR {page}")).await?;
        for _ in 0..2 {
            wire.ask(&request.to_lowercase().replace(&page.to_lowercase(), &page), case.again).await?;
        }
        let other = format!("{} TOKEN {token}", case.other.replace("PAGE", &page));
        assert_eq!(wire.line(&other).await?, "-ERR TOKEN has been used for another update of this key", "{other}");
        wire.ask(&format!("GET {page}"), &format!("${}\r\n{}\r\n", case.count.to_string().len(), case.count)).await?;
        taken.push(token);
    }
    Ok(taken)
}

#[tokio::test]
async fn an_update_under_a_token_counts_once_and_what_is_wrong_with_one_changes_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &["--max-tokens", &CASES.len().to_string()])?;
    node.start_ready().await?;
    let mut wire = Wire::to(&node).await?;
    let taken = each_counts_once(&mut wire, "page-").await?;
    for (case, taken) in CASES.iter().zip(&taken) {
        let (page, long) = (case.page("page-"), "x".repeat(256));
        for (token, answer) in [
            (
                made_in(-3_600)?,
                "-ERR the token was made more than 600000 ms ago, and whether it has been counted is not known any more",
            ),
            (made_in(3_600)?, "-ERR the token was made "),
            (long, "-ERR invalid TOKEN: it must have 1 to 255 characters"),
            ("\"\"".to_owned(), "-ERR invalid TOKEN: it must have 1 to 255 characters"),
            ("\"a b\"".to_owned(), "-ERR invalid TOKEN: it must consist of visible ASCII characters"),
            (token()?, "-OOM not applied: the node remembers 9 tokens, its limit"),
        ] {
            let (request, is_future) = (case.request("page-", &token), answer.ends_with("made "));
            let told = wire.line(&request).await?;
            assert!(
                told == answer || is_future && told.starts_with(answer) && told.ends_with(" ms in the future"),
                "{request}: {told}"
            );
        }
        // Known ones are recognised all the same.
        wire.ask(&case.request("page-", taken), case.again).await?;
        let count = case.count.to_string();
        wire.ask(&format!("GET {page}"), &format!("${}\r\n{count}\r\n", count.len())).await?;
    }
    Ok(())
}

#[tokio::test]
async fn another_shards_counter_is_updated_once_too() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 1, &[]).await?;
    let tag = cluster.page_of(1)?;
    each_counts_once(&mut Wire::to(&cluster.nodes[0]).await?, &format!("{{{tag}}}")).await?;
    Ok(())
}

#[tokio::test]
async fn a_reset_of_what_does_not_exist_takes_nothing_away_when_it_is_repeated() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    node.start_ready().await?;
    let mut wire = Wire::to(&node).await?;
    wire.ask("del a TOKEN once\nincr a\ndel a TOKEN once\nget a", ":0\r\n:1\r\n:0\r\n$1\r\n1\r\n").await
}

#[tokio::test]
async fn where_a_token_has_no_place_nothing_is_changed() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    node.start_ready().await?;
    let mut wire = Wire::to(&node).await?;
    wire.ask("set a 1\nset b 2\nset TOKEN 3\nset t 4", &"+OK\r\n".repeat(4)).await?;
    let of_one_key = "-ERR TOKEN goes with one key and one token, as in DEL key TOKEN token: nothing was reset";
    for (request, answer) in [
        ("DEL a b TOKEN t", of_one_key),
        ("DEL a TOKEN", of_one_key),
        ("DEL a token t b", of_one_key),
        ("UNLINK a b TOKEN t", of_one_key),
        ("SET a 5 TOKEN", "-ERR syntax error"),
        ("SET a 5 TOKEN t GET", "-ERR syntax error"),
        ("GETSET a 5 TOKEN", "-ERR wrong number of arguments for 'getset' command"),
        ("INCR a TOKEN", "-ERR wrong number of arguments for 'incr' command"),
        ("INCRBY a 5 TOKEN", "-ERR wrong number of arguments for 'incrby' command"),
        ("DECR a t TOKEN", "-ERR wrong number of arguments for 'decr' command"),
    ] {
        assert_eq!(wire.line(request).await?, answer, "{request}");
    }
    wire.ask("mget a b TOKEN t", "*4\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$1\r\n4\r\n").await?;
    // A page of that name is reset alone, or as the first.
    wire.ask("del TOKEN\nset TOKEN 3\ndel TOKEN a\nset TOKEN 3\ndel TOKEN TOKEN t", ":1\r\n+OK\r\n:2\r\n+OK\r\n:1\r\n").await?;
    wire.ask("mget a b TOKEN t", "*4\r\n$-1\r\n$1\r\n2\r\n$-1\r\n$1\r\n4\r\n").await
}
