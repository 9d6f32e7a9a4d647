//! What clients say on a live connection, once the frames are off.

use std::sync::atomic::Ordering;
use std::time::Duration;

use counter_node::live::{AdmissionLimits, Live, LiveConfig, Mode, PAGES_MAX, Subject, Subscriptions, Who, messages};
use serde_json::Value;

/// Each line is a message. Whatever it is, it has an answer that is documented; a client never looks at more pages than it may,
/// and when it goes nothing of it is left. It is the same for one whose session has an id, which is counted elsewhere.
pub(crate) fn said(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for session in [None, Some("s".to_owned())] {
            say(bytes, session).await;
        }
    });
}

async fn say(bytes: &[u8], session: Option<String>) {
    let admission = AdmissionLimits { open: 8, per_address: None, per_second: 1_000 };
    let live =
        Live::alone(LiveConfig { heartbeat: Duration::from_secs(20), lease: Duration::from_secs(5), admission, unread_max: 8 });
    let has_id = session.is_some();
    let mut client = Subscriptions::new(live.clone(), Who { session, ..Who::default() });
    client.add(vec![Subject::Site], Mode::View).unwrap();
    let figures = || [&live.metrics.subscriptions, &live.metrics.sessions].map(|figure| figure.load(Ordering::Relaxed));
    for text in bytes.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
        let answer: Value = serde_json::from_str(&messages::answer(&mut client, text)).unwrap();
        match answer["type"].as_str() {
            Some("pong") => {}
            // It has done what it was asked for, and nothing else.
            Some("subscribed" | "unsubscribed") => assert_eq!(answer["pages"], asked(text), "{text}"),
            Some("error") => {
                let problem = &answer["problem"];
                assert!(problem["type"].as_str().is_some_and(|kind| kind.starts_with("/problems/")), "{text}: {answer}");
                assert!(matches!(problem["status"].as_u64(), Some(400..=499)), "{text}: {answer}");
            }
            _ => panic!("{text} is answered {answer}"),
        }
        let [subscriptions, sessions] = figures();
        assert!(subscriptions <= PAGES_MAX as u64 && sessions <= subscriptions, "{subscriptions} pages, {sessions} as a viewer");
        assert!(live.hub.pages().len() as u64 <= PAGES_MAX as u64);
    }
    drop(client);
    // What holders of sessions with ids are told, they are told beside it.
    for _ in 0..PAGES_MAX * 4 * usize::from(has_id) {
        tokio::task::yield_now().await;
    }
    assert_eq!((figures(), live.hub.pages().len()), ([0, 0], 0));
}

fn asked(text: &str) -> Value {
    serde_json::from_str::<Value>(text).unwrap()["pages"].take()
}

pub(crate) fn said_seeds() -> Vec<Vec<u8>> {
    let many: Vec<String> = (0..60).map(|number| format!(r#""page-{number}""#)).collect();
    let many = format!(r#"{{"type":"subscribe","pages":[{}]}}"#, many.join(","));
    let more = many.replace("page-", "other-");
    [
        r#"{"type":"ping"}"#.to_owned(),
        "{\"type\":\"subscribe\",\"pages\":[\"a\",\"b\"],\"observe\":true}\n{\"type\":\"subscribe\",\"pages\":[\"a\"]}"
            .to_owned(),
        "{\"type\":\"subscribe\",\"pages\":[\"a\",\"a\"]}\n{\"type\":\"unsubscribe\",\"pages\":[\"a\",\"b\"]}".to_owned(),
        format!("{many}\n{more}\n{}\n{more}", many.replace("subscribe", "unsubscribe")),
        "{\"pages\":[\"\\ud83d\\ude00\"],\"type\":\"subscribe\"}\n{\"type\":\"shout\"}\n[]\n[\"ping\"]\n7".to_owned(),
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect()
}
