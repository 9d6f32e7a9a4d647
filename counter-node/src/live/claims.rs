//! Sessions that bring an id of their own, as the node that holds them knows them. Whatever claims a session, however often and
//! through whichever nodes, it is one viewer, until its last claim ends or is not renewed in time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use counter_core::counter::Key;
use counter_core::presence::SessionToken;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Name;

/// Sessions with ids that one node holds.
const HELD_MAX: usize = 1_000_000;
/// Claims of one session: tabs that share an id.
const CLAIMANTS_MAX: usize = 64;
/// For how long at least an ended claim does not begin anew by what was said before its end: by a node that hands it over, or by its own,
/// whose messages overtake each other.
const ENDED: Duration = Duration::from_secs(10);
/// Ended claims that are remembered; when there are more in that time, some of those stand until they are not renewed.
const ENDED_MAX: usize = 65_536;
/// Sessions, or ended claims, that room is kept for when there are fewer.
const ROOM_KEPT: usize = 64;

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
    /// What a connection of a node that has stopped was, until its client is back: the node's start, and the connection as the token
    /// says that the client resumes by.
    Orphan { gateway: u64, connection: u64 },
}

impl Claimant {
    /// What the client that comes with this token has left behind, if its node has stopped. Who knows a session's id may end what claims
    /// it anyway, so that the token's proof does not matter.
    #[must_use]
    pub fn left_behind(token: &SessionToken) -> Self {
        Self::Orphan { gateway: token.gateway, connection: token.number }
    }
}

/// The node holds, or the session has, as many as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node holds as many sessions as it may")]
pub struct Full;

/// The sessions held.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    held: HashMap<Session, Held>,
    /// What has ended here lately, held or not: when that was said, and when it was heard.
    ended: HashMap<(Session, Claimant), (Instant, Instant)>,
    /// Of the last claim.
    number: u64,
}

#[derive(Debug)]
struct Held {
    /// Whose it is, by whoever claimed it first.
    name: Name,
    claimants: Vec<(Claimant, Instant)>,
    /// Of the last claim to it: another one than before has come since, or the same anew.
    number: u64,
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
        self.number += 1;
        if !self.ended.is_empty() {
            self.ended.remove(&(session.clone(), claimant));
        }
        if let Some(Held { claimants, number, .. }) = self.held.get_mut(session) {
            *number = self.number;
            let room = claimants.len() < CLAIMANTS_MAX;
            match claimants.iter_mut().find(|(other, _)| *other == claimant) {
                // What is handed over may be of before the last heartbeat.
                Some((_, deadline)) => *deadline = until.max(*deadline),
                None if room => claimants.push((claimant, until)),
                None => return Err(Full),
            }
            return Ok(None);
        }
        if self.held.len() >= HELD_MAX {
            return Err(Full);
        }
        let name = user.unwrap_or_else(|| Name::of_session(&session.id));
        let held = Held { name, claimants: vec![(claimant, until)], number: self.number };
        self.held.insert(session.clone(), held);
        Ok(Some(name))
    }

    /// When the claim has ended here, if that was a moment ago, and it has not begun anew.
    pub(crate) fn ended(&self, session: &Session, claimant: Claimant) -> Option<Instant> {
        if self.ended.is_empty() {
            return None;
        }
        self.ended.get(&(session.clone(), claimant)).map(|(said, _)| *said)
    }

    /// What has ended here lately, and when that was said.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (&Session, Claimant, Instant)> {
        self.ended.iter().map(|((session, claimant), (said, _))| (session, *claimant, *said))
    }

    /// Until when a claim stands, if it does.
    pub(crate) fn until(&self, session: &Session, claimant: Claimant) -> Option<Instant> {
        let claimants = &self.held.get(session)?.claimants;
        claimants.iter().find(|(other, _)| *other == claimant).map(|(_, until)| *until)
    }

    /// This claim is over, as was said at that time. Returns the session's name if that is over, too.
    pub(crate) fn end(&mut self, session: &Session, claimant: Claimant, said: Instant, now: Instant) -> Option<Name> {
        // Of what stopped nodes have left behind few come late, and there may be as many as sessions; heartbeats' may be kept for long.
        let max = if matches!(claimant, Claimant::Connection { .. }) { ENDED_MAX } else { ENDED_MAX / 2 };
        if self.ended.len() < max {
            let (last, heard) = self.ended.entry((session.clone(), claimant)).or_insert((said, now));
            (*last, *heard) = (said.max(*last), now);
        }
        let Held { claimants, .. } = self.held.get_mut(session)?;
        claimants.retain(|(other, _)| *other != claimant);
        if !claimants.is_empty() {
            return None;
        }
        self.held.remove(session).map(|held| held.name)
    }

    /// Ends claims whose time is over, and those of nodes that are not `alive`. A heartbeat's time after their end no heartbeat of before
    /// is told any more. Returns the sessions that are over.
    pub(crate) fn expire(&mut self, now: Instant, heartbeat: Duration, alive: impl Fn(u64) -> bool) -> Vec<(Session, Name)> {
        self.ended.retain(|(_, claimant), (_, heard)| {
            let kept = if *claimant == Claimant::Heartbeats { ENDED.max(heartbeat) } else { ENDED };
            now.saturating_duration_since(*heard) < kept
        });
        let stands = |(claimant, until): &(Claimant, Instant)| match claimant {
            Claimant::Heartbeats | Claimant::Orphan { .. } => now < *until,
            Claimant::Connection { gateway, .. } => now < *until && alive(*gateway),
        };
        let ended = self.held.extract_if(|_, held| {
            held.claimants.retain(stands);
            held.claimants.is_empty()
        });
        let ended = ended.map(|(session, held)| (session, held.name)).collect();
        give_back(&mut self.held);
        give_back(&mut self.ended);
        ended
    }

    /// The sessions held.
    pub(crate) fn sessions(&self) -> Vec<Session> {
        self.held.keys().cloned().collect()
    }

    /// A session's name, and its claims with their ends; none when it is not held.
    pub(crate) fn get(&self, session: &Session) -> Option<(Name, &[(Claimant, Instant)])> {
        self.held.get(session).map(|held| (held.name, held.claimants.as_slice()))
    }

    /// The number of the last claim to a session.
    pub(crate) fn number(&self, session: &Session) -> Option<u64> {
        self.held.get(session).map(|held| held.number)
    }

    /// Another node holds the session, by all that was claimed up to this number. Returns its name here, unless more has been
    /// claimed since, and it stays.
    pub(crate) fn remove(&mut self, session: &Session, number: u64) -> Option<Name> {
        self.number(session).filter(|last| *last == number)?;
        self.held.remove(session).map(|held| held.name)
    }

    /// How many sessions are held.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }
}

/// Gives back the room that a crowd has taken, when few are left of it.
pub(crate) fn give_back<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > 4 * map.len().max(ROOM_KEPT) {
        map.shrink_to(2 * map.len());
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(claims.end(&session("a"), Claimant::Heartbeats, now, now), None);
        assert_eq!(claims.end(&session("a"), socket, now, now), user, "it leaves under the name under which it came");
        assert_eq!(claims.end(&session("a"), socket, now, now), None, "ended twice");
        assert_eq!(claims.len(), 0);
    }

    #[test]
    fn claims_end_with_their_time_and_with_the_node_that_made_them() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        let until = now + Duration::from_secs(20);
        let ended = |id: &str| [(session(id), Name::of_session(id))];
        claims.claim(&session("a"), None, Claimant::Heartbeats, until).unwrap();
        claims.claim(&session("b"), None, Claimant::Connection { gateway: 1, number: 2 }, until).unwrap();
        assert_eq!(claims.expire(now, ENDED, |_| true), []);
        assert_eq!(claims.expire(now, ENDED, |gateway| gateway != 1), ended("b"));
        assert_eq!(claims.expire(until, ENDED, |_| true), ended("a"));
        assert_eq!(claims.len(), 0);
    }

    #[test]
    fn a_claim_of_before_the_last_one_does_not_shorten_it() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        let [early, late] = [1, 20].map(|s| now + Duration::from_secs(s));
        claims.claim(&session("a"), None, Claimant::Heartbeats, late).unwrap();
        claims.claim(&session("a"), None, Claimant::Heartbeats, early).unwrap();
        assert_eq!(claims.expire(early, ENDED, |_| true), []);
        assert_eq!(claims.expire(late, ENDED, |_| true), [(session("a"), Name::of_session("a"))]);
    }

    #[test]
    fn an_orphan_stands_without_its_node_for_its_time() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        let until = now + Duration::from_secs(20);
        claims.claim(&session("a"), None, Claimant::Connection { gateway: 1, number: 2 }, until).unwrap();
        claims.claim(&session("a"), None, Claimant::Orphan { gateway: 1, connection: 5 }, until).unwrap();
        assert_eq!(claims.expire(now, ENDED, |_| false), []);
        assert_eq!(claims.expire(until, ENDED, |_| true), [(session("a"), Name::of_session("a"))]);
    }

    #[test]
    fn a_session_that_was_claimed_again_while_it_was_handed_over_stays() {
        let (mut claims, until) = (Claims::default(), Instant::now());
        claims.claim(&session("a"), None, Claimant::Heartbeats, until).unwrap();
        let number = claims.number(&session("a")).unwrap();
        claims.claim(&session("b"), None, Claimant::Heartbeats, until).unwrap();
        claims.claim(&session("a"), None, Claimant::Heartbeats, until).unwrap();
        assert_eq!(claims.remove(&session("a"), number), None);
        let number = claims.number(&session("a")).unwrap();
        assert_eq!(claims.remove(&session("a"), number), Some(Name::of_session("a")));
        assert_eq!((claims.remove(&session("a"), number), claims.len()), (None, 1));
    }

    #[test]
    fn what_has_ended_is_remembered_for_a_while_held_or_not_and_until_it_begins_anew() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        assert_eq!(claims.end(&session("a"), Claimant::Heartbeats, now, now), None, "it is still on its way here");
        assert_eq!(claims.ended(&session("a"), Claimant::Heartbeats), Some(now));
        assert_eq!(claims.ended(&session("a"), Claimant::Orphan { gateway: 1, connection: 5 }), None);
        assert_eq!(claims.ended(&session("b"), Claimant::Heartbeats), None);
        claims.claim(&session("a"), None, Claimant::Heartbeats, now + ENDED).unwrap();
        assert_eq!(claims.ended(&session("a"), Claimant::Heartbeats), None, "a heartbeat has come since");
        claims.end(&session("a"), Claimant::Heartbeats, now, now);
        claims.expire(now + ENDED, ENDED, |_| true);
        assert!(claims.ended.is_empty());
        let heard = now + ENDED + Duration::from_secs(2);
        claims.end(&session("a"), Claimant::Heartbeats, now, heard);
        claims.expire(heard + Duration::from_secs(1), ENDED, |_| true);
        assert_eq!(claims.ended(&session("a"), Claimant::Heartbeats), Some(now), "what was said long ago has just been heard");
        claims.expire(heard + ENDED, ENDED, |_| true);
        for id in 0..=ENDED_MAX {
            claims.end(&session(&id.to_string()), Claimant::Heartbeats, now, now);
            claims.end(&session(&id.to_string()), Claimant::Connection { gateway: 1, number: 2 }, now, now);
        }
        assert_eq!(claims.ended.len(), ENDED_MAX);
        let of_heartbeats = claims.ended.keys().filter(|(_, claimant)| *claimant == Claimant::Heartbeats).count();
        assert_eq!(of_heartbeats, ENDED_MAX / 4, "connections' ends have room, whatever comes of heartbeats");
        claims.expire(now + ENDED, ENDED, |_| true);
        assert!(claims.ended.capacity() <= 4 * ROOM_KEPT, "{} of room is kept", claims.ended.capacity());
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
