//! Read-your-writes: what one client has written, as it says itself, and waiting until this node's copies show it.
//!
//! A client that wants it sends the header `Counter-Session`, see `docs/consistency.md`. Whoever does not costs nothing here.

use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use counter_core::counter::Key;
use counter_core::forward::NotApplied;
use counter_core::marks::{Mark, Marks};
use counter_core::table::Table;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::lock::lock;
use crate::protocol::Protocol;

/// How long a request waits here for what its client has written elsewhere. Replicas are a tick of 50 ms behind while they keep up;
/// one that is a second behind is cut off, and the client does better to try another node.
pub const SEEN_TIMEOUT: Duration = Duration::from_secs(1);
/// Counters of requests that wait at once: each is looked at again with every merge.
pub const SEEN_WAITS_MAX: usize = 1_024;
/// Counters of one request that wait at once: an honest one has not more of them that it has marks of.
const OF_ONE_REQUEST_MAX: usize = counter_core::marks::MARKS_MAX;

/// What the client of one request has written before, and what it has written with this request.
#[derive(Debug)]
pub struct OwnWrites {
    /// None: the client does not ask for anything.
    before: Option<Marks>,
    made: Mutex<Marks>,
    waits: Semaphore,
    /// When waiting is over. Set by the first wait.
    deadline: OnceLock<Instant>,
}

/// Those of a client that does not ask for them.
pub static UNTOLD: OwnWrites = OwnWrites::with(None);

impl OwnWrites {
    const fn with(before: Option<Marks>) -> Self {
        Self {
            before,
            made: Mutex::new(Marks::new()),
            waits: Semaphore::const_new(OF_ONE_REQUEST_MAX),
            deadline: OnceLock::new(),
        }
    }

    /// Of a client that has written what these marks stand for.
    #[must_use]
    pub fn after(marks: Marks) -> Self {
        Self::with(Some(marks))
    }

    /// Whether the client asks for its own writes at all.
    #[must_use]
    pub fn are_told(&self) -> bool {
        self.before.is_some()
    }

    /// The marks of one counter; none at all of a client that does not ask.
    #[must_use]
    pub fn of(&self, key: &Key) -> Option<Vec<Mark>> {
        self.before.as_ref().map(|marks| marks.of(key))
    }

    /// Whether the client has written this counter before.
    #[must_use]
    pub fn names(&self, key: &Key) -> bool {
        self.before.as_ref().is_some_and(|marks| marks.names(key))
    }

    /// The client has written this counter now.
    pub fn add(&self, key: &Key, mark: Mark) {
        lock(&self.made).add(key, mark);
    }

    /// All that the client has written; none of one that does not ask.
    #[must_use]
    pub fn all(&self) -> Option<Marks> {
        let mut all = self.before.clone()?;
        all.add_all(&lock(&self.made));
        Some(all)
    }
}

/// Where requests wait until this node has merged what their clients have written.
pub struct Seen {
    table: Arc<Table>,
    protocol: Arc<Protocol>,
    places: Semaphore,
}

impl Seen {
    /// Nobody waits yet.
    #[must_use]
    pub fn new(table: Arc<Table>, protocol: Arc<Protocol>) -> Self {
        Self { table, protocol, places: Semaphore::new(SEEN_WAITS_MAX) }
    }

    /// A place for a request that other nodes are asked for until they show these marks: each is asked many times. None is needed
    /// where there are no marks.
    ///
    /// # Errors
    /// `Overloaded` when too many wait.
    pub fn place(&self, marks: Option<&[Mark]>) -> Result<Option<SemaphorePermit<'_>>, NotApplied> {
        match marks {
            None | Some([]) => Ok(None),
            Some(_) => self.places.try_acquire().map(Some).map_err(|_| NotApplied::Overloaded),
        }
    }

    /// Waits until this node's copy of the counter shows these marks of `writes`.
    ///
    /// # Errors
    /// `Behind` when it does not in time, `Overloaded` when too many wait, `NotOwner` when the counter is not this node's to
    /// serve any more.
    pub async fn wait(&self, key: &Key, marks: &[Mark], writes: &OwnWrites) -> Result<(), NotApplied> {
        if self.table.has_seen(key, marks) {
            return Ok(());
        }
        let places = (writes.waits.try_acquire(), self.places.try_acquire());
        let (Ok(_of_request), Ok(_of_node)) = places else { return Err(NotApplied::Overloaded) };
        let deadline = *writes.deadline.get_or_init(|| Instant::now() + SEEN_TIMEOUT);
        loop {
            let mut merged = pin!(self.protocol.merged());
            // Before the copy is looked at, so that no merge falls between.
            merged.as_mut().enable();
            if !self.protocol.serves(key.slot()) {
                return Err(NotApplied::NotOwner);
            }
            if self.table.has_seen(key, marks) {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, merged).await.is_err() {
                return Err(NotApplied::Behind);
            }
        }
    }
}
