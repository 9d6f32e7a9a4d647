//! Which replica of a shard a gateway gets counts from.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::link::Link;
use crate::id::NodeName;

/// The replica that is asked, and what has come from it.
#[derive(Debug, Default)]
pub(super) struct Feeder {
    node: Option<NodeName>,
    /// The number under which it is asked. Another one for each choice, and for each start of the replica.
    epoch: u64,
    /// The last of its messages under that number.
    taken: u64,
}

impl Feeder {
    pub(super) fn is(&self, node: &NodeName) -> bool {
        self.node.as_ref() == Some(node)
    }

    /// The number to be asked under, of the replica that is asked.
    pub(super) fn epoch_of(&self, node: &NodeName) -> Option<u64> {
        self.is(node).then_some(self.epoch)
    }

    /// Asks this replica from now on. Returns the one before.
    pub(super) fn name(&mut self, node: &NodeName, epoch: u64) -> Option<NodeName> {
        (self.epoch, self.taken) = (epoch, 0);
        self.node.replace(node.clone())
    }

    /// Whether a message of this number is newer than those before.
    pub(super) fn take(&mut self, sequence: u64) -> bool {
        let newer = sequence > self.taken;
        self.taken = self.taken.max(sequence);
        newer
    }

    /// The replica that is asked has left the shard. Should it come back, it may be another start of it.
    pub(super) fn keep(&mut self, is_there: impl FnOnce(&NodeName) -> bool) {
        self.node = self.node.take().filter(is_there);
    }

    /// A replica that should be asked instead, if any. None is asked before its first answer has told which start of it that is:
    /// what a later start sends under the same number would be taken for old. Of the others: one that answers, before one that
    /// does not; one that knows all of its viewers, before one that does not; this node itself; the one that is asked now; then
    /// each node has an order of its own.
    pub(super) fn better(
        &self,
        me: &NodeName,
        links: &BTreeMap<NodeName, Link>,
        now_ms: u64,
        silence_ms: u64,
    ) -> Option<NodeName> {
        let rank = |(name, link): &(&NodeName, &Link)| {
            let answers = link.answers(now_ms, silence_ms);
            (answers, answers && link.complete, *name == me, self.is(name), weight(me, name))
        };
        let (best, _) = links.iter().filter(|(_, link)| link.has_answered()).max_by_key(rank)?;
        (!self.is(best)).then(|| best.clone())
    }
}

/// Two nodes' number for rendezvous.
pub(super) fn weight(one: &NodeName, other: &NodeName) -> u64 {
    xxh3_64(format!("{one}\0{other}").as_bytes())
}
