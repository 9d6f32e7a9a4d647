//! Requests out of a connection's bytes: arrays of bulk strings, and inline commands.
//!
//! A parser goes on where it stopped, so a request that comes in small pieces is looked at once. What it remembers grows
//! with what has come, never with what a header announces. Arguments are ranges of the buffer; nothing is copied.

use std::ops::Range;

use super::inline;

/// Bounds on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caps {
    /// Arguments, the command's name included.
    pub(super) args: usize,
    /// Bytes of one argument.
    pub(super) arg_bytes: usize,
    /// Bytes of a whole request.
    pub(super) request_bytes: usize,
}

/// Bounds of clients that may do anything. Keys have at most 512 bytes; a request of a thousand such keys fits.
pub(super) const CAPS: Caps = Caps { args: 65_536, arg_bytes: 64 << 10, request_bytes: 1 << 20 };
/// Bounds of clients that have not authenticated, as in Redis.
pub(super) const UNAUTHENTICATED: Caps = Caps { args: 10, arg_bytes: 16 << 10, request_bytes: 64 << 10 };

/// The longest inline request, and the longest header line.
const LINE_BYTES_MAX: usize = 64 << 10;
/// The longest line that can be a number with its marker.
const NUMBER_BYTES_MAX: usize = 32;

/// Why a connection cannot go on; the words are Redis's where it has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProtocolError {
    #[error("invalid multibulk length")]
    ArgCount,
    #[error("unauthenticated multibulk length")]
    ArgCountUnauthenticated,
    #[error("expected '$', got '{}'", char::from(*.0).escape_default())]
    NoBulk(u8),
    #[error("invalid bulk length")]
    BulkLength,
    #[error("unauthenticated bulk length")]
    BulkLengthUnauthenticated,
    #[error("expected CRLF after a bulk string")]
    BulkEnd,
    #[error("too big inline request")]
    InlineTooLong,
    #[error("unbalanced quotes in request")]
    Quotes,
    #[error("too big request")]
    RequestTooLong,
}

/// A whole request.
#[derive(Debug)]
struct Request {
    /// Its arguments' places.
    args: Range<usize>,
    /// Where its last byte ends.
    end: usize,
    /// It came on a line of its own, which is not to be seen any more: quotes and spaces are resolved in place.
    inline: bool,
    /// It is the one before once more, byte for byte.
    again: bool,
}

/// The requests that have been read, and how far the one is that has not come whole.
#[derive(Debug, Default)]
pub(super) struct Parser {
    args: Vec<Range<usize>>,
    requests: Vec<Request>,
    /// What was parsed of the buffer.
    at: usize,
    /// Arguments that the request under way still lacks.
    lacks: usize,
    /// The length of the bulk string under way.
    bulk: Option<usize>,
    /// Where the request under way begins, and its first argument.
    begins: usize,
    first: usize,
}

impl Parser {
    /// Takes in what has come: `buffer` holds what it held the last time and more. At most `max` requests are whole then;
    /// more may wait in the buffer.
    ///
    /// # Errors
    /// [`ProtocolError`]; the requests before it stand.
    pub(super) fn parse(&mut self, buffer: &mut [u8], caps: &Caps, max: usize) -> Result<(), ProtocolError> {
        while self.requests.len() < max {
            let more = match self.lacks {
                0 => self.again(buffer) || self.head(buffer, caps)?,
                _ => self.argument(buffer, caps)?,
            };
            if !more {
                // What is there of a request that is not whole must not grow without end.
                let partial = buffer.len().saturating_sub(self.begins);
                return if partial > caps.request_bytes { Err(ProtocolError::RequestTooLong) } else { Ok(()) };
            }
        }
        Ok(())
    }

    /// How many requests are whole.
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// How many arguments have come whole.
    pub(super) fn args(&self) -> usize {
        self.args.len()
    }

    /// Whether part of a request has come.
    pub(super) fn is_inside(&self, filled: usize) -> bool {
        self.lacks > 0 || filled > self.at
    }

    /// The arguments of a whole request. It has at least one.
    pub(super) fn request(&self, index: usize) -> &[Range<usize>] {
        self.requests.get(index).map(|request| &self.args[request.args.clone()]).unwrap_or_default()
    }

    /// Whether a whole request is the one before it once more.
    pub(super) fn is_again(&self, index: usize) -> bool {
        self.requests.get(index).is_some_and(|request| request.again)
    }

    /// How many whole requests in a row, from this one on, are the one before it once more.
    pub(super) fn again_from(&self, index: usize) -> usize {
        self.requests.iter().skip(index).take_while(|request| request.again).count()
    }

    /// Forgets the first `done` requests, of which there are so many. Returns how many bytes at the front of the buffer are
    /// done with, which the caller removes.
    pub(super) fn forget(&mut self, done: usize) -> usize {
        let Some(last) = done.checked_sub(1).and_then(|last| self.requests.get(last)) else { return 0 };
        let (args, end) = (last.args.end, last.end);
        if done == self.requests.len() && self.lacks == 0 {
            // The usual case: nothing is left to be moved.
            self.requests.clear();
            self.args.clear();
            self.first = 0;
        } else {
            self.requests.drain(..done);
            self.args.drain(..args);
            let shifted = |range: &Range<usize>, by: usize| range.start - by..range.end - by;
            self.args.iter_mut().for_each(|arg| *arg = shifted(arg, end));
            for request in &mut self.requests {
                request.args = shifted(&request.args, args);
                request.end -= end;
            }
            self.first = self.first.saturating_sub(args);
        }
        self.at -= end;
        // Until the next request's head is looked at, this may still be a request that is forgotten now.
        self.begins = self.begins.saturating_sub(end);
        end
    }

    /// Takes the last request in once more where it comes again, as in a pipeline that counts one counter up. False when
    /// something else comes, or not all of it has come.
    fn again(&mut self, buffer: &[u8]) -> bool {
        let Some(last) = self.requests.last().filter(|last| last.end == self.at && !last.inline) else { return false };
        let whole = buffer.get(self.begins..last.end).unwrap_or_default();
        let length = whole.len();
        if length == 0 || buffer.get(self.at..self.at + length) != Some(whole) {
            return false;
        }
        (self.begins, self.first) = (self.at, self.args.len());
        for arg in last.args.clone() {
            let Range { start, end } = self.args[arg];
            self.args.push(start + length..end + length);
        }
        self.at += length;
        self.requests.push(Request { args: self.first..self.args.len(), end: self.at, inline: false, again: true });
        true
    }

    fn head(&mut self, buffer: &mut [u8], caps: &Caps) -> Result<bool, ProtocolError> {
        self.begins = self.at;
        self.first = self.args.len();
        let Some(marker) = buffer.get(self.at) else { return Ok(false) };
        if *marker != b'*' {
            return self.inline(buffer, caps);
        }
        let Some(count) = self.number(buffer, ProtocolError::ArgCount)? else { return Ok(false) };
        // Nothing is asked by an empty request, nor answered; a negative length is taken for one.
        let count = usize::try_from(count.max(0)).map_err(|_| ProtocolError::ArgCount)?;
        if count > CAPS.args {
            return Err(ProtocolError::ArgCount);
        }
        if count > caps.args {
            return Err(ProtocolError::ArgCountUnauthenticated);
        }
        self.lacks = count;
        Ok(true)
    }

    fn argument(&mut self, buffer: &[u8], caps: &Caps) -> Result<bool, ProtocolError> {
        let length = match self.bulk {
            Some(length) => length,
            None => {
                match buffer.get(self.at) {
                    None => return Ok(false),
                    Some(b'$') => {}
                    Some(other) => return Err(ProtocolError::NoBulk(*other)),
                }
                let Some(length) = self.number(buffer, ProtocolError::BulkLength)? else { return Ok(false) };
                let length = usize::try_from(length).map_err(|_| ProtocolError::BulkLength)?;
                match length {
                    length if length > CAPS.arg_bytes => return Err(ProtocolError::BulkLength),
                    length if length > caps.arg_bytes => return Err(ProtocolError::BulkLengthUnauthenticated),
                    length => *self.bulk.insert(length),
                }
            }
        };
        let end = self.at + length;
        let Some(line_end) = buffer.get(end..end + 2) else { return Ok(false) };
        if line_end != b"\r\n" {
            return Err(ProtocolError::BulkEnd);
        }
        if end - self.begins > caps.request_bytes {
            return Err(ProtocolError::RequestTooLong);
        }
        self.args.push(self.at..end);
        (self.at, self.bulk) = (end + 2, None);
        self.lacks -= 1;
        if self.lacks == 0 {
            self.whole(false);
        }
        Ok(true)
    }

    fn whole(&mut self, inline: bool) {
        self.requests.push(Request { args: self.first..self.args.len(), end: self.at, inline, again: false });
    }

    /// The number of a header line, whose marker is at hand; none while the line has not come whole.
    fn number(&mut self, buffer: &[u8], wrong: ProtocolError) -> Result<Option<i64>, ProtocolError> {
        let rest = buffer.get(self.at + 1..).unwrap_or_default();
        let look = &rest[..rest.len().min(NUMBER_BYTES_MAX)];
        let Some(length) = look.iter().position(|byte| *byte == b'\r') else {
            return if look.len() == NUMBER_BYTES_MAX { Err(wrong) } else { Ok(None) };
        };
        match rest.get(length + 1) {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) => return Err(wrong),
        }
        let number = super::number::parse(&rest[..length]).ok_or(wrong)?;
        self.at += length + 3;
        Ok(Some(number))
    }

    fn inline(&mut self, buffer: &mut [u8], caps: &Caps) -> Result<bool, ProtocolError> {
        let rest = buffer.get_mut(self.at..).unwrap_or_default();
        let Some(length) = rest.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
            return if rest.len() >= LINE_BYTES_MAX { Err(ProtocolError::InlineTooLong) } else { Ok(false) };
        };
        let line = &mut rest[..length];
        let line_bytes = if line.ends_with(b"\r") { length - 1 } else { length };
        inline::split(&mut line[..line_bytes], self.at, &mut self.args).map_err(|inline::Unbalanced| ProtocolError::Quotes)?;
        self.at += length + 1;
        if self.args.len() - self.first > caps.args {
            return Err(ProtocolError::ArgCountUnauthenticated);
        }
        if self.args.len() > self.first {
            self.whole(true);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
