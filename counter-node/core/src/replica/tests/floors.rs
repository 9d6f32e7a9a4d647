use super::cluster::{Cluster, key, layout};
use crate::counter::Update;
use crate::token::Token;

const NODES: [&str; 3] = ["c-0-0", "c-0-1", "c-0-2"];

/// A floor takes copies of tokens back in entries. Whoever has not heard of it has lower entries, of which nothing would be seen beside
/// the higher ones.
#[test]
fn what_is_counted_before_a_floor_is_heard_of_is_acknowledged_only_when_it_counts() {
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 3)], None));
    let token = Token { id: 7, made_ms: Some(cluster.now().wall_ms) };
    cluster.partition("c-0-1");
    for node in ["c-0-0", "c-0-1"] {
        cluster.update_once(node, "a", Update::Increment(5), Some(token)).unwrap();
    }
    cluster.heal();
    cluster.until("they agree", |cluster| cluster.agree(&NODES, &["a"]));
    assert_eq!(cluster.read_all(&NODES, "a"), [5, 5, 5]);
    let floor_ms = cluster.now().wall_ms + 1;
    cluster.member("c-0-0").table.slot(key("a").slot()).raise_floor(floor_ms);
    cluster.partition("c-0-2");
    let mark = cluster.update("c-0-1", "a", Update::Decrement(3)).unwrap();
    cluster.until("a majority has it", |cluster| cluster.members[&"c-0-1".into()].replica.acknowledged() >= mark);
    cluster.crash("c-0-1");
    assert_eq!(cluster.read("c-0-0", "a"), 2);
    cluster.heal();
    cluster.until("the others agree", |cluster| cluster.agree(&["c-0-0", "c-0-2"], &["a"]));
    assert_eq!(cluster.read("c-0-2", "a"), 2);
}
