//! What one node answers, word for word.

use counter_tests::http::Http;
use counter_tests::node::TestNode;
use hyper::Method;
use tempfile::TempDir;

use crate::wire::Wire;

async fn node(flags: &[&str]) -> anyhow::Result<(TempDir, TestNode)> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), flags)?;
    node.start_ready().await?;
    Ok((folder, node))
}

#[tokio::test]
async fn counters_are_counted_set_and_read() -> anyhow::Result<()> {
    let (_folder, node) = node(&[]).await?;
    let mut wire = Wire::to(&node).await?;
    wire.ask("get a", "$-1\r\n").await?;
    wire.ask("incr a\nincrby a 41\ndecr a\ndecrby a -1\nget a", ":1\r\n:42\r\n:41\r\n:42\r\n$2\r\n42\r\n").await?;
    wire.ask("set a -5\nget a\nset a 7 get\ngetset a 9\nget a", "+OK\r\n$2\r\n-5\r\n$2\r\n-5\r\n$1\r\n7\r\n$1\r\n9\r\n").await?;
    wire.ask("getset new 1\nmget a nobody new", "$-1\r\n*3\r\n$1\r\n9\r\n$-1\r\n$1\r\n1\r\n").await?;
    // The public API counts the same counters.
    let (http, url) = (Http::default(), format!("{}/a/counter", node.http()));
    assert_eq!(http.send(Method::PUT, &url, None).await?.json_of(hyper::StatusCode::OK)?["count"], 10);
    wire.ask("get a", "$2\r\n10\r\n").await
}

#[tokio::test]
async fn what_was_reset_is_gone_until_it_is_counted_again_and_zero_is_a_number() -> anyhow::Result<()> {
    let (_folder, node) = node(&[]).await?;
    let mut wire = Wire::to(&node).await?;
    wire.ask("incr a\ndecr a\nset b 0\nincr c", ":1\r\n:0\r\n+OK\r\n:1\r\n").await?;
    wire.ask("mget a b\nexists a b c a nobody\ndbsize", "*2\r\n$1\r\n0\r\n$1\r\n0\r\n:4\r\n:3\r\n").await?;
    wire.ask("del a b nobody a\nget a\nexists a\ntype a\ntype c\ndbsize", ":2\r\n$-1\r\n:0\r\n+none\r\n+string\r\n:1\r\n")
        .await?;
    wire.ask("ttl a\nttl c\nscan 0", ":-2\r\n:-1\r\n*2\r\n$1\r\n0\r\n*1\r\n$1\r\nc\r\n").await?;
    wire.ask("incr a\ndbsize", ":1\r\n:2\r\n").await
}

#[tokio::test]
async fn refusals_are_worded_as_redis_words_them_and_change_nothing() -> anyhow::Result<()> {
    let (_folder, node) = node(&["--max-counters", "2"]).await?;
    let mut wire = Wire::to(&node).await?;
    wire.ask("set a 9223372036854775807\nset b 5", "+OK\r\n+OK\r\n").await?;
    let number = "-ERR value is not an integer or out of range\r\n";
    for (request, answer) in [
        ("incr a", "-ERR increment or decrement would overflow\r\n"),
        ("decrby b -9223372036854775808", "-ERR decrement would overflow\r\n"),
        ("incrby b 1.5", number),
        ("incrby b 01", number),
        ("set b abc", number),
        ("incr", "-ERR wrong number of arguments for 'incr' command\r\n"),
        ("incr b 2", "-ERR wrong number of arguments for 'incr' command\r\n"),
        ("get a b", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("set b 1 bogus", "-ERR syntax error\r\n"),
        ("set b 1 ex 5", "-ERR SET option EX is not supported: counters neither expire nor are set on a condition\r\n"),
        ("incr c", "-OOM not applied: the node holds 2 counters, its limit\r\n"),
        ("incr \"\"", "-ERR invalid key: it must not be empty\r\n"),
        ("nonsense x 'y z'", "-ERR unknown command 'nonsense', with args beginning with: 'x' 'y z' \r\n"),
        ("append b 1", "-ERR 'append' is not supported: every key is a counter\r\n"),
        ("incrbyfloat b 1.5", "-ERR INCRBYFLOAT is not supported: counters are whole numbers\r\n"),
        (
            "lpush b 1",
            "-WRONGTYPE Operation against a key holding the wrong kind of value: every key is a counter, 'lpush' is not served\r\n",
        ),
        ("select 1", "-ERR DB index is out of range\r\n"),
        ("client bogus", "-ERR unknown subcommand 'bogus'. Try CLIENT HELP.\r\n"),
        ("command list filterby nothing x", "-ERR syntax error\r\n"),
        ("command list filterby module x", "*0\r\n"),
        ("flushall", "-ERR FLUSHALL is refused: this node was started without --resp-flush\r\n"),
        ("hello 4", "-NOPROTO unsupported protocol version\r\n"),
        (
            "auth x",
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n",
        ),
    ] {
        wire.ask(request, answer).await?;
    }
    wire.ask("mget a b c", "*3\r\n$19\r\n9223372036854775807\r\n$1\r\n5\r\n$-1\r\n").await
}

#[tokio::test]
async fn additions_that_come_again_and_again_are_answered_one_by_one() -> anyhow::Result<()> {
    let (_folder, node) = node(&[]).await?;
    let mut wire = Wire::to(&node).await?;
    let request = |words: &[&str]| {
        let args: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        format!("*{}\r\n{args}", words.len())
    };
    let (up, down) = (request(&["INCR", "page"]), request(&["DECRBY", "page", "2"]));
    let last = request(&["INCRBY", "edge", "9223372036854775806"]);
    let token = request(&["INCR", "page", "TOKEN", "once"]);
    wire.send([up.repeat(3), down.repeat(2), token.repeat(2), last.repeat(2)].concat().as_bytes()).await?;
    wire.expect(":1\r\n:2\r\n:3\r\n:1\r\n:-1\r\n:0\r\n:0\r\n").await?;
    wire.expect(":9223372036854775806\r\n-ERR increment or decrement would overflow\r\n").await?;
    let (skip, ping) = (request(&["CLIENT", "REPLY", "SKIP"]), request(&["PING"]));
    wire.send([skip.as_str(), &up, &up, &ping.repeat(2), &up].concat().as_bytes()).await?;
    wire.expect(":2\r\n+PONG\r\n+PONG\r\n:3\r\n").await
}

#[tokio::test]
async fn a_pipeline_that_comes_in_pieces_is_answered_in_order() -> anyhow::Result<()> {
    let (_folder, node) = node(&[]).await?;
    let mut wire = Wire::to(&node).await?;
    let stream = "*2\r\n$4\r\nINCR\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n".repeat(500);
    let expected: String = (1..=500).map(|count| format!(":{count}\r\n+PONG\r\n")).collect();
    for piece in stream.as_bytes().chunks(997) {
        wire.send(piece).await?;
    }
    wire.expect(&expected).await
}

#[tokio::test]
async fn clients_choose_their_protocol_and_which_replies_they_want() -> anyhow::Result<()> {
    let (_folder, node) = node(&[]).await?;
    let mut wire = Wire::to(&node).await?;
    wire.ask("client reply skip\nincr a\nincr a", ":2\r\n").await?;
    wire.ask("client reply off\nincr a\nbogus\nclient reply on\nget a", "+OK\r\n$1\r\n3\r\n").await?;
    wire.ask("client setname me\nclient getname\nselect 0\nreadonly", "+OK\r\n$2\r\nme\r\n+OK\r\n+OK\r\n").await?;
    wire.send(b"hello 3\r\n").await?;
    wire.expect("%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n").await?;
    let mut wire = Wire::to(&node).await?;
    wire.send(b"hello 3 setname x\r\nget nobody\r\nconfig get save\r\nreset\r\nget nobody\r\nquit\r\n").await?;
    let greeting = "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:2\r\n\
         $4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n";
    wire.expect(&format!("{greeting}_\r\n%1\r\n$4\r\nsave\r\n$0\r\n\r\n+RESET\r\n$-1\r\n+OK\r\n")).await?;
    wire.closed().await
}

#[tokio::test]
async fn a_token_of_the_public_api_is_the_password() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tokens");
    std::fs::write(&file, "secret\n")?;
    let mut node = TestNode::alone(folder.path(), &["--api-token-file", file.to_str().unwrap()])?;
    node.start_ready().await?;
    let mut wire = Wire::to(&node).await?;
    let refused = "-NOAUTH Authentication required.\r\n";
    wire.ask("incr a\nping\nbogus", &refused.repeat(3)).await?;
    wire.ask("auth wrong\nauth other secret", &"-WRONGPASS invalid username-password pair or user is disabled.\r\n".repeat(2))
        .await?;
    wire.ask("auth secret\nincr a\nreset\nincr a", &format!("+OK\r\n:1\r\n+RESET\r\n{refused}")).await?;
    wire.ask("auth default secret\nget a", "+OK\r\n$1\r\n1\r\n").await?;
    // Who has not authenticated may not make the node hold much.
    let mut stranger = Wire::to(&node).await?;
    stranger.send(b"*11\r\n").await?;
    stranger.expect("-ERR Protocol error: unauthenticated multibulk length\r\n").await?;
    stranger.closed().await
}

#[tokio::test]
async fn scan_goes_through_all_counters_even_of_one_large_slot_and_flushing_resets_them() -> anyhow::Result<()> {
    let (_folder, node) = node(&["--resp-flush"]).await?;
    let mut connection = redis::Client::open(format!("redis://{}/", node.entry.resp.as_deref().unwrap()))?
        .get_multiplexed_async_connection()
        .await?;
    let names: std::collections::BTreeSet<String> =
        (0..3_000).map(|number| if number % 3 == 0 { format!("page-{number}") } else { format!("{{tag}}{number}") }).collect();
    for part in names.iter().collect::<Vec<_>>().chunks(500) {
        let mut pipe = redis::pipe();
        for name in part {
            pipe.incr(name, 1);
        }
        pipe.exec_async(&mut connection).await?;
    }
    for (pattern, prefix) in [("*", ""), ("page-*", "page-"), ("{tag}*", "{tag}")] {
        let (mut cursor, mut found) = (0_u64, std::collections::BTreeSet::new());
        loop {
            let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(pattern)
                .arg("COUNT")
                .arg(100)
                .query_async(&mut connection)
                .await?;
            found.extend(keys);
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        let expected: std::collections::BTreeSet<String> =
            names.iter().filter(|name| name.starts_with(prefix)).cloned().collect();
        assert_eq!(found, expected, "{pattern}");
    }
    let size: usize = redis::cmd("DBSIZE").query_async(&mut connection).await?;
    assert_eq!(size, names.len());
    let () = redis::cmd("FLUSHALL").query_async(&mut connection).await?;
    let size: usize = redis::cmd("DBSIZE").query_async(&mut connection).await?;
    assert_eq!(size, 0);
    Ok(())
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_kill_9() -> anyhow::Result<()> {
    let (_folder, mut node) = node(&[]).await?;
    let mut wire = Wire::to(&node).await?;
    wire.ask("incrby a 5\nset b 7\nset c 9\ndel c", ":5\r\n+OK\r\n+OK\r\n:1\r\n").await?;
    node.kill().await?;
    node.start_ready().await?;
    Wire::to(&node).await?.ask("mget a b c", "*3\r\n$1\r\n5\r\n$1\r\n7\r\n$-1\r\n").await
}
