//! Over how many keys pages are spread, from one layout to the next.
//!
//! Invariant: no node updates a sub-key that another node does not read. So a higher count takes two versions: with the
//! first, nodes read as many sub-keys; once all of them act by it, the second lets them be updated. A lower count takes
//! one, because what is read never becomes less. Only that matters, not the order of the patterns: an update goes to at
//! most the count of some pattern that fits the page, and a read takes the most that any of them ever had.

use counter_core::id::NodeName;
use counter_core::layout::virtual_shards::PATTERNS_MAX;
use counter_core::layout::{Layout, VirtualShards};

use crate::controller::validate::ClusterSpec;

use super::{Notice, Observed, ObservedNode};

/// The recorded patterns as they are to be next: the same where nothing is to be done, or nothing can be yet.
pub(super) fn next(spec: &ClusterSpec, layout: &Layout, observed: &Observed) -> Vec<VirtualShards> {
    let all = with_those_taken_back(spec, layout);
    if all.len() > PATTERNS_MAX {
        return layout.virtual_shards.clone();
    }
    let is_read_everywhere = behind(layout, observed).is_empty();
    let step = |(pages, wanted): (String, u16)| {
        let (count, ever_count) = recorded(layout, &pages);
        let may_be_updated = wanted <= count || (wanted <= ever_count && is_read_everywhere);
        VirtualShards { pages, count: if may_be_updated { wanted } else { count }, ever_count: ever_count.max(wanted) }
    };
    all.into_iter().map(step).collect()
}

/// The patterns of a cluster's first layout: there is no node yet that acts by another.
pub(super) fn first(spec: &ClusterSpec) -> Vec<VirtualShards> {
    let own = |(pages, count): &(String, u16)| VirtualShards { pages: pages.clone(), count: *count, ever_count: *count };
    spec.virtual_shards.iter().map(own).collect()
}

/// The recorded patterns as they are to be when the record is put above layouts that nodes have seen and it does not know
/// of: as much is read as any node reads, because it may have counted by it. What is updated stays as recorded.
pub(super) fn reasserted(layout: &Layout, observed: &Observed) -> Vec<VirtualShards> {
    let mut all = layout.virtual_shards.clone();
    let own = observed.nodes.values().filter_map(|node| node.status.as_ref()).filter(|own| own.cluster == Some(layout.cluster));
    for seen in own.flat_map(|status| &status.virtual_shards) {
        match all.iter_mut().find(|known| known.pages == seen.pages) {
            Some(known) => known.ever_count = known.ever_count.max(seen.ever_count),
            None => all.push(VirtualShards { count: 0, ..seen.clone() }),
        }
    }
    all
}

/// The nodes for which a higher count waits: those that the layout names and those that run, unless they act by it.
pub(super) fn behind(layout: &Layout, observed: &Observed) -> Vec<NodeName> {
    let stamp = Some((layout.version, layout.hash()));
    let acts = |node: &ObservedNode| node.acts_by(layout.cluster) == stamp;
    let named = layout.nodes().map(|node| &node.name).filter(|name| !observed.nodes.get(*name).is_some_and(acts));
    // One that has no layout yet takes nothing but the newest.
    let waits = |node: &ObservedNode| node.status.as_ref().is_some_and(|status| status.layout.is_none());
    let others = observed.nodes.iter().filter(|(name, node)| {
        layout.node(name).is_none() && (node.running || node.status.is_some()) && !acts(node) && !waits(node)
    });
    named.chain(others.map(|(name, _)| name)).cloned().collect()
}

/// Whether some count is still to rise.
pub(super) fn is_rising(spec: &ClusterSpec, layout: &Layout) -> bool {
    spec.virtual_shards.iter().any(|(pages, count)| recorded(layout, pages).0 < *count)
}

/// What a person has to do when there are more patterns than a layout holds.
pub(super) fn too_many(spec: &ClusterSpec, layout: &Layout) -> Option<Notice> {
    let count = with_those_taken_back(spec, layout).len();
    (count > PATTERNS_MAX).then(|| {
        let message = format!(
            "spec.virtualShards and the patterns that were taken back, which are read for ever, are {count} in all, and a \
             layout has at most {PATTERNS_MAX}: use patterns that have been there before, or fewer"
        );
        Notice::new("TooManyPatterns", message)
    })
}

/// The spec's patterns, and after them those that it no longer names.
fn with_those_taken_back(spec: &ClusterSpec, layout: &Layout) -> Vec<(String, u16)> {
    let is_wanted = |own: &&VirtualShards| spec.virtual_shards.iter().any(|(pages, _)| *pages == own.pages);
    let taken_back = layout.virtual_shards.iter().filter(|own| !is_wanted(own)).map(|own| (own.pages.clone(), 0));
    spec.virtual_shards.iter().cloned().chain(taken_back).collect()
}

fn recorded(layout: &Layout, pages: &str) -> (u16, u16) {
    let own = layout.virtual_shards.iter().find(|own| own.pages == pages);
    own.map_or((0, 0), |own| (own.count, own.ever_count))
}
