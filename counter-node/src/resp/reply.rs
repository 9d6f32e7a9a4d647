//! Replies into a connection's output, in the protocol that its client speaks.

/// The versions of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Resp2,
    Resp3,
}

/// What is to be written to a client.
#[derive(Debug)]
pub(super) struct Replies {
    pub(super) bytes: Vec<u8>,
    pub(super) version: Version,
}

impl Replies {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::new(), version: Version::Resp2 }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A short text without line ends.
    pub(super) fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    pub(super) fn ok(&mut self) {
        self.bytes.extend_from_slice(b"+OK\r\n");
    }

    /// An error: its code and what it says. Line ends in what clients sent are made spaces.
    pub(super) fn error(&mut self, text: &str) {
        self.bytes.push(b'-');
        self.bytes.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
        self.end();
    }

    pub(super) fn integer(&mut self, number: i64) {
        self.header(b':', number);
    }

    pub(super) fn bulk(&mut self, bytes: &[u8]) {
        self.count(b'$', bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.end();
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bulk(text.as_bytes());
    }

    /// A number as clients get values.
    pub(super) fn number(&mut self, number: i64) {
        self.text(itoa::Buffer::new().format(number));
    }

    pub(super) fn null(&mut self) {
        self.bytes.extend_from_slice(match self.version {
            Version::Resp2 => b"$-1\r\n",
            Version::Resp3 => b"_\r\n",
        });
    }

    /// No array, where there could be one.
    pub(super) fn null_array(&mut self) {
        self.bytes.extend_from_slice(match self.version {
            Version::Resp2 => b"*-1\r\n",
            Version::Resp3 => b"_\r\n",
        });
    }

    pub(super) fn array(&mut self, length: usize) {
        self.count(b'*', length);
    }

    /// A map of so many pairs.
    pub(super) fn map(&mut self, pairs: usize) {
        match self.version {
            Version::Resp2 => self.count(b'*', pairs * 2),
            Version::Resp3 => self.count(b'%', pairs),
        }
    }

    pub(super) fn set(&mut self, length: usize) {
        match self.version {
            Version::Resp2 => self.count(b'*', length),
            Version::Resp3 => self.count(b'~', length),
        }
    }

    /// A longer text for people.
    pub(super) fn verbatim(&mut self, text: &str) {
        match self.version {
            Version::Resp2 => self.text(text),
            Version::Resp3 => {
                self.count(b'=', text.len() + 4);
                self.bytes.extend_from_slice(b"txt:");
                self.bytes.extend_from_slice(text.as_bytes());
                self.end();
            }
        }
    }

    fn count(&mut self, marker: u8, count: usize) {
        self.line(marker, itoa::Buffer::new().format(count).as_bytes());
    }

    fn header(&mut self, marker: u8, number: i64) {
        self.line(marker, itoa::Buffer::new().format(number).as_bytes());
    }

    fn line(&mut self, marker: u8, text: &[u8]) {
        self.bytes.push(marker);
        self.bytes.extend_from_slice(text);
        self.end();
    }

    fn end(&mut self) {
        self.bytes.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(version: Version) -> String {
        let mut replies = Replies { bytes: Vec::new(), version };
        replies.simple("PONG");
        replies.error("ERR unknown 'a\r\nb'");
        replies.integer(-7);
        replies.bulk(b"a\r\nb");
        replies.number(i64::MIN);
        replies.null();
        replies.null_array();
        replies.array(2);
        replies.map(3);
        replies.set(1);
        replies.verbatim("x");
        String::from_utf8(replies.bytes).unwrap()
    }

    #[test]
    fn replies_are_those_of_the_version_that_the_client_speaks() {
        let common = "+PONG\r\n-ERR unknown 'a  b'\r\n:-7\r\n$4\r\na\r\nb\r\n$20\r\n-9223372036854775808\r\n";
        assert_eq!(written(Version::Resp2), format!("{common}$-1\r\n*-1\r\n*2\r\n*6\r\n*1\r\n$1\r\nx\r\n"));
        assert_eq!(written(Version::Resp3), format!("{common}_\r\n_\r\n*2\r\n%3\r\n~1\r\n=5\r\ntxt:x\r\n"));
    }
}
