//! Asks the shards for what unread counts are made of, this node itself where it can answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use counter_core::counter::Key;
use counter_core::forward::NotApplied;
use counter_core::id::NodeName;
use counter_core::key::KeyKind;
use counter_core::layout::{Layout, Node, Shard};
use counter_core::slot::Slot;
use counter_core::table::Table;
use counter_core::unread::{Modifications, modifications_of};
use counter_core::vector::{Bounds, SlotDelta, bounds_of};
use futures::future::{BoxFuture, join_all, try_join_all};
use serde::{Deserialize, Serialize};

use super::{Keeper, Standing, Subscribed, held};
use crate::members::Reach;
use crate::peers::{Peers, Question, UNREAD_PATH};
use crate::protocol::View;
use crate::router::{Failure, not_applied};

/// How long a shard may take to answer, all of its replicas together.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long all replicas of a shard are waited for, once one has answered.
const OTHERS_TIME: Duration = Duration::from_millis(500);
/// Of a counter with more tokens no copy is told for bounds: any reader may ask for them.
const COPIED_TOKENS_MAX: usize = 1_000;

/// What one replica is asked. All keys of a question lie in slots of one shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Of these keys, see [`Key::modifications`].
    Modifications(Vec<Key>),
    /// All that is behind one of them, or behind a page.
    Copy(Key),
    /// Of this user, see [`Key::user`].
    Subscriptions(Key),
    /// Of this one, see [`Key::subscription`].
    Standing(Key),
    /// Of this user.
    Active(Key),
}

/// What it answers, each to the question of its name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    Modifications(Vec<Modifications>),
    Copy(Box<SlotDelta>),
    Subscriptions(Vec<Subscribed>),
    Standing(Standing),
    Active(usize),
    /// This is what a node says of a slot that is on its way from it to another shard and not its own any more.
    Left(Box<Self>),
    /// More is behind it than is told.
    Withheld,
}

/// The way to other nodes, and what leads there: [`Peers`], but for tests.
pub trait Way: Reach {
    /// What this node routes by now.
    fn view(&self) -> Arc<View>;
}

impl Way for Peers {
    fn view(&self) -> Arc<View> {
        self.protocol.view()
    }
}

/// The way to the shards.
pub struct Shards<W = Peers> {
    pub table: Arc<Table>,
    pub way: W,
}

impl Ask {
    fn slots(&self) -> impl Iterator<Item = Slot> {
        let keys = match self {
            Self::Modifications(keys) => keys.as_slice(),
            Self::Copy(key) | Self::Subscriptions(key) | Self::Standing(key) | Self::Active(key) => std::slice::from_ref(key),
        };
        keys.iter().map(Key::slot)
    }

    /// Whether everyone is heard who may know something, not only who knows all.
    fn is_for_all(&self) -> bool {
        matches!(self, Self::Copy(_) | Self::Standing(_) | Self::Active(_))
    }
}

impl<W: Way> Shards<W> {
    /// What this node says.
    ///
    /// # Errors
    /// [`NotApplied::NotOwner`] when it does not own a slot, or does not serve.
    pub fn here(&self, ask: &Ask) -> Result<Answer, NotApplied> {
        let view = self.way.view();
        let serves = ask.slots().all(|slot| view.serves(slot));
        // Just before it gave the slot up it may have acknowledged what the new owner has not heard yet.
        let counts_all_the_same = || ask.is_for_all() && ask.slots().all(|slot| view.has_left(slot));
        if !serves && !counts_all_the_same() {
            return Err(NotApplied::NotOwner);
        }
        let answer = self.held(ask);
        Ok(if serves { answer } else { Answer::Left(Box::new(answer)) })
    }

    fn held(&self, ask: &Ask) -> Answer {
        match ask {
            Ask::Modifications(keys) => Answer::Modifications(held::modifications(&self.table, keys)),
            Ask::Copy(key) => {
                let vector = self.table.slot(key.slot());
                let is_told = key.kind() != KeyKind::Page || vector.tokens_of(key) <= COPIED_TOKENS_MAX;
                if is_told { Answer::Copy(Box::new(vector.delta(key.slot(), [key]))) } else { Answer::Withheld }
            }
            Ask::Subscriptions(user) => Answer::Subscriptions(held::subscriptions(&self.table, user)),
            Ask::Standing(key) => Answer::Standing(held::standing(&self.table, key)),
            Ask::Active(user) => Answer::Active(held::active(&self.table, user)),
        }
    }

    /// What one replica of the slot's owner says: this node, or the first that answers. Each node has its own order, so that
    /// the same one is asked by it again.
    async fn one(&self, slot: Slot, ask: Ask) -> Result<Answer, Failure> {
        if let Ok(answer) = self.here(&ask) {
            return Ok(answer);
        }
        let view = self.way.view();
        let routes = view.routes.as_ref().ok_or_else(|| not_applied(NotApplied::NotReady))?;
        let nodes = self.others(&routes.layout.shards[routes.owners().index(slot)]);
        let question = Question { path: UNREAD_PATH, body: ask, time: TIMEOUT };
        let answer = self.way.first(nodes.into_iter(), question, |said: Result<Answer, NotApplied>| said.ok());
        answer.await.ok_or_else(|| not_applied(NotApplied::Unreachable))
    }

    /// What every replica of the slot's owner says that answers in time and, while the slot moves, of the other end of the move. Which end
    /// owns it may be known there and not here.
    async fn all(&self, slot: Slot, ask: Ask) -> Result<Vec<Answer>, Failure> {
        let view = self.way.view();
        let routes = view.routes.as_ref().ok_or_else(|| not_applied(NotApplied::NotReady))?;
        let nodes = ends(&routes.layout, &routes.layout.shards[routes.owners().index(slot)], slot);
        let nodes = nodes.flat_map(|shard| self.others(shard));
        let question = || Question { path: UNREAD_PATH, body: &ask, time: OTHERS_TIME };
        let heard = join_all(nodes.map(|node| self.way.reach(&node.name, question()))).await;
        let heard = heard.into_iter().filter_map(|said: Option<Result<Answer, NotApplied>>| said?.ok());
        // Read last: so it is not older than what the others said.
        together(heard.chain(self.here(&ask).ok())).ok_or_else(|| not_applied(NotApplied::Unreachable))
    }

    /// Between what a counter is, by the copies of all replicas that may have counted it. None where one of them does not tell its
    /// own; without asking, where others than these, so many, have lately been `heard`.
    pub async fn bounds(&self, key: Key, heard: u32) -> Option<Bounds> {
        let (slot, view) = (key.slot(), self.way.view());
        let routes = view.routes.as_ref()?;
        let replicas = ends(&routes.layout, &routes.layout.shards[routes.owners().index(slot)], slot);
        let replicas: usize = replicas.map(|shard| shard.nodes.len()).sum();
        if usize::try_from(heard).is_ok_and(|heard| heard != replicas) {
            return None;
        }
        let copies = copies(self.all(slot, Ask::Copy(key.clone())).await.ok()?);
        if copies.len() == replicas { bounds_of(&key, &copies) } else { None }
    }

    fn others<'l>(&self, shard: &'l Shard) -> Vec<&'l Node> {
        let me = self.way.me();
        let order = |node: &&Node| xxhash_rust::xxh3::xxh3_64(format!("{me}\0{}", node.name).as_bytes());
        let mut nodes: Vec<&Node> = shard.nodes.iter().filter(|node| node.name != *me).collect();
        nodes.sort_by_key(order);
        nodes
    }

    async fn of_shard(&self, keys: Vec<(usize, Key)>) -> Result<Vec<(usize, Modifications)>, Failure> {
        let Some(slot) = keys.first().map(|(_, key)| key.slot()) else { return Ok(Vec::new()) };
        let (places, keys): (Vec<usize>, Vec<Key>) = keys.into_iter().unzip();
        let asked = keys.len();
        match self.one(slot, Ask::Modifications(keys)).await? {
            Answer::Modifications(said) if said.len() == asked => Ok(places.into_iter().zip(said).collect()),
            _ => Err(not_applied(NotApplied::Unreachable)),
        }
    }
}

/// The slot's owner and, while the slot moves, the other end of that.
fn ends<'l>(layout: &'l Layout, owner: &'l Shard, slot: Slot) -> impl Iterator<Item = &'l Shard> {
    let other = layout.move_of(slot).map(|one| if one.from == owner.shard { one.to } else { one.from });
    std::iter::once(owner).chain(other.and_then(|other| layout.shard(other)))
}

/// All of these answers, if one of them is an owner's: who has given a slot up alone does not know enough.
fn together(answers: impl Iterator<Item = Answer>) -> Option<Vec<Answer>> {
    let mut owned = false;
    let answers = answers.map(|answer| match answer {
        Answer::Left(answer) => *answer,
        answer => {
            owned = true;
            answer
        }
    });
    let answers = answers.collect();
    owned.then_some(answers)
}

fn copies(answers: Vec<Answer>) -> Vec<SlotDelta> {
    let copy = |answer| if let Answer::Copy(copy) = answer { Some(*copy) } else { None };
    answers.into_iter().filter_map(copy).collect()
}

impl<W> fmt::Debug for Shards<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shards").finish_non_exhaustive()
    }
}

impl<W: Way> Keeper for Shards<W> {
    fn modifications(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Modifications>, Failure>> {
        Box::pin(async move {
            let view = self.way.view();
            let routes = view.routes.as_ref().ok_or_else(|| not_applied(NotApplied::NotReady))?;
            let mut by_shard: BTreeMap<usize, Vec<(usize, Key)>> = BTreeMap::new();
            for (place, key) in keys.into_iter().enumerate() {
                by_shard.entry(routes.owners().index(key.slot())).or_default().push((place, key));
            }
            let said = try_join_all(by_shard.into_values().map(|keys| self.of_shard(keys))).await?;
            let mut said: Vec<(usize, Modifications)> = said.into_iter().flatten().collect();
            said.sort_unstable_by_key(|(place, _)| *place);
            Ok(said.into_iter().map(|(_, modifications)| modifications).collect())
        })
    }

    fn all_modifications(&self, key: Key) -> BoxFuture<'_, Result<Modifications, Failure>> {
        Box::pin(async move {
            let answers = self.all(key.slot(), Ask::Copy(key.clone())).await?;
            Ok(modifications_of(&key, &copies(answers)))
        })
    }

    fn subscriptions(&self, user: Key) -> BoxFuture<'_, Result<Vec<Subscribed>, Failure>> {
        Box::pin(async move {
            match self.one(user.slot(), Ask::Subscriptions(user)).await? {
                Answer::Subscriptions(subscribed) => Ok(subscribed),
                _ => Err(not_applied(NotApplied::Unreachable)),
            }
        })
    }

    fn subscriptions_at(&self, node: NodeName, user: Key) -> BoxFuture<'_, Result<Vec<Subscribed>, Failure>> {
        Box::pin(async move {
            let ask = Ask::Subscriptions(user);
            let said = if node == *self.way.me() {
                Some(self.here(&ask))
            } else {
                self.way.reach(&node, Question { path: UNREAD_PATH, body: &ask, time: TIMEOUT }).await
            };
            match said {
                Some(Ok(Answer::Subscriptions(subscribed))) => Ok(subscribed),
                _ => Err(not_applied(NotApplied::Unreachable)),
            }
        })
    }

    fn standing(&self, subscription: Key) -> BoxFuture<'_, Result<Standing, Failure>> {
        Box::pin(async move {
            let answers = self.all(subscription.slot(), Ask::Standing(subscription)).await?;
            let standings = answers.into_iter().filter_map(|answer| match answer {
                Answer::Standing(standing) => Some(standing),
                _ => None,
            });
            Ok(standings.fold(Standing::default(), |joined, other| Standing {
                subscription: joined.subscription.join(other.subscription),
                updated_at: joined.updated_at.max(other.updated_at),
            }))
        })
    }

    fn active(&self, user: Key) -> BoxFuture<'_, Result<usize, Failure>> {
        Box::pin(async move {
            let answers = self.all(user.slot(), Ask::Active(user)).await?;
            let said = answers.into_iter().map(|answer| if let Answer::Active(pages) = answer { pages } else { 0 });
            Ok(said.max().unwrap_or(0))
        })
    }
}

#[cfg(test)]
mod tests {
    use counter_core::id::{ClusterId, ShardId};
    use counter_core::layout::{Move, MovePhase};

    use super::*;

    /// Two shards, of which the second has got slots 0 to 9 from the first, or is to.
    fn moving(phase: MovePhase) -> Layout {
        let node =
            |name: &str| Node { name: name.into(), http: "h:1".into(), admin: "h:1".into(), peer: "h:1".into(), resp: None };
        let mut layout = Layout::single(ClusterId(1), node("a"));
        let second = Shard { shard: ShardId(7), slots: Vec::new(), nodes: vec![node("b")] };
        layout.moves = vec![Move { from: layout.shards[0].shard, to: second.shard, slots: vec!["0-9".parse().unwrap()], phase }];
        layout.shards.push(second);
        layout
    }

    #[test]
    fn while_a_slot_moves_both_ends_are_asked_whichever_owns_it() {
        let (moved, other) = (Slot::new(3).unwrap(), Slot::new(10).unwrap());
        for phase in [MovePhase::Copying, MovePhase::Flipped] {
            let layout = moving(phase);
            let asked = |owner: usize, slot| -> Vec<&str> {
                ends(&layout, &layout.shards[owner], slot)
                    .flat_map(|shard| &shard.nodes)
                    .map(|node| node.name.0.as_ref())
                    .collect()
            };
            assert_eq!((asked(0, moved), asked(1, moved)), (vec!["a", "b"], vec!["b", "a"]), "{phase:?}");
            assert_eq!(asked(0, other), ["a"], "{phase:?}");
        }
    }

    #[test]
    fn what_a_former_owner_knows_counts_beside_the_owners_answer_and_not_for_it() {
        let active = |pages| Answer::Active(pages);
        let left = |pages| Answer::Left(Box::new(active(pages)));
        let pages = |answers: Vec<Answer>| {
            let said = together(answers.into_iter())?.into_iter();
            Some(said.map(|answer| if let Answer::Active(pages) = answer { pages } else { 0 }).collect::<Vec<_>>())
        };
        assert_eq!(pages(vec![left(3), active(2)]), Some(vec![3, 2]));
        assert_eq!((pages(vec![left(3)]), pages(vec![])), (None, None));
    }
}
