//! Users of the simulation: what they subscribe to and read, by the steps that a node takes for them. See `counter_core::unread`.
//!
//! What changes a subscription first hears all replicas of its user's and its page's shards that answer, and raises then. Who was
//! asked, what was heard and what was raised is kept for the model, see `model.rs`.

use counter_core::counter::{Key, Update};
use counter_core::forward::Attempt;
use counter_core::layout::LayoutVersion;
use counter_core::slot::Slot;
use counter_core::unread::{MODIFICATIONS_MAX, Modifications, Subscription, modifications_of};
use counter_core::vector::SlotDelta;

use crate::bugs::Bug;
use crate::events::Event;
use crate::ledger::Told;
use crate::world::World;

/// How long replicas that do not answer are waited for.
const OTHERS_MS: u64 = 500;
/// The pages that are modified and subscribed to: some of those that are counted, too.
const PAGES: [&str; 2] = ["page-1", "page-2"];
const USERS: [&str; 2] = ["ann", "ben"];

/// A user and a page, by the numbers of the keys of the page's modifications and of the subscription.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) modifications: usize,
    pub(crate) subscription: usize,
}

/// What a user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Subscribe,
    Unsubscribe,
    /// So many modifications.
    Read(u32),
}

/// What replicas are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Standing,
    Copy,
}

/// What one of them says.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Standing(Subscription),
    Copy(SlotDelta),
}

/// What replicas of a page's shard said of it together, and when the last of them had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) at_ms: u64,
    pub(crate) modifications: Modifications,
}

/// One wish of a user's, and what has become of it.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) pair: usize,
    pub(crate) deed: Deed,
    pub(crate) asked_ms: u64,
    /// Where the user asked.
    node: usize,
    process: u64,
    /// No slot was on the move as the user asked, and this was the layout.
    layout: Option<LayoutVersion>,
    /// Every replica was heard, and no slot moved meanwhile: then what has been acknowledged before must have been heard.
    pub(crate) certain: bool,
    /// Counted up with each question to all.
    round: u32,
    awaited: usize,
    standings: Vec<Subscription>,
    copies: Vec<SlotDelta>,
    asked: Vec<Part>,
    pub(crate) standing: Option<Subscription>,
    pub(crate) heard: Option<Heard>,
    /// What the subscription was to be at least.
    pub(crate) to: Option<Subscription>,
    /// The request by which it was to be raised to that.
    pub(crate) request: Option<u64>,
    /// How it ended where nothing was to be raised, and when.
    pub(crate) ended: Option<(Told, u64)>,
}

/// All wishes.
#[derive(Debug)]
pub(crate) struct Users {
    pub(crate) pairs: Vec<Pair>,
    pub(crate) wishes: Vec<Wish>,
}

impl Users {
    /// Adds the keys behind the others.
    pub(crate) fn new(keys: &mut Vec<Key>) -> Self {
        let page = |name: &str| Key::new(name.as_bytes()).unwrap();
        let first = keys.len();
        keys.extend(PAGES.iter().map(|name| page(name).modifications()));
        let mut pairs = Vec::new();
        for user in USERS {
            for (number, name) in PAGES.iter().enumerate() {
                pairs.push(Pair { modifications: first + number, subscription: keys.len() });
                keys.push(Key::user(user.as_bytes()).unwrap().subscription(&page(name)).unwrap());
            }
        }
        Self { pairs, wishes: Vec::new() }
    }

    /// Whether some have not ended, those apart whose request has not.
    pub(crate) fn are_waiting(&self) -> bool {
        self.wishes.iter().any(|wish| wish.request.is_none() && wish.ended.is_none())
    }
}

impl World {
    /// A user does something, or a page is modified.
    pub(crate) fn user_acts(&mut self) {
        if self.healed {
            return;
        }
        self.events.at(self.now_ms + self.rng.range(1, 2 * self.plan.user_ms), Event::User);
        let Some(node) = self.any_running().filter(|_| self.now_ms >= 800) else { return };
        let pair = self.rng.index(self.users.pairs.len());
        let deed = match self.rng.below(10) {
            0..4 => return self.send_update(node, self.users.pairs[pair].modifications, Update::Increment(1)),
            4..6 => Deed::Subscribe,
            6 => Deed::Unsubscribe,
            _ => Deed::Read(self.version(pair)),
        };
        self.wish(node, pair, deed);
    }

    /// Some version that the page has come to, or has not yet.
    fn version(&mut self, pair: usize) -> u32 {
        let key = self.users.pairs[pair].modifications;
        let most = self.ledger.requests.iter().filter(|request| request.key == key).count();
        u32::try_from(self.rng.index(most + 3)).unwrap()
    }

    fn wish(&mut self, node: usize, pair: usize, deed: Deed) {
        let Some(process) = &self.nodes[node].process else { return };
        let wish = Wish {
            pair,
            deed,
            asked_ms: self.now_ms,
            node,
            process: process.number,
            layout: self.steady_layout(node),
            certain: true,
            round: 0,
            awaited: 0,
            standings: Vec::new(),
            copies: Vec::new(),
            asked: Vec::new(),
            standing: None,
            heard: None,
            to: None,
            request: None,
            ended: None,
        };
        self.users.wishes.push(wish);
        let number = self.users.wishes.len() - 1;
        self.trace(|| format!("a user wishes {deed:?} of pair {pair} at node {node}: wish {number}"));
        match deed {
            Deed::Subscribe | Deed::Unsubscribe => self.ask_all(number, &[Part::Standing]),
            Deed::Read(_) => self.ask_all(number, &[Part::Standing, Part::Copy]),
        }
    }

    /// The layout, where the node acts by the last one and nothing moves.
    fn steady_layout(&self, node: usize) -> Option<LayoutVersion> {
        let layout = &self.operator.layout;
        let held = self.nodes[node].process.as_ref()?.replica.layout()?.version;
        (layout.moves.is_empty() && held == layout.version).then_some(held)
    }

    fn key_of(&self, wish: usize, part: Part) -> usize {
        let pair = self.users.pairs[self.users.wishes[wish].pair];
        match part {
            Part::Standing => pair.subscription,
            Part::Copy => pair.modifications,
        }
    }

    /// Asks all other replicas; the node itself is asked last, see [`Self::hear_out`].
    fn ask_all(&mut self, number: usize, parts: &[Part]) {
        let (node, round) = (self.users.wishes[number].node, self.users.wishes[number].round + 1);
        let mut asked = Vec::new();
        for part in parts {
            let slot = self.ledger.keys[self.key_of(number, *part)].slot();
            asked.extend(self.replicas_to_ask(node, slot, *part).into_iter().map(|to| (to, *part)));
        }
        let wish = &mut self.users.wishes[number];
        (wish.round, wish.awaited, wish.asked) = (round, asked.len(), parts.to_vec());
        for (to, part) in asked {
            self.send_question(number, to, part);
        }
        let waited_ms = if self.users.wishes[number].awaited == 0 { 0 } else { OTHERS_MS };
        self.events.at(self.now_ms + waited_ms, Event::UserWaited { wish: number, round });
    }

    fn replicas_to_ask(&self, node: usize, slot: Slot, part: Part) -> Vec<usize> {
        let layout = self.nodes[node].process.as_ref().and_then(|process| process.replica.layout());
        let owner = layout.and_then(|layout| layout.owner(slot));
        let all: Vec<usize> = owner.into_iter().flat_map(|shard| &shard.nodes).map(|node| self.names[&node.name]).collect();
        let hears_one = match part {
            Part::Standing => self.bug == Some(Bug::OneOfUserHeard),
            Part::Copy => self.bug == Some(Bug::OneOfPageHeard),
        };
        if hears_one {
            return if all.contains(&node) { Vec::new() } else { all.into_iter().take(1).collect() };
        }
        all.into_iter().filter(|replica| *replica != node).collect()
    }

    fn send_question(&mut self, wish: usize, to: usize, part: Part) {
        let from = self.users.wishes[wish].node;
        if self.network.cut.contains(&(from, to)) || self.rng.per_mille(self.network.loss) {
            return;
        }
        let at_ms = self.now_ms + self.delay_ms();
        let round = self.users.wishes[wish].round;
        self.events.at(at_ms, Event::UserAsks { to, wish, round, part });
    }

    pub(crate) fn user_asks(&mut self, to: usize, number: usize, round: u32, part: Part) {
        let from = self.users.wishes[number].node;
        if self.network.cut.contains(&(to, from)) || self.rng.per_mille(self.network.loss) {
            return;
        }
        let answer = self.said_by(to, number, part).map(Box::new);
        let at_ms = self.now_ms + self.delay_ms();
        self.events.at(at_ms, Event::UserHears { wish: number, round, answer });
    }

    /// None where the node does not own the slot, or does not serve.
    fn said_by(&self, node: usize, wish: usize, part: Part) -> Option<Answer> {
        let key = &self.ledger.keys[self.key_of(wish, part)];
        let held = &self.nodes[node];
        let process = held.process.as_ref().filter(|process| process.serves(&held.name, key.slot()))?;
        let vector = process.table.slot(key.slot());
        Some(match part {
            Part::Standing => Answer::Standing(vector.subscription(key)),
            Part::Copy => Answer::Copy(vector.delta(key.slot(), [key])),
        })
    }

    pub(crate) fn user_hears(&mut self, number: usize, round: u32, answer: Option<Answer>) {
        let wish = &mut self.users.wishes[number];
        if wish.round != round || wish.awaited == 0 {
            return;
        }
        wish.awaited -= 1;
        wish.certain &= answer.is_some();
        wish.take(answer);
        if wish.awaited == 0 {
            self.hear_out(number);
        }
    }

    pub(crate) fn user_waited(&mut self, number: usize, round: u32) {
        let wish = &mut self.users.wishes[number];
        let is_over = wish.request.is_some() || wish.ended.is_some();
        if wish.round != round || is_over || (wish.awaited == 0 && !wish.asked.is_empty() && wish.is_heard_out()) {
            return;
        }
        wish.certain &= wish.awaited == 0;
        wish.awaited = 0;
        self.hear_out(number);
    }

    /// All have answered that will: the node itself is asked last, so that it is not older than the others.
    fn hear_out(&mut self, number: usize) {
        let (node, process) = (self.users.wishes[number].node, self.users.wishes[number].process);
        if self.process(node, process).is_none() {
            return self.end_wish(number, Told::NotApplied);
        }
        for part in std::mem::take(&mut self.users.wishes[number].asked) {
            let own = self.said_by(node, number, part);
            // A replica that does not serve has not been heard.
            let is_replica = self.is_replica(node, self.ledger.keys[self.key_of(number, part)].slot());
            let steady = self.steady_layout(node);
            let wish = &mut self.users.wishes[number];
            wish.certain &= (own.is_some() || !is_replica) && steady.is_some() && steady == wish.layout;
            wish.take(own);
            let is_silent = match part {
                Part::Standing => wish.standings.is_empty(),
                Part::Copy => wish.copies.is_empty(),
            };
            if is_silent {
                return self.end_wish(number, Told::NotApplied);
            }
            if part == Part::Standing {
                wish.standing = wish.standings.drain(..).reduce(Subscription::join);
            } else {
                let key = self.users.pairs[wish.pair].modifications;
                let modifications = modifications_of(&self.ledger.keys[key], &std::mem::take(&mut wish.copies));
                wish.heard = Some(Heard { at_ms: self.now_ms, modifications });
            }
        }
        self.do_wish(number);
    }

    fn is_replica(&self, node: usize, slot: Slot) -> bool {
        let layout = self.nodes[node].process.as_ref().and_then(|process| process.replica.layout());
        let owner = layout.and_then(|layout| layout.owner(slot));
        owner.is_some_and(|shard| shard.nodes.iter().any(|replica| replica.name == self.nodes[node].name))
    }

    fn do_wish(&mut self, number: usize) {
        let wish = &self.users.wishes[number];
        let standing = wish.standing.unwrap_or_default();
        let heard = wish.heard.map(|heard| heard.modifications);
        let to = match (wish.deed, standing.is_active(), heard) {
            (Deed::Subscribe, false, None) => return self.ask_all(number, &[Part::Copy]),
            (Deed::Subscribe, false, Some(modifications)) => standing.begun(modifications),
            (Deed::Subscribe, true, _) => standing,
            (Deed::Unsubscribe, _, _) => standing.ended(),
            (Deed::Read(version), true, Some(modifications)) => standing.read(self.read_of(modifications).cursor(version)),
            (Deed::Read(_), _, _) => return self.end_wish(number, Told::NotApplied),
        };
        self.users.wishes[number].to = Some(to);
        let is_nothing = to == Subscription::default() || (to == standing && self.bug == Some(Bug::StandingNotDurable));
        if is_nothing {
            return self.end_wish(number, Told::Acknowledged);
        }
        let (node, key) = (self.users.wishes[number].node, self.key_of(number, Part::Standing));
        let update = Update::Raise { generation: to.generation, cursor: to.cursor };
        let request = self.ledger.ask(self.now_ms, key, update, None);
        self.users.wishes[number].request = Some(request);
        self.trace(|| format!("wish {number} has heard {standing:?} and {heard:?}, and raises to {to:?}: request {request}"));
        self.ask(node, request, key, Attempt::new(update, None));
    }

    fn read_of(&self, modifications: Modifications) -> Modifications {
        match self.bug {
            Some(Bug::VersionBelieved) => Modifications { number: MODIFICATIONS_MAX, ..modifications },
            _ => modifications,
        }
    }

    fn end_wish(&mut self, number: usize, told: Told) {
        self.users.wishes[number].ended = Some((told, self.now_ms));
    }
}

impl Wish {
    fn take(&mut self, answer: Option<Answer>) {
        match answer {
            Some(Answer::Standing(standing)) => self.standings.push(standing),
            Some(Answer::Copy(copy)) => self.copies.push(copy),
            None => {}
        }
    }

    fn is_heard_out(&self) -> bool {
        self.asked.is_empty()
    }
}
