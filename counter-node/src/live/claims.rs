//! Sessions that bring an id of their own, as the node that holds them knows them. Whatever claims a session, however often and
//! through whichever nodes, it is one viewer, until its last claim ends or is not renewed in time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use counter_core::counter::Key;
use serde::{Deserialize, Serialize};

use super::Name;

/// Sessions with ids that one node holds.
const HELD_MAX: usize = 1_000_000;
/// Claims of one session: tabs that share an id.
const CLAIMANTS_MAX: usize = 64;

/// A session with an id, on a page.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Session {
    pub page: Key,
    pub id: Arc<str>,
}

/// Who says that a session is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Claimant {
    /// Heartbeats by HTTP, through any node.
    Heartbeats,
    /// An open connection: the start of the node that has it, and its number there.
    Connection { gateway: u64, number: u64 },
}

/// The node holds, or the session has, as many as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node holds as many sessions as it may")]
pub struct Full;

/// The sessions held.
#[derive(Debug, Default)]
pub(crate) struct Claims(HashMap<Session, Held>);

#[derive(Debug)]
struct Held {
    /// Whose it is, by whoever claimed it first.
    name: Name,
    claimants: Vec<(Claimant, Instant)>,
}

impl Claims {
    /// The session is there until `until`. Returns its name if it was not before.
    pub(crate) fn claim(
        &mut self,
        session: &Session,
        user: Option<Name>,
        claimant: Claimant,
        until: Instant,
    ) -> Result<Option<Name>, Full> {
        if let Some(Held { claimants, .. }) = self.0.get_mut(session) {
            let room = claimants.len() < CLAIMANTS_MAX;
            match claimants.iter_mut().find(|(other, _)| *other == claimant) {
                Some((_, deadline)) => *deadline = until,
                None if room => claimants.push((claimant, until)),
                None => return Err(Full),
            }
            return Ok(None);
        }
        if self.0.len() >= HELD_MAX {
            return Err(Full);
        }
        let name = user.unwrap_or_else(|| Name::of_session(&session.id));
        self.0.insert(session.clone(), Held { name, claimants: vec![(claimant, until)] });
        Ok(Some(name))
    }

    /// This claim is over. Returns the session's name if that is over, too.
    pub(crate) fn end(&mut self, session: &Session, claimant: Claimant) -> Option<Name> {
        let Held { claimants, .. } = self.0.get_mut(session)?;
        claimants.retain(|(other, _)| *other != claimant);
        if !claimants.is_empty() {
            return None;
        }
        self.0.remove(session).map(|held| held.name)
    }

    /// Ends claims whose time is over, and those of nodes that are not `alive`. Returns the sessions that are over.
    pub(crate) fn expire(&mut self, now: Instant, alive: impl Fn(u64) -> bool) -> Vec<(Session, Name)> {
        let stands = |(claimant, until): &(Claimant, Instant)| match claimant {
            Claimant::Heartbeats => now < *until,
            Claimant::Connection { gateway, .. } => now < *until && alive(*gateway),
        };
        let ended = self.0.extract_if(|_, held| {
            held.claimants.retain(stands);
            held.claimants.is_empty()
        });
        ended.map(|(session, held)| (session, held.name)).collect()
    }

    /// How many sessions are held.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn session(id: &str) -> Session {
        Session { page: Key::new(b"p").unwrap(), id: id.into() }
    }

    #[test]
    fn a_session_is_there_once_and_until_its_last_claim_ends() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        let (until, socket) = (now + Duration::from_secs(20), Claimant::Connection { gateway: 1, number: 2 });
        let user = Some(Name::of_user("ann"));
        assert_eq!(claims.claim(&session("a"), user, Claimant::Heartbeats, until), Ok(user));
        assert_eq!(claims.claim(&session("a"), user, Claimant::Heartbeats, until), Ok(None));
        assert_eq!(claims.claim(&session("a"), None, socket, until), Ok(None));
        assert_eq!(claims.end(&session("a"), Claimant::Heartbeats), None);
        assert_eq!(claims.end(&session("a"), socket), user, "it leaves under the name under which it came");
        assert_eq!(claims.end(&session("a"), socket), None, "ended twice");
        assert_eq!(claims.len(), 0);
    }

    #[test]
    fn claims_end_with_their_time_and_with_the_node_that_made_them() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        let until = now + Duration::from_secs(20);
        let ended = |id: &str| [(session(id), Name::of_session(id))];
        claims.claim(&session("a"), None, Claimant::Heartbeats, until).unwrap();
        claims.claim(&session("b"), None, Claimant::Connection { gateway: 1, number: 2 }, until).unwrap();
        assert_eq!(claims.expire(now, |_| true), []);
        assert_eq!(claims.expire(now, |gateway| gateway != 1), ended("b"));
        assert_eq!(claims.expire(until, |_| true), ended("a"));
        assert_eq!(claims.len(), 0);
    }

    #[test]
    fn a_session_has_so_many_claims_and_no_more() {
        let (mut claims, until) = (Claims::default(), Instant::now());
        for number in 0..CLAIMANTS_MAX as u64 {
            claims.claim(&session("a"), None, Claimant::Connection { gateway: 1, number }, until).unwrap();
        }
        assert_eq!(claims.claim(&session("a"), None, Claimant::Heartbeats, until), Err(Full));
    }
}
