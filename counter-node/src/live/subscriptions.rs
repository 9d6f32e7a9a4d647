//! What one connection looks at.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use counter_core::counter::Key;
use counter_core::presence::SessionToken;

use super::claims::{Claimant, Session};
use super::hub::{Address, Topic};
use super::mailbox::{Mailbox, Marks};
use super::value::Value;
use super::wire::Wire;
use super::{Live, PAGES_MAX, Subject, Who};

/// Whether whoever looks at a page is one of its viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    View,
    Observe,
}

/// A connection looks at as many pages as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("A connection may look at {PAGES_MAX} pages at once")]
pub struct TooManyPages;

/// One connection's pages. They are left when it is dropped.
#[derive(Debug)]
pub struct Subscriptions {
    live: Arc<Live>,
    pub(super) connection: u64,
    mailbox: Arc<Mailbox>,
    places: Vec<Option<Looking>>,
    /// The id that the client's session has; none: the connection is the session.
    session: Option<Arc<str>>,
    /// What the client has left behind: the connection that this one replaces.
    resumes: Option<Box<SessionToken>>,
}

#[derive(Debug)]
struct Looking {
    topic: Arc<Topic>,
    mode: Mode,
    sent: Option<Arc<Value>>,
}

impl Subscriptions {
    /// A connection that looks at nothing yet.
    #[must_use]
    pub fn new(live: Arc<Live>, who: Who) -> Self {
        Self::on(None, live, who)
    }

    /// One to which counts may be sent without its task.
    pub(super) fn on_wire(wire: Arc<Wire>, live: Arc<Live>, who: Who) -> Self {
        Self::on(Some(wire), live, who)
    }

    fn on(wire: Option<Arc<Wire>>, live: Arc<Live>, who: Who) -> Self {
        let connection = live.next_connection();
        let Who { session, user, resumes } = who;
        let (session, resumes) = (session.map(Arc::from), resumes.map(Box::new));
        Self { live, connection, mailbox: Arc::new(Mailbox::new(user, wire)), places: Vec::new(), session, resumes }
    }

    /// The live part that it belongs to.
    #[must_use]
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Looks at what the connection's address names and, where that is asked for, at what a user has not read.
    pub(super) fn begin(&mut self, subject: Subject, mode: Mode, unread: Option<Key>) {
        // Two things, so that these cannot be too many.
        let _ = self.add(vec![subject], mode);
        let _ = self.add(unread.into_iter().map(Subject::User).collect(), Mode::Observe);
    }

    /// Looks at all of these from now on, or at none of them. What is looked at already may change its mode.
    ///
    /// # Errors
    /// [`TooManyPages`]; nothing has changed then.
    pub fn add(&mut self, subjects: Vec<Subject>, mode: Mode) -> Result<(), TooManyPages> {
        let mut fresh: Vec<&Subject> = subjects.iter().filter(|subject| self.find(subject).is_none()).collect();
        fresh.sort();
        fresh.dedup();
        if self.len() + fresh.len() > PAGES_MAX {
            return Err(TooManyPages);
        }
        for subject in subjects {
            self.look(subject, mode);
        }
        Ok(())
    }

    fn look(&mut self, subject: Subject, mode: Mode) {
        // Nobody is a viewer of the whole site.
        let mode = if subject.page().is_some() { mode } else { Mode::Observe };
        if let Some(looking) = self.find(&subject).and_then(|place| self.places[place].as_mut()) {
            if looking.mode != mode {
                looking.mode = mode;
                let topic = looking.topic.clone();
                self.change_mode(&topic, mode);
            }
            return;
        }
        let place = self.places.iter().position(Option::is_none).unwrap_or(self.places.len());
        if place == self.places.len() {
            self.places.reserve_exact(1);
            self.places.push(None);
        }
        // There are at most as many as may be.
        let address =
            Address { connection: self.connection, mailbox: self.mailbox.clone(), place: u8::try_from(place).unwrap_or(0) };
        let topic = self.live.hub.enter(subject, address, mode == Mode::View && self.session.is_none());
        self.live.refresh(&topic.subject);
        if mode == Mode::View {
            self.tell(&topic.subject, mode);
        }
        self.places[place] = Some(Looking { topic, mode, sent: None });
    }

    /// Looks at this no more.
    pub fn remove(&mut self, subject: &Subject) {
        if let Some(looking) = self.find(subject).and_then(|place| self.places[place].take()) {
            self.leave(&looking);
        }
    }

    fn leave(&self, Looking { topic, mode, .. }: &Looking) {
        let viewed = self.live.hub.leave(topic, self.connection);
        self.live.refresh(&topic.subject);
        if viewed || (self.session.is_some() && *mode == Mode::View) {
            self.tell(&topic.subject, Mode::Observe);
        }
    }

    /// The page has this client as a viewer from now on, or has it no more.
    fn change_mode(&self, topic: &Topic, mode: Mode) {
        let changes = self.session.is_none() && self.live.hub.set_viewer(topic, self.connection, mode == Mode::View);
        self.live.refresh(&topic.subject);
        if changes || self.session.is_some() {
            self.tell(&topic.subject, mode);
        }
    }

    /// Tells who the viewer is. A session with an id counts where such sessions are held.
    fn tell(&self, subject: &Subject, mode: Mode) {
        let Some(page) = subject.page() else { return };
        let session = self.session.as_ref().map(|id| Session { page: page.clone(), id: id.clone() });
        let resumes = self.resumes.as_deref();
        match (session, self.mailbox.user, mode) {
            (Some(session), user, Mode::View) => {
                let resumes = resumes.map(Claimant::left_behind);
                self.live.sessions.connected(session, self.connection, user, resumes);
            }
            (Some(session), _, Mode::Observe) => self.live.sessions.disconnected(session, self.connection),
            (None, Some(user), Mode::View) => self.live.registrar.name_came(page, user),
            (None, Some(user), Mode::Observe) => self.live.registrar.name_left(page, user),
            (None, None, _) => {}
        }
        if let (None, Mode::View) = (&self.session, mode) {
            self.live.hand_over.came(page, self.connection);
            resumes.into_iter().for_each(|token| self.live.hand_over.resumed(*token, page));
        }
    }

    fn find(&self, subject: &Subject) -> Option<usize> {
        let is_it = |looking: &Option<Looking>| looking.as_ref().is_some_and(|looking| looking.topic.subject == *subject);
        self.places.iter().position(is_it)
    }

    fn len(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// Waits for pages with counts that this connection has not sent.
    pub(super) fn poll_marks(&self, cx: &mut Context<'_>) -> Poll<Marks> {
        self.mailbox.poll_take(cx)
    }

    /// Counts that [`Self::value`] gives are being sent from now on, until [`Self::end_sending`]: nobody else sends any.
    pub(super) fn begin_sending(&self) {
        self.mailbox.set_sending(true);
    }

    /// What was to be sent has been sent.
    pub(super) fn end_sending(&self) {
        self.mailbox.set_sending(false);
    }

    /// The count to be sent of the page at this place, unless that was sent already.
    pub(super) fn value(&mut self, place: usize) -> Option<Arc<Value>> {
        let looking = self.places.get_mut(place)?.as_mut()?;
        if self.mailbox.take_told(place) {
            // What was sent last is not known here.
            looking.sent = None;
        }
        let told = looking.topic.told()?;
        let is_sent = looking.sent.as_ref().is_some_and(|sent| sent.count == told.count);
        looking.sent = Some(told.clone());
        self.live.metrics.sent.fetch_add(u64::from(!is_sent), Ordering::Relaxed);
        (!is_sent).then_some(told)
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        for looking in std::mem::take(&mut self.places).iter().flatten() {
            self.leave(looking);
        }
    }
}

impl Subject {
    /// The page that it is, if it is one.
    #[must_use]
    pub fn page(&self) -> Option<&Key> {
        match self {
            Self::Site | Self::User(_) => None,
            Self::Page(key) => Some(key),
        }
    }
}
