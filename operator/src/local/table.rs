//! The clusters as text: the table for a terminal, and a line per change for everything else. Pure.

use counter_core::layout::MovePhase;

use super::view::{ClusterView, NodeState, NodeView, View};

/// What does not change between two looks.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// The file that is followed.
    pub(super) file: String,
    pub(super) data: String,
}

/// The table, a line per item, without its line ends.
pub(super) fn table(view: &View, frame: &Frame) -> Vec<String> {
    let mut lines = Vec::new();
    for cluster in &view.clusters {
        lines.push(heading(cluster));
        lines.extend(nodes(cluster));
        lines.extend(cluster.moving.as_ref().map(|_| format!("  {}", moving(cluster))));
        lines.extend(cluster.progress.iter().chain(&cluster.notices).map(|notice| format!("  {notice}")));
        lines.push(String::new());
    }
    for error in &view.file_errors {
        lines.push(format!("{}: {error}", frame.file));
    }
    if !view.file_errors.is_empty() {
        lines.push(format!("{} was not taken over; what runs is as it was before.", frame.file));
        lines.push(String::new());
    }
    lines.extend(hints(view));
    lines.push(format!("Edit {} to change the clusters; Ctrl-C stops them. Data and logs: {}", frame.file, frame.data));
    lines
}

/// Commands that show the cluster at work, with real URLs: count at one node, read at another.
pub(super) fn hints(view: &View) -> Vec<String> {
    let ready = |cluster: &&ClusterView| cluster.available;
    let Some(cluster) = view.clusters.iter().find(ready) else { return Vec::new() };
    let mut nodes = cluster.nodes.iter().filter(|node| node.state == NodeState::Ready);
    let Some(first) = nodes.next() else { return Vec::new() };
    let last = nodes.next_back().unwrap_or(first);
    vec![
        format!("Count:  curl -X PUT {}/front-page/counter", first.ports.url()),
        format!("Read:   curl {}/front-page/counter", last.ports.url()),
        format!("Watch:  {}/ in a browser", first.ports.url()),
    ]
}

fn heading(cluster: &ClusterView) -> String {
    let layout = cluster.layout.map_or_else(|| "no layout yet".to_owned(), |version| format!("layout {version}"));
    let available = if cluster.available { "available" } else { "not available" };
    format!(
        "{}  {} × {}, {layout}, {available}",
        cluster.title(),
        counted(u64::from(cluster.shards), "shard"),
        counted(u64::from(cluster.replicas), "replica"),
    )
}

fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn nodes(cluster: &ClusterView) -> Vec<String> {
    let width = cluster.nodes.iter().map(|node| node.name.len()).max().unwrap_or_default().max("NODE".len());
    let row = |name: &str, state: &str, url: &str, pid: &str, restarts: &str| {
        format!("  {name:width$}  {state:<8}  {url:<22}  {pid:>7}  {restarts}").trim_end().to_owned()
    };
    let mut lines = vec![row("NODE", "STATE", "URL", "PID", "RESTARTS")];
    lines.extend(cluster.nodes.iter().map(|node| {
        let pid = node.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let restarts = match &node.note {
            Some(note) => format!("{} ({note})", node.restarts),
            None => node.restarts.to_string(),
        };
        row(&node.name, node.state.as_str(), &node.ports.url(), &pid, &restarts)
    }));
    lines
}

fn moving(cluster: &ClusterView) -> String {
    let Some(moving) = &cluster.moving else { return String::new() };
    let slots = counted(moving.slots, "slot");
    let left = moving.slots_left.map_or_else(|| "?".to_owned(), |left| left.to_string());
    match moving.phase {
        MovePhase::Copying => format!("moving {slots} from shard {} to {}: copying, {left} left", moving.from, moving.to),
        MovePhase::Flipped => {
            format!("moved {slots} from shard {} to {}: waiting for the receipt, {left} left", moving.from, moving.to)
        }
    }
}

/// What has changed from one look to the next, a line each.
pub(super) fn changes(old: &View, new: &View) -> Vec<String> {
    let mut lines = Vec::new();
    for cluster in &new.clusters {
        let before = old.clusters.iter().find(|candidate| candidate.title() == cluster.title());
        lines.extend(cluster_changes(before, cluster));
    }
    let left = |cluster: &&ClusterView| !new.clusters.iter().any(|candidate| candidate.title() == cluster.title());
    lines.extend(old.clusters.iter().filter(left).map(|cluster| format!("{}: gone; its data is kept", cluster.title())));
    lines.extend(new.file_errors.iter().filter(|error| !old.file_errors.contains(error)).cloned());
    if old.file_errors.is_empty() && !new.file_errors.is_empty() {
        lines.push("the file was not taken over; what runs is as it was before".to_owned());
    }
    lines
}

fn cluster_changes(old: Option<&ClusterView>, new: &ClusterView) -> Vec<String> {
    let title = new.title();
    let mut lines = Vec::new();
    if old.is_none_or(|old| (old.shards, old.replicas) != (new.shards, new.replicas)) {
        lines.push(heading(new));
    }
    for node in &new.nodes {
        let before = old.and_then(|old| old.nodes.iter().find(|candidate| candidate.name == node.name));
        lines.extend(node_change(before, node));
    }
    let gone = |node: &&NodeView| !new.nodes.iter().any(|candidate| candidate.name == node.name);
    lines.extend(old.into_iter().flat_map(|old| old.nodes.iter()).filter(gone).map(|node| format!("{}: gone", node.name)));
    if let Some(version) = new.layout.filter(|_| old.and_then(|old| old.layout) != new.layout) {
        lines.push(format!("{title}: layout {version}"));
    }
    // Its start and its turns are told, the slots' countdown is not.
    let step = |cluster: &ClusterView| cluster.moving.as_ref().map(|moving| (moving.from, moving.to, moving.phase));
    match (&new.moving, old.and_then(step)) {
        (None, Some((from, to, _))) => lines.push(format!("{title}: the move from shard {from} to {to} has ended")),
        (Some(_), before) if before != step(new) => lines.push(format!("{title}: {}", moving(new))),
        (Some(_) | None, _) => {}
    }
    let told = |notice: &&String| !old.is_some_and(|old| old.notices.contains(notice));
    lines.extend(new.notices.iter().filter(told).map(|notice| format!("{title}: {notice}")));
    if old.is_some_and(|old| old.available) != new.available {
        lines.push(format!("{title}: {}", if new.available { "available" } else { "not available" }));
    }
    lines
}

fn node_change(old: Option<&NodeView>, new: &NodeView) -> Option<String> {
    let same = |old: &NodeView| old.state == new.state && old.pid == new.pid && old.note == new.note;
    if old.is_some_and(same) {
        return None;
    }
    let pid = new.pid.map_or_else(String::new, |pid| format!(", process {pid}"));
    // The reason is told once, when it is new, and while it is what keeps the node down.
    let news = new.note.as_ref().filter(|note| new.pid.is_none() || old.and_then(|old| old.note.as_ref()) != Some(*note));
    let note = news.map_or_else(String::new, |note| format!(" ({note})"));
    Some(format!("{}: {}, {}{pid}{note}", new.name, new.state.as_str(), new.ports.url()))
}

#[cfg(test)]
mod tests {
    use counter_core::id::ShardId;
    use counter_core::layout::LayoutVersion;

    use super::*;
    use crate::controller::plan::MoveSummary;
    use crate::local::view::example;

    fn frame() -> Frame {
        Frame { file: "page-views.yaml".to_owned(), data: "/data".to_owned() }
    }

    #[test]
    fn the_table_says_what_runs_where_and_how_to_try_it() {
        let text = table(&example(), &frame()).join("\n");
        assert!(text.starts_with("default/page-views  1 shard × 2 replicas, layout 1, available\n"), "{text}");
        let row = "  page-views-0-1  ready     http://127.0.0.1:18083     4712  0\n";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("curl -X PUT http://127.0.0.1:18080/front-page/counter"), "{text}");
        assert!(text.contains("curl http://127.0.0.1:18083/front-page/counter"), "{text}");
        assert!(text.ends_with("Ctrl-C stops them. Data and logs: /data"), "{text}");
    }

    #[test]
    fn the_table_shows_moves_notices_deaths_and_a_refused_edit() {
        let mut view = example();
        view.clusters[0].moving =
            Some(MoveSummary { from: ShardId(0), to: ShardId(1), slots: 4096, phase: MovePhase::Copying, slots_left: Some(812) });
        view.clusters[0].notices.push("ScaleDownBlocked: not yet".to_owned());
        view.clusters[0].nodes[0].state = NodeState::Down;
        view.clusters[0].nodes[0].pid = None;
        view.clusters[0].nodes[0].note = Some("killed by signal 9".to_owned());
        view.file_errors.push("document 1: spec.shard: unknown field".to_owned());
        let text = table(&view, &frame()).join("\n");
        for part in [
            "\n  moving 4096 slots from shard 0 to 1: copying, 812 left\n",
            "\n  ScaleDownBlocked: not yet\n",
            "  page-views-0-0  down      http://127.0.0.1:18080        -  0 (killed by signal 9)\n",
            "\npage-views.yaml: document 1: spec.shard: unknown field\n",
            "what runs is as it was before",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn nothing_is_said_when_nothing_changed() {
        assert_eq!(changes(&example(), &example()), Vec::<String>::new());
    }

    #[test]
    fn a_change_is_a_line() {
        let old = example();
        let mut new = example();
        let cluster = &mut new.clusters[0];
        cluster.layout = Some(LayoutVersion(2));
        cluster.nodes[0].pid = Some(4800);
        cluster.nodes[0].state = NodeState::Starting;
        cluster.nodes[0].note = Some("killed by signal 9".to_owned());
        assert_eq!(
            changes(&old, &new),
            [
                "page-views-0-0: starting, http://127.0.0.1:18080, process 4800 (killed by signal 9)",
                "default/page-views: layout 2",
            ]
        );
        let mut ready = new.clone();
        ready.clusters[0].nodes[0].state = NodeState::Ready;
        assert_eq!(changes(&new, &ready), ["page-views-0-0: ready, http://127.0.0.1:18080, process 4800"]);
    }

    #[test]
    fn clusters_come_and_go_and_edits_fail_in_lines() {
        let none = View { clusters: Vec::new(), file_errors: vec!["line 3: no mapping".to_owned()] };
        let gone = changes(&example(), &none);
        assert_eq!(
            gone,
            [
                "default/page-views: gone; its data is kept",
                "line 3: no mapping",
                "the file was not taken over; what runs is as it was before",
            ]
        );
        let came = changes(&View::default(), &example());
        assert_eq!(came[0], "default/page-views  1 shard × 2 replicas, layout 1, available");
        assert_eq!(came.last().map(String::as_str), Some("default/page-views: available"));
    }
}
