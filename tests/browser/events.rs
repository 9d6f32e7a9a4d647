//! Server-sent events by the browser's own EventSource: it reads them by the HTML standard's rules, or not at all.

use counter_tests::http::Http;
use hyper::Method;
use serde_json::json;

use crate::chromium::Chromium;
use crate::gate::Gate;
use crate::tab::Tab;
use crate::viewers::node;

/// Keeps all that an EventSource says in `said`.
const LISTEN: &str = "
    globalThis.said = [];
    globalThis.source = new EventSource('/front-page/live?observe=true');
    source.addEventListener('hello', ({ data }) => said.push(['hello', JSON.parse(data)]));
    source.onmessage = ({ data, lastEventId }) => said.push(['message', JSON.parse(data), lastEventId]);
    0";
const COUNTS: &str = "said.filter(([name]) => name === 'message').map(([, { count }]) => count)";

#[tokio::test]
async fn an_event_source_hears_each_new_count_and_goes_on_after_a_break_where_it_was() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &[]).await?;
    let gate = Gate::to(&[&node.entry.http]).await?;
    let browser = Chromium::start()?;
    // Any document of the node's will do, but one that opens no connections by itself.
    let tab = Tab::open(&browser, &format!("{}/problems/range", gate.url())).await?;
    let http = Http::default();
    let put = format!("{}/front-page/counter", node.http());
    http.send(Method::PUT, &put, None).await?;
    tab.value(LISTEN).await?;
    tab.becomes(COUNTS, &json!([1])).await?;
    http.send(Method::PUT, &put, None).await?;
    tab.becomes(COUNTS, &json!([1, 2])).await?;
    let hello = tab.value("said[0]").await?;
    assert_eq!((&hello[0], &hello[1]["version"]), (&json!("hello"), &json!(1)), "{hello}");
    let message = tab.value("said.at(-1)").await?;
    assert!(message[1]["updated_at"].is_string() && message[2].as_str().is_some_and(|id| !id.is_empty()), "{message}");
    // The browser comes back by itself and says what it has: the same number is not sent again, a new one is.
    gate.cut();
    tab.becomes("source.readyState === EventSource.OPEN && said.filter(([name]) => name === 'hello').length", &json!(2)).await?;
    http.send(Method::PUT, &put, None).await?;
    tab.becomes(COUNTS, &json!([1, 2, 3])).await
}
