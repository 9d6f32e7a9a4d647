use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use counter_core::id::ActorId;
use counter_core::status::{LayoutStatus, NodeStatus, Readiness, STATUS_FORMAT, StorageStatus};

use super::super::accept::accept;
use super::super::document::{Secrets, read};
use super::*;

/// A host in `root` whose nodes are processes that do nothing.
pub(in crate::local) fn host(root: &Path) -> Host {
    let program = root.join("node");
    fs::write(&program, "#!/bin/sh\nexec cat\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let base_port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port().min(60_000);
    Host { folder: Folder::open(&root.join("data")).unwrap(), ports: Ports::default(), base_port, program }
}

fn spec(spec: &str) -> ClusterSpec {
    let text =
        format!("apiVersion: distributedcounter.dev/v1alpha1\nkind: DistributedCounter\nmetadata: {{name: a}}\nspec: {spec}\n");
    accept(read(&text).objects.remove(0), None, &Secrets::default()).unwrap().spec
}

/// What a node says that acts by `layout`, or waits for one.
fn status(name: &NodeName, layout: Option<&Layout>) -> NodeStatus {
    NodeStatus {
        format: STATUS_FORMAT,
        node: name.clone(),
        cluster: layout.map(|layout| layout.cluster),
        actor: ActorId::new(1, 1, 1),
        readiness: if layout.is_some() { Readiness::Ready } else { Readiness::WaitingForLayout },
        layout: layout.map(|layout| LayoutStatus { version: layout.version, hash: layout.hash() }),
        virtual_shards: Vec::new(),
        storage: StorageStatus { kind: "volume".to_owned(), fsync: "Never".to_owned(), writable: true, counters: 0 },
        slots: Vec::new(),
        peers: Vec::new(),
        unsent_entries: 0,
        moves: Vec::new(),
    }
}

/// One round in which every node takes the layout that it is handed and tells of it, and the pass after it.
fn round(cluster: &mut Cluster, host: &mut Host) {
    let now = Instant::now();
    cluster.tend(now);
    let held = cluster.layout.clone();
    for question in cluster.questions().collect::<Vec<_>>() {
        let named = held.as_ref().filter(|layout| layout.node(&question.target.node).is_some());
        let layout = question.layout.or_else(|| named.cloned());
        let status = Ok(status(&question.target.node, layout.as_deref()));
        let (cluster_key, node) = (question.cluster, question.target.node);
        cluster.hear(Answer { cluster: cluster_key, node, pid: question.pid, status, refusal: None });
    }
    cluster.pass(host, now);
}

fn started(host: &mut Host, text: &str) -> Cluster {
    let mut cluster = Cluster::open(host, spec(text)).unwrap();
    cluster.pass(host, Instant::now());
    for _ in 0..3 {
        round(&mut cluster, host);
    }
    cluster
}

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.view().nodes.into_iter().map(|node| node.name).collect()
}

#[tokio::test]
async fn the_first_layout_is_on_disk_before_a_node_is_handed_it() {
    let root = tempfile::tempdir().unwrap();
    let mut host = host(root.path());
    let mut cluster = Cluster::open(&host, spec("{shards: 2, replicas: 1}")).unwrap();
    cluster.pass(&mut host, Instant::now());
    assert_eq!(names(&cluster), ["a-0-0", "a-1-0"]);
    assert!(cluster.folder.layout().unwrap().is_none());
    cluster.tend(Instant::now());
    assert!(cluster.questions().all(|question| question.layout.is_none()));

    round(&mut cluster, &mut host);
    let recorded = cluster.folder.layout().unwrap().unwrap();
    assert_eq!(recorded.version.0, 1);
    let handed: Vec<_> = cluster.questions().filter_map(|question| question.layout).collect();
    assert_eq!(handed.len(), 2);
    assert!(handed.iter().all(|layout| **layout == recorded));
    assert!(!cluster.is_settled() && !cluster.view().available);

    round(&mut cluster, &mut host);
    assert!(cluster.is_settled() && cluster.view().available, "{:?}", cluster.view());
    assert_eq!(cluster.questions().filter_map(|question| question.layout).count(), 0);
}

#[tokio::test]
async fn a_second_start_has_the_recorded_layout_and_the_same_ports() {
    let root = tempfile::tempdir().unwrap();
    let mut host = host(root.path());
    let first = started(&mut host, "{shards: 2, replicas: 1}");
    let (layout, ports) = (first.layout.clone(), first.view().nodes.iter().map(|node| node.ports).collect::<Vec<_>>());
    drop(first);
    // Even with the ports' record lost: the layout names them.
    host.ports = Ports::default();
    let mut second = Cluster::open(&host, spec("{shards: 2, replicas: 1}")).unwrap();
    second.pass(&mut host, Instant::now());
    assert_eq!(second.layout, layout);
    assert_eq!(second.view().nodes.iter().map(|node| node.ports).collect::<Vec<_>>(), ports);
}

#[tokio::test]
async fn growing_starts_processes_and_shrinking_is_refused_as_on_kubernetes() {
    let root = tempfile::tempdir().unwrap();
    let mut host = host(root.path());
    let mut cluster = started(&mut host, "{shards: 1, replicas: 1}");
    cluster.set_spec(spec("{shards: 1, replicas: 2}"));
    cluster.pass(&mut host, Instant::now());
    round(&mut cluster, &mut host);
    assert_eq!(names(&cluster), ["a-0-0", "a-0-1"]);
    round(&mut cluster, &mut host);
    assert_eq!(cluster.layout.as_ref().map(|layout| layout.nodes().count()), Some(2));

    cluster.set_spec(spec("{shards: 1, replicas: 1}"));
    round(&mut cluster, &mut host);
    let view = cluster.view();
    assert_eq!(view.nodes.len(), 2);
    assert!(view.notices[0].starts_with("ScaleDownBlocked: spec.replicas is 1"), "{:?}", view.notices);
}

#[tokio::test]
async fn a_changed_setting_restarts_one_node_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let mut host = host(root.path());
    let mut cluster = started(&mut host, "{shards: 1, replicas: 3}");
    cluster.set_spec(ClusterSpec { acks: crate::crd::Acks::Quorum, ..spec("{shards: 1, replicas: 3}") });
    round(&mut cluster, &mut host);
    let stopping = |cluster: &Cluster| cluster.members.values().filter(|member| member.process.is_stopping()).count();
    assert_eq!(stopping(&cluster), 1);
    // While it is gone, nothing else is stopped.
    cluster.pass(&mut host, Instant::now());
    assert_eq!(stopping(&cluster), 1);
}

#[tokio::test]
async fn the_redis_protocol_gets_a_port_with_the_restart_and_loses_it_again() {
    let root = tempfile::tempdir().unwrap();
    let mut host = host(root.path());
    let mut cluster = started(&mut host, "{shards: 1, replicas: 1}");
    let (ports, before) = (cluster.view().nodes[0].ports, cluster.layout.clone().unwrap());
    assert_eq!((ports.resp, before.nodes().next().unwrap().resp.clone()), (None, None));
    for (enabled, spec_text) in [(true, "{shards: 1, replicas: 1, resp: {enabled: true}}"), (false, "{shards: 1, replicas: 1}")] {
        cluster.set_spec(spec(spec_text));
        for _ in 0..200 {
            round(&mut cluster, &mut host);
            if cluster.view().nodes[0].ports.resp.is_some() == enabled && cluster.is_settled() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let now = cluster.view().nodes[0].ports;
        assert_eq!((now.resp.is_some(), PortsView { resp: None, ..now }), (enabled, ports));
        let layout = cluster.layout.clone().unwrap();
        assert_eq!(layout.nodes().next().unwrap().resp, now.resp.map(|port| format!("127.0.0.1:{port}")));
    }
}

#[tokio::test]
async fn an_answer_of_a_process_that_is_gone_counts_for_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut host = host(root.path());
    let mut cluster = Cluster::open(&host, spec("{shards: 1, replicas: 1}")).unwrap();
    cluster.pass(&mut host, Instant::now());
    cluster.tend(Instant::now());
    let node = NodeName::from("a-0-0");
    let old = Answer { cluster: cluster.key(), node: node.clone(), pid: 1, status: Ok(status(&node, None)), refusal: None };
    cluster.hear(old);
    assert_eq!(cluster.view().nodes[0].state, NodeState::Starting);
}

#[tokio::test]
async fn one_missed_round_does_not_make_a_node_silent() {
    let root = tempfile::tempdir().unwrap();
    let mut host = host(root.path());
    let mut cluster = started(&mut host, "{shards: 1, replicas: 1}");
    let member = cluster.members.values().next().unwrap();
    let (node, pid) = (member.name.clone(), member.process.pid().unwrap());
    let mut miss = || {
        let status = Err(crate::nodes::CallError::Late);
        cluster.hear(Answer { cluster: cluster.key(), node: node.clone(), pid, status, refusal: None });
        cluster.view().nodes[0].state
    };
    assert_eq!([(); 4].map(|()| miss()), [NodeState::Ready, NodeState::Ready, NodeState::Ready, NodeState::Silent]);
}
