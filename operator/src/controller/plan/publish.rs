//! Who is to be handed a layout.

use std::collections::BTreeSet;

use counter_core::id::NodeName;
use counter_core::layout::Layout;

use super::{Observed, Publish, Step};

/// The layout to act by after `step`, for those nodes that answer and act by another one or none.
pub(super) fn publish(observed: &Observed, step: &Step) -> Option<Publish> {
    let layout = match step {
        Step::Record(_, layout) => layout.as_ref(),
        Step::Rest | Step::Evict(_) => observed.layout.as_ref()?,
    };
    let stamp = (layout.version, layout.hash());
    let nodes = concerned(layout, observed.layout.as_ref())
        .into_iter()
        .filter(|name| observed.answers_for(name, layout.cluster))
        .filter(|name| observed.nodes.get(name).and_then(|node| node.acts_by(layout.cluster)) != Some(stamp))
        .collect();
    Some(Publish { layout: layout.clone(), nodes })
}

/// Those whom the layout names, and those whom it has just ceased to name: they must know.
fn concerned(layout: &Layout, recorded: Option<&Layout>) -> BTreeSet<NodeName> {
    layout.nodes().chain(recorded.into_iter().flat_map(Layout::nodes)).map(|node| node.name.clone()).collect()
}
