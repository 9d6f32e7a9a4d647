//! The write-ahead log, as a crash or a bad disk leaves it. The segments are written here by the description of the
//! format alone, so that what reads them is held to that.

use counter_node::storage::{ReadLog, read_log};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const MARK: u32 = 0x9E67_F1C3;
const HEAD_BYTES: usize = 64;
const SEGMENT_BYTES: usize = 2 << 10;
const SECTOR_BYTES: usize = 512;
const SEGMENTS: usize = 3;
const FRAMES_MAX: u8 = 40;

/// (segment, from 0; bytes from its start).
type Place = (usize, usize);

/// A log of full and begun segments.
struct Written {
    /// As it reads when so many of its writes have reached the disk.
    states: Vec<Vec<Vec<u8>>>,
    frames: Vec<WrittenFrame>,
}

#[derive(Clone)]
struct WrittenFrame {
    start: Place,
    end: Place,
    /// How far the log was on the disk when it was written.
    forced: Place,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    /// How many writes there were up to it; a segment's head is one, too.
    writes: usize,
}

/// Choices, from the bytes; zeros behind their end.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: usize) -> usize {
        (usize::from(self.byte()) << 8 | usize::from(self.byte())) % bound.max(1)
    }
}

pub(crate) fn segments(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let mut choices = Choices(rest);
    match kind % 4 {
        0 => raw(rest),
        1 => damaged(&mut choices),
        2 => powered_off(&mut choices),
        _ => foreign_frame(rest),
    }
}

/// Any bytes as a segment: what is taken of them is whole frames, each with its right hash.
fn raw(bytes: &[u8]) {
    let Ok(read) = read_log(vec![bytes.to_vec()]) else { return };
    assert!(read.ends.len() <= 1);
    for end in read.ends {
        assert_eq!(end, walk(bytes, 0).last().map_or(HEAD_BYTES, |frame| frame.1));
    }
}

/// An intact frame whose body is any bytes: records or refused.
fn foreign_frame(body: &[u8]) {
    let mut segment = vec![0; HEAD_BYTES + body.len() + 24 + SECTOR_BYTES];
    put_head(&mut segment, 0, 0);
    let frame = frame((0, HEAD_BYTES), (0, 0), body);
    segment[HEAD_BYTES..HEAD_BYTES + frame.len()].copy_from_slice(&frame);
    if let Ok(read) = read_log(vec![segment]) {
        assert_eq!(read.ends, [HEAD_BYTES + frame.len()]);
        assert!(read.latest.is_sorted_by(|one, next| one.0 < next.0));
    }
}

/// A log of which some bytes are others now: it is refused, or what it comes back with is its beginning, up to the damage at
/// least, and nothing is missing of which an intact frame says that it was on the disk.
fn damaged(choices: &mut Choices<'_>) {
    let log = Written::of(choices);
    let mut segments = log.states.last().unwrap().clone();
    for _ in 0..=choices.byte() % 4 {
        let (segment, at) = (choices.below(SEGMENTS), choices.below(SEGMENT_BYTES));
        let length = choices.below(SEGMENT_BYTES - at) + 1;
        let part = &mut segments[segment][at..at + length];
        match choices.byte() % 4 {
            0 => part.fill(0),
            1 => part[0] ^= 1 << (choices.byte() % 8),
            2 => part.fill(choices.byte()),
            _ => part.rotate_left(1),
        }
    }
    let intact = log.intact_in(&segments);
    let Ok(read) = read_log(segments.clone()) else {
        assert_ne!(segments, *log.states.last().unwrap(), "a log that was left alone is refused");
        return;
    };
    let kept = log.kept(&read);
    let whole = intact.iter().take_while(|intact| **intact).count();
    assert!(kept <= whole || log.frames.len() == kept, "{kept} frames are kept, of which {whole} are intact");
    let damage = first_difference(&segments, log.states.last().unwrap());
    let before = log.frames.iter().take_while(|frame| damage.is_none_or(|damage| frame.end <= damage)).count();
    assert!(kept >= before, "{before} frames lie before the damage at {damage:?}, and {kept} are kept");
    let end = log.frames[..kept].last().map_or((0, 0), |frame| frame.end);
    for (frame, intact) in log.frames.iter().zip(intact) {
        assert!(!intact || frame.forced <= end, "the log ends at {end:?}, and {:?} was on the disk", frame.forced);
    }
}

/// Each sector reads as it was after some write, not before the last that was forced: it opens, and nothing forced is missing.
fn powered_off(choices: &mut Choices<'_>) {
    let log = Written::of(choices);
    let (last, all) = (log.states.len() - 1, log.frames.len());
    let forced = log.frames.iter().map(|frame| frame.forced).max().unwrap_or_default();
    let forced_frames = log.frames.iter().take_while(|frame| frame.end <= forced).count();
    let forced_writes = log.frames[..forced_frames].last().map_or(0, |frame| frame.writes);
    let mut segments = vec![vec![0; SEGMENT_BYTES]; SEGMENTS];
    for (number, segment) in segments.iter_mut().enumerate() {
        for (sector, bytes) in segment.chunks_mut(SECTOR_BYTES).enumerate() {
            let state = forced_writes + choices.below(last - forced_writes + 1);
            bytes.copy_from_slice(&log.states[state][number][sector * SECTOR_BYTES..][..SECTOR_BYTES]);
        }
    }
    let read = read_log(segments).unwrap_or_else(|error| panic!("after a power failure: {error}"));
    let kept = log.kept(&read);
    assert!((forced_frames..=all).contains(&kept), "{kept} frames are kept, and {forced_frames} were forced");
}

impl Written {
    /// Some frames, each with one record. Segments are left early at times, as after a failure.
    fn of(choices: &mut Choices<'_>) -> Self {
        let mut now = vec![vec![0; SEGMENT_BYTES]; SEGMENTS];
        let mut log = Self { states: vec![now.clone()], frames: Vec::new() };
        let (mut at, mut forced): (Place, Place) = ((0, HEAD_BYTES), (0, 0));
        put_head(&mut now[0], 0, 0);
        log.states.push(now.clone());
        for _ in 0..1 + choices.byte() % FRAMES_MAX {
            let (key, size) = (vec![2, 0, choices.byte() % 4], choices.below(SEGMENT_BYTES / 3));
            let value = (!choices.byte().is_multiple_of(8)).then(|| vec![choices.byte(); size]);
            let body = body(&key, value.as_deref());
            if at.1 + body.len() + 24 > SEGMENT_BYTES || choices.byte() % 16 == 1 {
                if at.0 + 1 == SEGMENTS {
                    break;
                }
                let end = at.1;
                at = (at.0 + 1, HEAD_BYTES);
                put_head(&mut now[at.0], at.0, end);
                log.states.push(now.clone());
            }
            if choices.byte() % 4 == 1 {
                forced = log.frames.last().map_or(forced, |frame| frame.end);
            }
            let frame = frame(at, forced, &body);
            let end = (at.0, at.1 + frame.len());
            now[at.0][at.1..end.1].copy_from_slice(&frame);
            log.states.push(now.clone());
            log.frames.push(WrittenFrame { start: at, end, forced, key, value, writes: log.states.len() - 1 });
            at = end;
        }
        log
    }

    /// How many of its frames came back. What came back must be what exactly they leave.
    fn kept(&self, read: &ReadLog) -> usize {
        let end = read.ends.len().checked_sub(1).map_or((0, 0), |last| (last, read.ends[last]));
        let kept = self.frames.iter().take_while(|frame| frame.end <= end).count();
        let mut latest = std::collections::BTreeMap::new();
        for frame in &self.frames[..kept] {
            latest.insert(frame.key.clone(), frame.value.clone());
        }
        assert_eq!(read.latest, latest.into_iter().collect::<Vec<_>>(), "of the first {kept} frames");
        for (segment, end) in read.ends.iter().enumerate() {
            let last = self.frames[..kept].iter().rfind(|frame| frame.start.0 == segment);
            assert_eq!(*end, last.map_or(HEAD_BYTES, |frame| frame.end.1), "segment {segment} ends elsewhere");
        }
        kept
    }

    /// Which of its frames are as they were written.
    fn intact_in(&self, segments: &[Vec<u8>]) -> Vec<bool> {
        let written = self.states.last().unwrap();
        let same = |frame: &WrittenFrame| {
            let part = frame.start.1..frame.end.1;
            written[frame.start.0][part.clone()] == segments[frame.start.0][part]
        };
        self.frames.iter().map(same).collect()
    }
}

fn first_difference(one: &[Vec<u8>], other: &[Vec<u8>]) -> Option<Place> {
    one.iter()
        .zip(other)
        .enumerate()
        .find_map(|(segment, (one, other))| one.iter().zip(other).position(|(one, other)| one != other).map(|at| (segment, at)))
}

/// Where the intact frames of a segment begin and end.
fn walk(bytes: &[u8], segment: usize) -> Vec<(usize, usize)> {
    let (mut frames, mut at) = (Vec::new(), HEAD_BYTES);
    while let Some([a, b, c, d, e, f, g, h]) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>).copied() {
        let (length, again) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let end = at + 24 + usize::try_from(length).unwrap();
        let Some((hashed, hash)) = bytes.get(at..end).and_then(<[u8]>::split_last_chunk::<8>) else { break };
        if length ^ again != MARK || u64::from_le_bytes(*hash) != frame_hash(hashed, (segment, at)) {
            break;
        }
        frames.push((at, end));
        at = end;
    }
    frames
}

fn packed((segment, at): Place) -> u64 {
    if at == 0 { 0 } else { u64::try_from(segment + 1).unwrap() << 32 | u64::try_from(at).unwrap() }
}

fn frame_hash(bytes: &[u8], at: Place) -> u64 {
    xxh3_64_with_seed(bytes, packed(at)) | 1 << 63
}

fn frame(at: Place, forced: Place, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    let head = [&length.to_le_bytes()[..], &(length ^ MARK).to_le_bytes(), &packed(forced).to_le_bytes()].concat();
    let hashed = [&head, body].concat();
    [&hashed[..], &frame_hash(&hashed, at).to_le_bytes()].concat()
}

fn body(key: &[u8], value: Option<&[u8]>) -> Vec<u8> {
    let lengths = (u16::try_from(key.len()).unwrap(), value.map_or(u32::MAX, |value| u32::try_from(value.len()).unwrap()));
    [&lengths.0.to_le_bytes()[..], &lengths.1.to_le_bytes(), key, value.unwrap_or_default()].concat()
}

fn put_head(segment: &mut [u8], number: usize, previous_end: usize) {
    let size = u32::try_from(segment.len()).unwrap();
    let numbers = [u32::try_from(number + 1).unwrap(), u32::try_from(previous_end).unwrap(), size];
    let hashed = [&b"COUNTLOG"[..], &numbers.map(u32::to_le_bytes).concat()].concat();
    segment[..20].copy_from_slice(&hashed);
    segment[20..28].copy_from_slice(&xxh3_64(&hashed).to_le_bytes());
}

pub(crate) fn segment_seeds() -> Vec<Vec<u8>> {
    let mut made = Vec::new();
    for number in 0..8_u8 {
        let choices: Vec<u8> = (0..200_u8).map(|at| at.wrapping_mul(37).wrapping_add(number.wrapping_mul(101))).collect();
        let log = Written::of(&mut Choices(&choices));
        made.push([&[0][..], &log.states.last().unwrap()[0]].concat());
        made.push([&[1][..], &choices].concat());
        made.push([&[2][..], &choices].concat());
    }
    made.push([&[3][..], &body(&[2, 0, 1], Some(b"value")), &body(&[2, 0, 2], None)].concat());
    made
}
