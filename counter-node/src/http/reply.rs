//! The words of an answer: the two fields of every counter, written by hand because nearly all requests end here.

use std::cell::Cell;

use bytes::Bytes;
use counter_core::hlc::Hlc;
use counter_core::vector;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, VARY};
use hyper::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::negotiate::Form;
use super::problem::Problem;
use super::{Content, Reply, etag, html, reply};
use crate::router::{Detailed, Reading};

/// Set where concurrent updates have taken the sum past the range of `count`.
const CLAMPED: HeaderName = HeaderName::from_static("counter-clamped");

/// A counter.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Counter {
    /// The number.
    #[schema(example = 715)]
    count: i64,
    /// When it last changed, RFC 3339 in UTC; null when it never did.
    #[schema(format = DateTime, example = "2030-10-10T12:11:42Z")]
    updated_at: Option<String>,
}

/// A counter with `?detail=true`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DetailedCounter {
    #[serde(flatten)]
    counter: Counter,
    /// The number without viewers. It can be past the range of `count`, where many updates came at the same time.
    #[schema(value_type = i64)]
    tally: i128,
    /// Who looks at the page now: sessions, not people.
    viewers: u64,
    /// How many people these are, as far as they have said who they are; those who have not are one each. Absent for the
    /// site, whose pages may share people.
    #[serde(skip_serializing_if = "Option::is_none")]
    unique: Option<u64>,
    /// Whether `unique` is an estimate, as it is of many.
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_is_estimate: Option<bool>,
    /// At a moment while this was asked for the number, all replicas taken together, was not below this: what some of them have and
    /// others have not got yet is between `min` and `max`. Absent where a replica did not tell what it has, of a page that is spread
    /// over virtual shards, and of the site, unless each shard has one replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<i64>,
    /// Nor above this. Absent together with `min`.
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<i64>,
    /// For how long the replica that has been silent longest has been so, in milliseconds: what it has counted since is
    /// missing. What the others count is missing for a replication tick, 50 ms, at most while they keep up.
    staleness_ms: u64,
    /// How many replicas stand behind the number: heard from in the last seconds, the answering ones included. Of a
    /// page, at most as many as its shard has; of the site, as the cluster has.
    replicas: u32,
    /// What the cluster promises of a read.
    consistency: Consistency,
    /// True when `count` is not the sum because that is past its range.
    clamped: bool,
}

/// What a cluster promises of a read.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(super) enum Consistency {
    /// The number that the answering replica knows; all replicas come to the same one.
    Eventual,
}

impl From<&Reading> for Counter {
    fn from(reading: &Reading) -> Self {
        Self { count: reading.count, updated_at: moment(reading.updated_at) }
    }
}

/// A counter's answer in the wanted form. `page` is for the title of HTML, none for the whole site. `room`: headers whose content
/// is of no use any more.
pub(super) fn counter(reading: &Reading, form: Form, page: Option<&str>, room: HeaderMap) -> Reply {
    told(reading, form, page, Cached::Never, room)
}

fn told(reading: &Reading, form: Form, page: Option<&str>, cached: Cached, room: HeaderMap) -> Reply {
    let mut answer = match form {
        Form::Json => json(reading, room),
        Form::Text => reply(StatusCode::OK, "text/plain; charset=utf-8", format!("{}\n", reading.count)),
        Form::Html => html::counter(page, &Counter::from(reading).updated_at.unwrap_or_default(), reading.count),
    };
    finish(&mut answer, reading, cached);
    answer
}

/// What nearly all requests are answered. hyper takes an answer's headers for the next request's, and here these have been
/// the request's before: so a connection's headers have one place for all time.
fn json(reading: &Reading, room: HeaderMap) -> Reply {
    let mut answer = Reply::new(Content::from(with_json(reading, Bytes::copy_from_slice)));
    if room.capacity() <= HEADERS_KEPT {
        *answer.headers_mut() = room;
        answer.headers_mut().clear();
    }
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Room for more headers than that is not kept with a connection.
const HEADERS_KEPT: usize = 32;

/// The answer to a read with these headers, whose place is taken for the answer's: with a tag, or short where the client has the
/// number already.
pub(super) fn read(reading: &Reading, form: Form, page: Option<&str>, headers: &mut HeaderMap) -> Reply {
    let tag = etag::of(reading, form);
    let mut answer = if etag::matches(headers, &tag) {
        let mut answer = Reply::default();
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        finish(&mut answer, reading, Cached::Asked);
        answer
    } else {
        told(reading, form, page, Cached::Asked, std::mem::take(headers))
    };
    answer.headers_mut().insert(ETAG, tag);
    answer
}

/// A counter's answer with all that is known of it.
pub(super) fn detailed(detailed: &Detailed) -> Result<Reply, Problem> {
    let Detailed { reading, staleness_ms, replicas, bounds, unique } = detailed;
    // The replica that answers was asked at another moment than all together.
    let bound = |tally| vector::Reading { tally, viewers: reading.viewers, ..vector::Reading::UNKNOWN }.count();
    let document = DetailedCounter {
        counter: Counter::from(reading),
        tally: reading.tally,
        viewers: reading.viewers,
        unique: unique.map(|(people, _)| people),
        unique_is_estimate: unique.map(|(_, is_estimate)| is_estimate),
        min: bounds.map(|bounds| bound(bounds.min).min(reading.count)),
        max: bounds.map(|bounds| bound(bounds.max).max(reading.count)),
        staleness_ms: *staleness_ms,
        replicas: *replicas,
        consistency: Consistency::Eventual,
        clamped: reading.clamped,
    };
    let mut answer = reply(StatusCode::OK, "application/json", to_json(&document)?);
    finish(&mut answer, reading, Cached::Never);
    Ok(answer)
}

/// A document as JSON.
pub(super) fn to_json<T: Serialize>(document: &T) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(document).map_err(|error| Problem::internal(&error))
}

/// What others may keep of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cached {
    /// Nothing.
    Never,
    /// All of it, to be asked about with its tag; never used without asking.
    Asked,
}

fn finish(answer: &mut Reply, reading: &Reading, cached: Cached) {
    let headers = answer.headers_mut();
    match cached {
        Cached::Never => drop(headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"))),
        Cached::Asked => {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            headers.insert(VARY, HeaderValue::from_static("accept, counter-session"));
        }
    }
    if reading.clamped {
        headers.insert(CLAMPED, HeaderValue::from_static("true"));
    }
}

/// `{"count":-9223372036854775808,"updated_at":"2030-10-10T12:11:42Z"}` is the longest.
const JSON_BYTES_MAX: usize = 72;

/// Does something with the two fields.
pub(super) fn with_json<T>(reading: &Reading, act: impl FnOnce(&[u8]) -> T) -> T {
    let mut text = [0; JSON_BYTES_MAX];
    let length = write_json(reading, &mut text);
    act(&text[..length])
}

/// Writes the two fields; returns how many bytes they take.
fn write_json(reading: &Reading, room: &mut [u8; JSON_BYTES_MAX]) -> usize {
    let mut length = 0;
    let mut put = |bytes: &[u8]| {
        room[length..length + bytes.len()].copy_from_slice(bytes);
        length += bytes.len();
    };
    put(b"{\"count\":");
    put(itoa::Buffer::new().format(reading.count).as_bytes());
    match reading.updated_at {
        Some(moment) => {
            put(b",\"updated_at\":\"");
            put(&rfc3339(moment));
            put(b"\"}");
        }
        None => put(b",\"updated_at\":null}"),
    }
    length
}

/// A moment as answers have it; none for none.
pub(crate) fn moment(moment: Option<Hlc>) -> Option<String> {
    moment.map(|moment| String::from_utf8_lossy(&rfc3339(moment)).into_owned())
}

/// The last second of a four-digit year, 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

thread_local! {
    /// The second that this thread wrote last: of most answers it is the same.
    static WRITTEN: Cell<(u64, [u8; 20])> = const { Cell::new((0, *b"1970-01-01T00:00:00Z")) };
}

/// A moment to the second, as `2030-10-10T12:11:42Z`.
fn rfc3339(moment: Hlc) -> [u8; 20] {
    let seconds = (moment.wall_ms() / 1000).min(LAST_SECOND);
    let (last, text) = WRITTEN.get();
    if seconds == last {
        return text;
    }
    let text = second(seconds);
    WRITTEN.set((seconds, text));
    text
}

/// A second since 1970, written.
fn second(seconds: u64) -> [u8; 20] {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00Z";
    let parts =
        [(0, year / 100), (2, year % 100), (5, month), (8, day), (11, second / 3600), (14, second / 60 % 60), (17, second % 60)];
    for (place, value) in parts {
        // Each value is below 100.
        text[place] = b'0' + u8::try_from(value / 10).unwrap_or(0);
        text[place + 1] = b'0' + u8::try_from(value % 10).unwrap_or(0);
    }
    text
}

/// Year, month and day of a day since 1970-01-01, counted in eras of 400 years that begin on 1 March, so that the
/// leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    let days = days + 719_468;
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_a_calendar_library_writes_them() {
        let step = 86_400 * 13 + 3_607;
        // The library's own range ends a day earlier than ours.
        let last = u64::try_from(jiff::Timestamp::MAX.as_second()).unwrap();
        for seconds in (0..last).step_by(step).chain([951_782_400, 4_107_542_399, last]) {
            let expected = jiff::Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap().to_string();
            let written = rfc3339(Hlc::from_wall_ms(seconds * 1000 + 999));
            assert_eq!(std::str::from_utf8(&written).unwrap(), expected);
        }
        assert_eq!(&rfc3339(Hlc(u64::MAX)), b"9999-12-31T23:59:59Z");
    }

    #[test]
    fn the_two_fields_are_what_a_json_library_writes() {
        for count in [0, 7, -7, i64::MAX, i64::MIN] {
            for updated_at in [None, Some(Hlc::from_wall_ms(1_917_864_702_000))] {
                let reading =
                    Reading { count, clamped: false, tally: count.into(), updated_at, exists: true, replayed: false, viewers: 0 };
                let mut room = [0; JSON_BYTES_MAX];
                let length = write_json(&reading, &mut room);
                let expected = serde_json::to_string(&Counter::from(&reading)).unwrap();
                assert_eq!(std::str::from_utf8(&room[..length]).unwrap(), expected);
            }
        }
    }
}
