use super::cluster::{Cluster, key, layout};
use crate::counter::Update;
use crate::hlc::Hlc;
use crate::replica::ReplicaConfig;
use crate::token::Token;

const NODES: [&str; 2] = ["c-0-0", "c-0-1"];

#[test]
fn what_no_push_told_is_found_by_digest() {
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 2)], None));
    // Applied, but never said to be committed.
    let member = cluster.member("c-0-0");
    member.table.apply(&key("a"), Update::Increment(3), None, Hlc(1)).unwrap();
    cluster.until("it is repaired", |cluster| cluster.read("c-0-1", "a") == 3);
    assert_eq!(cluster.member("c-0-1").storage.counters[&key("a")].tally(), 3, "durably");
}

#[test]
fn what_was_reset_under_a_token_before_anyone_had_counted_it_is_found_by_digest_too() {
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 2)], None));
    cluster.partition("c-0-1");
    let token = Token { id: 7, made_ms: None };
    cluster.update_once("c-0-0", "a", Update::Reset, Some(token)).unwrap();
    // What it would have pushed is forgotten.
    cluster.crash("c-0-0");
    cluster.start("c-0-0");
    cluster.heal();
    cluster.until("they agree", |cluster| cluster.agree(&NODES, &["a"]));
    cluster.count("c-0-1", "a", 3).unwrap();
    let (again, _) = cluster.update_once("c-0-1", "a", Update::Reset, Some(token)).unwrap();
    assert_eq!((again.replayed, again.reading.tally), (true, 3));
}

#[test]
fn a_slot_of_many_counters_is_pulled_in_parts_that_are_bounded() {
    let config = ReplicaConfig { message_bytes_max: 2_000, summary_counters_max: 50, ..ReplicaConfig::default() };
    let mut cluster = Cluster::with(&layout(1, &[("0-16383", 2)], None), config);
    cluster.partition("c-0-1");
    // All in one slot; some are known to both, some differ, some are known to one only.
    let page = |number: usize| key(&format!("{{same}}{number}"));
    for number in 0..500 {
        for (node, applies) in [("c-0-0", number % 3 > 0), ("c-0-1", number % 5 > 2)] {
            if applies {
                let member = cluster.member(node);
                member.table.apply(&page(number), Update::Increment(1), None, Hlc(1)).unwrap();
            }
        }
    }
    cluster.heal();
    cluster.until("they agree", |cluster| cluster.agree(&NODES, &["{same}"]));
    let expected = (0..500).filter(|number| number % 3 > 0).count() + (0..500).filter(|number| number % 5 > 2).count();
    assert_eq!(cluster.member("c-0-0").table.slot(key("{same}").slot()).tally(), expected as i128);
}

#[test]
fn repair_gets_through_loss_repetition_and_reordering() {
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 3)], None));
    cluster.chaos = 20;
    let pages: Vec<String> = (0..100).map(|number| format!("page-{number}")).collect();
    for (number, page) in pages.iter().enumerate() {
        let member = cluster.member(["c-0-0", "c-0-1", "c-0-2"][number % 3]);
        member.table.apply(&key(page), Update::Increment(1), None, Hlc(1)).unwrap();
    }
    let pages: Vec<&str> = pages.iter().map(String::as_str).collect();
    cluster.until("they agree", |cluster| cluster.agree(&["c-0-0", "c-0-1", "c-0-2"], &pages));
}

#[test]
fn replicas_that_agree_ask_no_details() {
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 2)], None));
    for page in ["a", "b", "c"] {
        cluster.count("c-0-0", page, 1).unwrap();
    }
    cluster.run(500);
    for _ in 0..100 {
        cluster.tick();
        while let Some(sent) = cluster.wire.pop_front() {
            assert!(!matches!(sent.message, crate::message::Message::DetailAsk(_)));
            cluster.deliver(sent);
        }
    }
}
