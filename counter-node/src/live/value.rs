//! A count as it is sent: written once, in the words of each way out.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use counter_core::hlc::Hlc;
use counter_core::key::KeyRef;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::{LiveMetrics, Subject};
use crate::http::moment;

/// What subscribers of a page are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    pub count: i64,
    pub updated_at: Option<Hlc>,
}

/// A count in words.
#[derive(Debug)]
pub struct Value {
    pub count: Count,
    /// It is how much a user has not read.
    pub is_unread: bool,
    /// As a WebSocket message.
    pub text: Utf8Bytes,
    /// That message in its frame.
    pub frame: Bytes,
    /// As a server-sent event, the empty line included.
    pub event: Bytes,
}

impl Value {
    /// Writes a count. `metrics` tell how often that happens: whoever is sent it shares what was written.
    pub(super) fn new(subject: &Subject, count: Count, metrics: &LiveMetrics) -> Self {
        metrics.written.fetch_add(1, Ordering::Relaxed);
        let Count { count: number, updated_at } = count;
        let updated_at = moment(updated_at).map_or_else(|| "null".to_owned(), |moment| format!("\"{moment}\""));
        let of = match subject {
            Subject::Site => "\"type\":\"count\",\"page\":null".to_owned(),
            Subject::Page(key) => format!("\"type\":\"count\",\"page\":{}", quoted(key.as_bytes())),
            Subject::User(key) => {
                format!("\"type\":\"unread\",\"user\":{}", quoted(KeyRef::from(key).user().unwrap_or_default()))
            }
        };
        let fields = format!("\"count\":{number},\"updated_at\":{updated_at}");
        let event = match subject {
            // Without an id, which would be taken for that of a page on the same stream.
            Subject::User(_) => format!("data: {{{fields}}}\n\n"),
            Subject::Site | Subject::Page(_) => format!("id: {}\ndata: {{{fields}}}\n\n", count.id()),
        };
        let is_unread = matches!(subject, Subject::User(_));
        let text = format!("{{{of},{fields}}}");
        Self { count, is_unread, frame: framed(&text), text: text.into(), event: event.into() }
    }
}

/// A text in one frame, as a server sends it: not masked.
pub(super) fn framed(text: &str) -> Bytes {
    let mut frame = Vec::with_capacity(text.len() + 10);
    let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
    // A vector takes all that is written.
    let _ = header.format(text.len() as u64, &mut frame);
    frame.extend_from_slice(text.as_bytes());
    frame.into()
}

fn quoted(text: &[u8]) -> String {
    serde_json::Value::from(String::from_utf8_lossy(text)).to_string()
}

impl Count {
    /// By what a client that has this one says so: the same for equal counts, on every node.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}.{:x}", self.count, self.updated_at.map_or(0, |moment| moment.0))
    }
}

#[cfg(test)]
mod tests {
    use counter_core::counter::Key;

    use super::*;

    #[test]
    fn a_count_is_written_for_both_ways_out() {
        let metrics = LiveMetrics::default();
        let page = Subject::Page(Key::new("a \"b\"\n".as_bytes()).unwrap());
        let value = Value::new(&page, Count { count: -3, updated_at: Some(Hlc::from_wall_ms(1_917_864_702_000)) }, &metrics);
        let text = r#"{"type":"count","page":"a \"b\"\n","count":-3,"updated_at":"2030-10-10T12:11:42Z"}"#;
        assert_eq!(value.text.as_str(), text);
        let event = "id: -3.1be8a0ed9b00000\ndata: {\"count\":-3,\"updated_at\":\"2030-10-10T12:11:42Z\"}\n\n";
        let id = format!("{:x}", Hlc::from_wall_ms(1_917_864_702_000).0);
        assert_eq!(std::str::from_utf8(&value.event).unwrap(), event.replace("1be8a0ed9b00000", &id));
        let user = Subject::User(Key::user("an\"n".as_bytes()).unwrap());
        let unread = Value::new(&user, Count { count: 3, updated_at: None }, &metrics);
        assert_eq!(unread.text.as_str(), r#"{"type":"unread","user":"an\"n","count":3,"updated_at":null}"#);
        assert_eq!(std::str::from_utf8(&unread.event).unwrap(), "data: {\"count\":3,\"updated_at\":null}\n\n");
        let site = Value::new(&Subject::Site, Count { count: 0, updated_at: None }, &metrics);
        assert_eq!(site.text.as_str(), r#"{"type":"count","page":null,"count":0,"updated_at":null}"#);
    }
}
