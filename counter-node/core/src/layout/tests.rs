use super::*;

fn node(name: &str) -> Node {
    Node { name: name.into(), http: "h:1".into(), admin: "h:2".into(), peer: "h:3".into(), resp: None }
}

fn shard(number: u16, slots: &[&str]) -> Shard {
    let slots = slots.iter().map(|range| range.parse().unwrap()).collect();
    Shard { shard: ShardId(number), slots, nodes: vec![node(&format!("c-{number}-0"))] }
}

fn two_shards() -> Layout {
    Layout {
        format: LAYOUT_FORMAT,
        cluster: ClusterId(1),
        version: LayoutVersion(3),
        shards: vec![shard(0, &["0-8191"]), shard(1, &["8192-16383"])],
        moves: Vec::new(),
        virtual_shards: Vec::new(),
    }
}

fn copying(slots: &str) -> Move {
    Move { from: ShardId(0), to: ShardId(1), slots: vec![slots.parse().unwrap()], phase: MovePhase::Copying }
}

fn refusal(change: impl FnOnce(&mut Layout)) -> String {
    let mut layout = two_shards();
    change(&mut layout);
    layout.validate().unwrap_err().to_string()
}

#[test]
fn a_layout_reads_back_from_its_json() {
    let mut layout = two_shards();
    layout.moves.push(copying("100-200"));
    let json = serde_json::to_string(&layout).unwrap();
    assert!(json.contains(r#""moves":[{"from":0,"to":1,"slots":["100-200"],"phase":"Copying"}]"#), "{json}");
    let back: Layout = serde_json::from_str(&json).unwrap();
    assert_eq!(back, layout);
    assert_eq!(back.hash(), layout.hash());
    assert_eq!(back.validate(), Ok(()));
}

#[test]
fn an_address_for_redis_clients_is_optional_and_absent_from_a_document_without_it() {
    let mut layout = two_shards();
    assert!(!serde_json::to_string(&layout).unwrap().contains("resp"));
    layout.shards[0].nodes[0].resp = Some("h:6379".into());
    let back: Layout = serde_json::from_str(&serde_json::to_string(&layout).unwrap()).unwrap();
    assert_eq!((&back, back.validate()), (&layout, Ok(())));
    layout.shards[0].nodes[0].resp = Some("h".into());
    assert_eq!(layout.validate().unwrap_err().to_string(), "node c-0-0 has no resp address of the form host:port: `h`");
}

#[test]
fn validation_names_what_is_wrong() {
    assert_eq!(refusal(|l| l.format = 2), "layout format 2 is newer than 1, the newest that this release knows");
    assert_eq!(refusal(|l| l.shards.clear()), "a layout has between 1 and 256 shards, this one has 0");
    assert_eq!(refusal(|l| l.shards.reverse()), "shards must stand in the order of their numbers, each once: shard 0 does not");
    assert_eq!(refusal(|l| l.shards[1].slots.clear()), "slot 8192 is owned by no shard");
    assert_eq!(
        refusal(|l| l.shards[1].slots = vec!["8000-16383".parse().unwrap()]),
        "slot 8000 is owned by shard 0 and by shard 1"
    );
    assert_eq!(refusal(|l| l.shards[1].nodes.clear()), "shard 1 must have between 1 and 7 nodes, it has 0");
    assert_eq!(refusal(|l| l.shards[1].nodes = l.shards[0].nodes.clone()), "node c-0-0 stands in the layout twice");
    assert_eq!(refusal(|l| l.shards[0].nodes[0].peer = "h".into()), "node c-0-0 has no peer address of the form host:port: `h`");
}

#[test]
fn a_move_must_name_slots_that_stand_under_its_owner() {
    assert_eq!(refusal(|l| l.moves.push(copying("8192"))), "slot 8192 is on the move and must stand under shard 0, not 1");
    assert_eq!(refusal(|l| l.moves.extend([copying("1-5"), copying("5-9")])), "slot 5 stands in more than one move");
    assert_eq!(refusal(|l| l.moves.push(Move { to: ShardId(0), ..copying("1") })), "a move from shard 0 to itself moves nothing");
    assert_eq!(
        refusal(|l| l.moves.push(Move { to: ShardId(9), ..copying("1") })),
        "a move names shard 9, which is not in the layout"
    );
    assert_eq!(refusal(|l| l.moves.push(Move { slots: Vec::new(), ..copying("1") })), "a move from shard 0 names no slots");
    let flipped = Move { phase: MovePhase::Flipped, ..copying("8192-8200") };
    let mut layout = two_shards();
    layout.moves.push(flipped);
    assert_eq!(layout.validate(), Ok(()));
}

#[test]
fn the_highest_version_of_the_same_cluster_wins() {
    let held = two_shards();
    let offer = |change: &dyn Fn(&mut Layout)| {
        let mut offered = two_shards();
        change(&mut offered);
        offered.offered_to(Some(&held)).map_err(|refused| refused.to_string())
    };
    assert_eq!(offer(&|l| l.version = LayoutVersion(4)), Ok(Adoption::Adopt));
    assert_eq!(offer(&|_| ()), Ok(Adoption::Same));
    assert_eq!(offer(&|l| l.version = LayoutVersion(2)), Err("layout version 2 is older than 3, which this node has".into()));
    assert_eq!(offer(&|l| l.moves.push(copying("1"))), Err("this node has another layout of the same version 3".into()));
    let other = offer(&|l| l.cluster = ClusterId(2)).unwrap_err();
    assert!(other.contains("this node belongs to 00000000000000000000000000000001"), "{other}");
    assert_eq!(two_shards().offered_to(None), Ok(Adoption::Adopt));
}

#[test]
fn owners_agree_with_the_document() {
    let layout = two_shards();
    let owners = Owners::of(&layout);
    for slot in Slot::all() {
        assert_eq!(layout.shards[owners.index(slot)].shard, layout.owner(slot).unwrap().shard);
    }
}

#[test]
fn virtual_shards_are_part_of_the_document_only_where_there_are_some() {
    let mut layout = two_shards();
    let (plain, hash) = (serde_json::to_string(&layout).unwrap(), layout.hash());
    assert!(!plain.contains("virtualShards"), "{plain}");
    layout.virtual_shards.push(VirtualShards { pages: "front*".to_owned(), count: 4, ever_count: 10 });
    assert_ne!(layout.hash(), hash);
    let json = serde_json::to_string(&layout).unwrap();
    assert!(json.contains(r#""virtualShards":[{"pages":"front*","count":4,"everCount":10}]"#), "{json}");
    assert_eq!(serde_json::from_str::<Layout>(&json).unwrap(), layout);
    assert_eq!(layout.spread(b"front-page"), Spread { count: 4, ever_count: 10 });
    let refused = refusal(|layout| layout.virtual_shards.push(VirtualShards { pages: String::new(), count: 1, ever_count: 1 }));
    assert_eq!(refused, "a pattern of virtual shards has 1 to 512 bytes, `` has not");
}
