//! One client's connection: read, execute all requests that have come whole, write all replies at once, again.

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use counter_core::key::KeyRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::codec::{CAPS, Parser, ProtocolError, UNAUTHENTICATED};
use super::commands::{self, Args, Later, Step, Turn};
use super::reply::Replies;
use super::session::{Session, Wanted};
use super::{Figures, Resp};
use crate::server::Accepted;

/// Requests that are executed together. More in a row wait in the buffers, which are bounded.
const REQUESTS_MAX: usize = 1_024;
/// For how many requests ahead the memory of their counters is asked for: what is asked for must still be near when its turn comes.
const REQUESTS_AHEAD: usize = 32;
/// Keys that requests executed together may name: what one commit is asked room for. A request may name as many alone.
const KEYS_MAX: usize = 4_096;
/// Replies beyond this are written before the next request is looked at.
const REPLIES_BYTES_MAX: usize = 256 << 10;
/// What a connection reads into at first, and what it keeps between requests at most.
const BUFFER_BYTES_MIN: usize = 4 << 10;
const BUFFER_BYTES_KEPT: usize = 64 << 10;
/// How long a request may take to come whole, and a client to authenticate.
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// How long a client may not read what it is sent.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// How long a connection is kept open for the client to read why it is closed.
const LAST_WORD_TIME: Duration = Duration::from_secs(1);
/// When a silent client's machine is asked whether it is still there, as Redis does. Clients may be silent for as long as
/// they like: their pools expect it.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// What has been read and not been executed.
struct Input {
    buffer: Vec<u8>,
    filled: usize,
    parser: Parser,
}

impl Input {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES_MIN], filled: 0, parser: Parser::default() }
    }

    /// Where to read into: at least half of the buffer's least size.
    fn room(&mut self) -> &mut [u8] {
        if self.filled == 0 && self.buffer.len() > BUFFER_BYTES_KEPT {
            self.buffer = vec![0; BUFFER_BYTES_MIN];
        }
        if self.buffer.len() - self.filled < BUFFER_BYTES_MIN / 2 {
            // What a client makes us hold is bounded by the parser, which refuses requests that are too long.
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        &mut self.buffer[self.filled..]
    }

    fn forget(&mut self, requests: usize) {
        let done = self.parser.forget(requests);
        self.buffer.copy_within(done..self.filled, 0);
        self.filled -= done;
    }
}

/// How a connection goes on after a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Read,
    /// Requests may have come whole that were not executed yet.
    Execute,
    Close,
}

pub(super) struct Connection<'r> {
    resp: &'r Arc<Resp>,
    session: Session,
    input: Input,
    out: Replies,
    batch: Batch<'r>,
    figures: Figures,
}

/// Talks to one client until it leaves, breaks the protocol, or the node stops.
pub(super) async fn run(resp: Arc<Resp>, accepted: Accepted) {
    let Accepted { mut stream, begin, cut, .. } = accepted;
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    if let Err(error) = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "no keepalive on a connection");
    }
    let session = Session::new(resp.next_client(), peer, local);
    let mut connection = Connection {
        resp: &resp,
        session,
        input: Input::new(),
        out: Replies::new(),
        batch: Batch::new(&resp.router, &resp.pages),
        figures: Figures::default(),
    };
    // Cut off only between requests or while the client is waited for: what has begun to be applied is brought to its end.
    let served = connection.serve(&mut stream, &begin, &cut).await;
    if let Err(error) = served {
        tracing::debug!(%error, %peer, "a Redis client's connection ended");
    }
}

impl Connection<'_> {
    async fn serve(&mut self, stream: &mut TcpStream, begin: &CancellationToken, cut: &CancellationToken) -> io::Result<()> {
        let mut begin = pin!(begin.cancelled());
        let mut next = Next::Read;
        loop {
            if next == Next::Read {
                let read = tokio::select! {
                    biased;
                    read = self.read(stream) => read?,
                    () = begin.as_mut() => 0,
                };
                if read == 0 {
                    return Ok(());
                }
            }
            next = self.execute().await;
            self.resp.metrics.add(&mut self.figures);
            let sent = self.send_now(stream)?;
            if sent < self.out.len() {
                tokio::select! {
                    biased;
                    written = timeout(WRITE_TIME, stream.write_all(&self.out.bytes[sent..])) => written??,
                    () = cut.cancelled() => return Ok(()),
                }
            }
            self.out.bytes.clear();
            self.out.bytes.shrink_to(BUFFER_BYTES_KEPT);
            if next == Next::Close {
                return last_word(stream).await;
            }
        }
    }

    /// Sends what the kernel takes, which is nearly always all: then there is no time to look at, and nothing to wait for.
    fn send_now(&self, stream: &TcpStream) -> io::Result<usize> {
        if self.out.bytes.is_empty() {
            return Ok(0);
        }
        match stream.try_write(&self.out.bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
    }

    /// Reads what there is, and at least something. 0: the client has left.
    async fn read(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        let inside = self.input.parser.is_inside(self.input.filled);
        let must_authenticate = !self.resp.is_authenticated(&self.session);
        let room = self.input.room();
        let read = if inside || must_authenticate {
            let from = if must_authenticate { self.session.since } else { Instant::now() };
            timeout_at((from + REQUEST_TIME).into(), stream.read(room)).await?
        } else {
            stream.read(room).await
        }?;
        self.input.filled += read;
        Ok(read)
    }

    /// Executes what has come whole.
    async fn execute(&mut self) -> Next {
        // What a client may send depends on whether it has authenticated, which its next request may do.
        let (caps, max) = if self.resp.is_authenticated(&self.session) { (&CAPS, REQUESTS_MAX) } else { (&UNAUTHENTICATED, 1) };
        let parsed = self.input.parser.parse(&mut self.input.buffer[..self.input.filled], caps, max);
        let (whole, mut done, mut keys, mut ahead) = (self.input.parser.len(), 0, 0, 0);
        self.batch.expect(self.input.parser.args().min(KEYS_MAX));
        while done < whole {
            // Each argument may be a key.
            keys += self.input.parser.request(done).len();
            let full = keys > KEYS_MAX || self.out.len() > REPLIES_BYTES_MAX;
            if full && done > 0 {
                break;
            }
            if done >= ahead {
                ahead = whole.min(done + REQUESTS_AHEAD);
                self.look_ahead(done..ahead);
            }
            let (step, heard) = self.request(done);
            done += 1;
            match step {
                Step::Done if heard => done += self.again(done),
                Step::Done => {}
                Step::Later(later) => self.later(later, heard).await,
                Step::Close => {
                    self.batch.finish(&mut self.out).await;
                    return Next::Close;
                }
            }
        }
        self.batch.finish(&mut self.out).await;
        self.input.forget(done);
        match parsed {
            _ if done < whole => Next::Execute,
            Err(error) => self.refuse(error),
            // There may be more than were looked for.
            Ok(()) if whole == max => Next::Execute,
            Ok(()) => Next::Read,
        }
    }

    /// Warms the counters of these requests, if there are several. What stands behind a command's name is nearly always a key.
    fn look_ahead(&self, requests: Range<usize>) {
        if requests.len() < 2 {
            return;
        }
        let Self { input: Input { parser, buffer, .. }, batch, .. } = self;
        let mut keys = [&[][..]; REQUESTS_AHEAD];
        let others = requests.filter(|index| !parser.is_again(*index));
        let named = others.map(|index| Args::new(buffer, parser.request(index)).get(1)).filter(|key| KeyRef::new(key).is_ok());
        let count = keys.iter_mut().zip(named).map(|(place, key)| *place = key).count();
        if count > 1 {
            batch.warm(&keys[..count]);
        }
    }

    /// Executes one request; and whether its client wants to hear of it.
    fn request(&mut self, index: usize) -> (Step, bool) {
        let Self { resp, session, input, out, batch, figures } = self;
        let args = Args::new(&input.buffer, input.parser.request(index));
        let mark = batch.mark(out);
        figures.requests += 1;
        let step = commands::execute(&mut Turn { resp, session, out, batch, figures }, args);
        // Whoever turns answers on is told so, even where this one was to be skipped.
        let heard = session.wanted == Wanted::All;
        match session.wanted {
            Wanted::SkipThis => session.wanted = Wanted::All,
            Wanted::SkipNext => session.wanted = Wanted::SkipThis,
            Wanted::All | Wanted::None => {}
        }
        if !heard {
            batch.mute(mark, out);
        }
        (step, heard)
    }

    /// Executes together the requests from `next` on that are the last one once more, where that can be. Returns how many.
    fn again(&mut self, next: usize) -> usize {
        let times = self.input.parser.again_from(next);
        if times == 0 {
            return 0;
        }
        let done = self.batch.again(times, &mut self.out);
        self.figures.requests += u64::try_from(done).unwrap_or(0);
        done
    }

    /// Does what cannot be done within a batch.
    async fn later(&mut self, later: Later, heard: bool) {
        self.batch.finish(&mut self.out).await;
        let start = self.out.len();
        if let Err(refused) = commands::perform(later, self.resp, &mut self.out).await {
            self.out.bytes.truncate(start);
            self.figures.errors += 1;
            self.out.error(&refused);
        }
        if !heard {
            self.out.bytes.truncate(start);
        }
    }

    fn refuse(&mut self, error: ProtocolError) -> Next {
        tracing::debug!(%error, peer = %self.session.peer, "a Redis client broke the protocol");
        self.figures.errors += 1;
        self.out.error(&format!("ERR Protocol error: {error}"));
        Next::Close
    }
}

/// Closing with unread bytes resets the connection, and the client might never see why.
async fn last_word(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut unread = [0; 4096];
    let drained = async { while stream.read(&mut unread).await.is_ok_and(|read| read > 0) {} };
    drop(timeout(LAST_WORD_TIME, drained).await);
    Ok(())
}
