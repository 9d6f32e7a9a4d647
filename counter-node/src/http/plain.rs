//! What nearly all clients send, `GET` and `PUT` of a counter, read from the bytes that came and answered without hyper, which would
//! take more instructions than all of the rest.
//!
//! Here nothing is decided that is not decided the same way there: what has a header that this file does not understand, or is wrong in
//! any way, is left to the handlers, whose words for it are the only ones.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::time::{SystemTime, UNIX_EPOCH};

use counter_core::counter::Key;
use httparse::{Header, Status};
use hyper::header::HeaderValue;
use hyper::http::response::Parts;
use hyper::{HeaderMap, Method, StatusCode};

use super::negotiate::Form;
use super::problem::Problem;
use super::route::{Route, method_index};
use super::{Api, Backend, Reply, Shared, counter, idempotency, page, reply};
use crate::own_writes::UNTOLD;
use crate::router::{Reading, Write};
use crate::server::Plain;

/// More headers than that are left to hyper.
const HEADERS_MAX: usize = 24;

/// Headers by which an answer may differ, beside those that are read here; to all others nobody pays any heed.
const LEFT_TO_HYPER: [&str; 7] = ["counter-session", "if-none-match", "transfer-encoding", "expect", "upgrade", "te", "trailer"];

/// One of the two requests.
pub struct PlainRequest {
    key: Key,
    /// None: a read.
    write: Option<Write>,
    /// The page that sent it, where that matters.
    origin: Option<HeaderValue>,
}

/// What it is answered.
pub enum PlainAnswer {
    /// An update that was counted, and of which there is nothing to say but the number: nearly all. Its head is always the same.
    Counted(Reading),
    Other(Reply),
}

/// What the headers that are read here say.
#[derive(Default)]
struct Said<'b> {
    length: Option<usize>,
    is_json: bool,
    token: Option<&'b [u8]>,
    authorization: Option<&'b [u8]>,
    origin: Option<&'b [u8]>,
}

impl<B: Backend> Plain for Api<B> {
    type Request = PlainRequest;
    type Answer = PlainAnswer;

    fn read(&self, received: &[u8]) -> Option<(PlainRequest, usize)> {
        self.0.plain(received)
    }

    async fn answer(&self, request: PlainRequest) -> PlainAnswer {
        self.0.plainly(request).await
    }

    fn write(&self, answer: PlainAnswer, last: bool, answers: &mut Vec<u8>) {
        match answer {
            PlainAnswer::Counted(reading) => {
                answers.extend_from_slice(self.0.head_of_counted());
                reply::with_json(&reading, |body| write_end(body, last, answers));
            }
            PlainAnswer::Other(reply) => write(reply, last, answers),
        }
    }
}

impl<B: Backend> Shared<B> {
    /// The request at the beginning of `received`, and its length, if it is one of these and all there.
    fn plain(&self, received: &[u8]) -> Option<(PlainRequest, usize)> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut head = httparse::Request::new(&mut []);
        let Ok(Status::Complete(head_length)) = head.parse_with_uninit_headers(received, &mut headers) else { return None };
        let is_update = match head.method? {
            "GET" => false,
            "PUT" => true,
            _ => return None,
        };
        let path = head.path.filter(|path| path.bytes().all(is_plain))?;
        let (Some(Route::Counter(page)), Some(1)) = (Route::of(path), head.version) else { return None };
        let said = Said::by(head.headers)?;
        let length = head_length.checked_add(said.length.unwrap_or(0))?;
        let body = received.get(head_length..length)?;
        let write = if is_update { Some(self.plain_write(&said, body)?) } else { None };
        if !is_update && said.length.is_some() {
            return None;
        }
        let origin = if self.cors.is_open() { said.origin.map(HeaderValue::from_bytes).transpose().ok()? } else { None };
        Some((PlainRequest { key: page::key(page).ok()?, write, origin }, length))
    }

    fn plain_write(&self, said: &Said<'_>, body: &[u8]) -> Option<Write> {
        if let Some(tokens) = &self.tokens
            && !tokens.admits(said.authorization?)
        {
            return None;
        }
        if body.len() > self.limits.body_bytes || !(said.is_json || body.is_empty()) {
            return None;
        }
        let token = said.token.map(idempotency::of).transpose().ok()?;
        Some(Write { action: counter::json_action(body).ok()?, token })
    }

    async fn plainly(&self, PlainRequest { key, write, origin }: PlainRequest) -> PlainAnswer {
        let method = if write.is_some() { Method::PUT } else { Method::GET };
        let (route, method) = (Route::Counter("").index(), method_index(&method));
        let answered = match self.begin() {
            Ok(_under_way) => self.count(key, write, origin.is_none()).await,
            Err(problem) => Err(problem),
        };
        let answered = match answered {
            Ok(PlainAnswer::Counted(reading)) => {
                self.metrics.answered(route, method, StatusCode::OK.as_u16());
                return PlainAnswer::Counted(reading);
            }
            Ok(PlainAnswer::Other(reply)) => Ok(reply),
            Err(problem) => Err(problem),
        };
        PlainAnswer::Other(self.finish((route, method), origin.as_ref(), answered))
    }

    /// `to_anyone`: the answer is the same whatever page asks.
    async fn count(&self, key: Key, write: Option<Write>, to_anyone: bool) -> Result<PlainAnswer, Problem> {
        let Some(write) = write else {
            let reading = self.backend.read_after(&UNTOLD, key).await?;
            return Ok(PlainAnswer::Other(reply::read(&reading, Form::Json, None, &mut ROOM.take())));
        };
        let reading = self.backend.update_after(&UNTOLD, key, write).await?;
        let is_ordinary = to_anyone && !reading.clamped && !reading.replayed;
        Ok(if is_ordinary { PlainAnswer::Counted(reading) } else { PlainAnswer::Other(self.updated(&reading)) })
    }

    fn updated(&self, reading: &Reading) -> Reply {
        counter::updated(self, &UNTOLD, (Form::Json, ROOM.take()), reading)
    }

    /// The head of what an ordinary update is answered, without what [`write_end`] adds: the handlers', written once.
    fn head_of_counted(&self) -> &[u8] {
        self.head_of_counted.get_or_init(|| {
            let mut reply = self.updated(&Reading::default());
            self.cors.finish(None, &mut reply);
            let (head, _) = reply.into_parts();
            let mut written = Vec::new();
            write_head(&head, &mut written);
            written.into()
        })
    }
}

impl<'b> Said<'b> {
    /// None: something that is not read here.
    fn by(headers: &[Header<'b>]) -> Option<Self> {
        let mut said = Self::default();
        for Header { name, value } in headers {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is("content-length") {
                set(&mut said.length, length(value)?)?;
            } else if is("content-type") {
                said.is_json = *value == b"application/json";
                said.is_json.then_some(())?;
            } else if is("accept") {
                matches!(*value, b"*/*" | b"application/json").then_some(())?;
            } else if is("connection") {
                value.eq_ignore_ascii_case(b"keep-alive").then_some(())?;
            } else if is("idempotency-key") {
                set(&mut said.token, value)?;
            } else if is("authorization") {
                set(&mut said.authorization, value)?;
            } else if is("origin") {
                set(&mut said.origin, value)?;
            } else if LEFT_TO_HYPER.into_iter().any(is) {
                return None;
            }
        }
        Some(said)
    }
}

/// Once.
fn set<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

fn length(value: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(value).ok().filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// What a path consists of that is not looked at more closely.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@".contains(&byte)
}

/// Appends the answer as HTTP/1.1 has it.
fn write(answer: Reply, last: bool, into: &mut Vec<u8>) {
    let (mut head, content) = answer.into_parts();
    write_head(&head, into);
    // Counters and problems are never streams.
    write_end(&content.into_whole().unwrap_or_default(), last, into);
    head.headers.clear();
    ROOM.set(head.headers);
}

/// Appends what a handler says of an answer.
fn write_head(head: &Parts, into: &mut Vec<u8>) {
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| into.extend_from_slice(part));
    let reason = head.status.canonical_reason().unwrap_or_default();
    put(&[b"HTTP/1.1 ", head.status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
    for (name, value) in &head.headers {
        put(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
}

/// Appends what the connection adds to the head, and the body.
fn write_end(body: &[u8], last: bool, into: &mut Vec<u8>) {
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| into.extend_from_slice(part));
    put(&[b"content-length: ", itoa::Buffer::new().format(body.len()).as_bytes(), b"\r\ndate: ", &date(), b"\r\n"]);
    if last {
        put(&[b"connection: close\r\n"]);
    }
    put(&[b"\r\n", body]);
}

thread_local! {
    /// Room for the headers of the next answer, without content: those of the last one.
    static ROOM: Cell<HeaderMap> = Cell::default();
}

/// The length of `Sun, 06 Nov 1994 08:49:37 GMT`.
const DATE_BYTES: usize = 29;

thread_local! {
    /// The second that this thread wrote last.
    static WRITTEN: Cell<(u64, [u8; DATE_BYTES])> = const { Cell::new((u64::MAX, [b' '; DATE_BYTES])) };
}

/// Now, as the header `date` has it (RFC 9110 §5.6.7).
fn date() -> [u8; DATE_BYTES] {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (last, text) = WRITTEN.get();
    if second == last {
        return text;
    }
    let mut text = [b' '; DATE_BYTES];
    let written = httpdate::fmt_http_date(now);
    text.copy_from_slice(written.as_bytes());
    WRITTEN.set((second, text));
    text
}
