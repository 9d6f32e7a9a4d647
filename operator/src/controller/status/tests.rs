use std::collections::BTreeMap;

use counter_core::id::ShardId;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::from_value;

use super::super::validate::validate;
use super::condition::stands;
use super::*;

fn spec() -> ClusterSpec {
    let object: DistributedCounter = from_value(json!({
        "apiVersion": "distributedcounter.dev/v1alpha1", "kind": "DistributedCounter",
        "metadata": {"name": "views", "namespace": "x", "uid": "u", "generation": 4}, "spec": {},
    }))
    .unwrap();
    validate(&object).unwrap()
}

fn serving() -> Plan {
    Plan {
        paused: false,
        cluster: None,
        shards: BTreeMap::new(),
        remove: Vec::new(),
        resize: Vec::new(),
        step: super::super::plan::Step::Rest,
        volumes: None,
        verdict: None,
        accepted: Vec::new(),
        publish: None,
        blocked: None,
        update_pending: None,
        stalled: None,
        progress: None,
        summary: Summary {
            layout_version: Some(3),
            shards: 2,
            ready_shards: 2,
            nodes: 6,
            ready_nodes: 6,
            unserved: Vec::new(),
            slot_move: None,
            all_owned: true,
        },
    }
}

fn moving(slots_left: u64) -> Plan {
    let (from, to) = (ShardId(0), ShardId(2));
    let slot_move = MoveSummary { from, to, slots: 900, phase: MovePhase::Copying, slots_left: Some(slots_left) };
    let progress = Notice { reason: "Moving", message: format!("{slots_left} slots left") };
    Plan { progress: Some(progress), summary: Summary { slot_move: Some(slot_move), ..serving().summary }, ..serving() }
}

fn notice(reason: &'static str) -> Notice {
    Notice { reason, message: "because".to_owned() }
}

fn of(before: &DistributedCounterStatus, plan: &Plan, stalled: Option<Notice>) -> DistributedCounterStatus {
    status(
        before,
        Some(4),
        &Finding::Planned { spec: &spec(), plan, stalled, failing: None, refused: false },
        Timestamp::from_second(100).unwrap(),
    )
}

fn new(plan: &Plan) -> DistributedCounterStatus {
    of(&DistributedCounterStatus::default(), plan, None)
}

fn reason<'a>(conditions: &'a [Condition], kind: &str) -> &'a str {
    &conditions.iter().find(|condition| condition.type_ == kind).unwrap().reason
}

#[test]
fn a_cluster_that_is_as_it_should_be_is_available_and_nothing_else() {
    let status = new(&serving());
    let standing: Vec<_> = status
        .conditions
        .iter()
        .filter(|condition| condition.status == "True")
        .map(|condition| condition.type_.as_str())
        .collect();
    assert_eq!(standing, [AVAILABLE]);
    assert_eq!(
        (status.observed_generation, status.shards, status.ready_nodes, status.layout_version),
        (Some(4), Some(2), Some(6), Some(3))
    );
    assert_eq!(status.endpoint.as_deref(), Some("http://views.x.svc:8080"));
    assert!(status.selector.is_some_and(|selector| selector.contains("pod-index=0")));
}

#[test]
fn whatever_is_not_available_is_reconciling_or_stalled() {
    let unserved = Plan { summary: Summary { unserved: vec![ShardId(1)], ..serving().summary }, ..serving() };
    let unborn = Plan { summary: Summary::default(), ..serving() };
    let paused = Plan { paused: true, ..unserved.clone() };
    let stalled = Plan { stalled: Some(notice("TooFew")), ..unserved.clone() };
    for plan in [unserved, unborn, paused, stalled] {
        let conditions = new(&plan).conditions;
        assert!(!stands(&conditions, AVAILABLE));
        assert_ne!(stands(&conditions, RECONCILING), stands(&conditions, STALLED), "{conditions:?}");
    }
}

#[test]
fn a_move_shows_and_does_not_touch_availability() {
    let status = new(&moving(7));
    assert!(stands(&status.conditions, AVAILABLE) && stands(&status.conditions, RECONCILING));
    assert_eq!(status.slot_move, Some(MoveProgress { from: 0, to: 2, slots_left: Some(7), receipt: false }));
}

#[test]
fn what_hinders_a_pass_stalls_and_says_so() {
    let status = of(&DistributedCounterStatus::default(), &moving(7), Some(notice("NameConflict")));
    assert!(stands(&status.conditions, STALLED) && !stands(&status.conditions, RECONCILING));
    assert_eq!(reason(&status.conditions, STALLED), "NameConflict");
}

#[test]
fn blocked_and_pending_changes_are_said_beside_the_rest() {
    let plan = Plan { blocked: Some(notice("NotYet")), update_pending: Some(notice("NewTemplate")), ..serving() };
    let conditions = new(&plan).conditions;
    assert!(stands(&conditions, SCALE_DOWN_BLOCKED) && stands(&conditions, UPDATE_PENDING) && stands(&conditions, AVAILABLE));
}

#[test]
fn a_broken_spec_stalls_and_the_status_still_says_how_the_cluster_is() {
    let blocked = Plan { blocked: Some(notice("NotYet")), ..serving() };
    let before = new(&blocked);
    let violations = [Violation { field: "spec.shards", message: "must be at least 1" }];
    let held = |plan: Plan| {
        let plan = Plan { paused: true, stalled: Some(invalid(&violations)), ..plan };
        status(&before, Some(5), &Finding::Held { spec: &spec(), plan: &plan }, Timestamp::from_second(200).unwrap())
    };
    let down = Summary { unserved: vec![ShardId(1)], ready_nodes: 3, ..serving().summary };
    let after = held(Plan { summary: down, ..serving() });
    assert_eq!((after.shards, after.ready_nodes, after.observed_generation), (Some(2), Some(3), Some(5)));
    assert!(!stands(&after.conditions, AVAILABLE) && stands(&after.conditions, STALLED));
    assert!(stands(&after.conditions, SCALE_DOWN_BLOCKED), "nothing new is known of it");
    let after = held(serving());
    assert!(stands(&after.conditions, AVAILABLE) && stands(&after.conditions, STALLED));
    let stalled = after.conditions.iter().find(|condition| condition.type_ == STALLED).unwrap();
    assert_eq!((stalled.reason.as_str(), stalled.message.as_str()), ("InvalidSpec", "spec.shards: must be at least 1"));
}

#[test]
fn the_same_status_is_never_written_and_progress_alone_at_most_every_ten_seconds() {
    let wrote = Instant::now();
    let now = wrote + Duration::from_secs(5);
    let (seven, six, done) = (new(&moving(7)), new(&moving(6)), new(&serving()));
    assert!(!is_due(&seven, &seven, None, now));
    assert!(!is_due(&seven, &six, Some(wrote), now));
    assert!(is_due(&seven, &six, Some(wrote), now + Duration::from_secs(5)));
    assert!(is_due(&seven, &six, None, now));
    assert!(is_due(&six, &done, Some(wrote), now));
}

#[test]
fn reading_a_status_back_from_the_api_does_not_make_it_due() {
    let said = new(&moving(7));
    let read: DistributedCounterStatus = from_value(serde_json::to_value(&said).unwrap()).unwrap();
    assert!(!is_due(&read, &new(&moving(7)), None, Instant::now()));
}

#[test]
fn what_could_not_be_applied_is_told_and_the_cluster_is_not_called_done() {
    let failing = Some("no quota".to_owned());
    let finding = Finding::Planned { spec: &spec(), plan: &serving(), stalled: None, failing, refused: false };
    let told = status(&DistributedCounterStatus::default(), Some(4), &finding, Timestamp::UNIX_EPOCH);
    assert!(stands(&told.conditions, AVAILABLE) && stands(&told.conditions, RECONCILING) && !stands(&told.conditions, STALLED));
    let reconciling = told.conditions.iter().find(|condition| condition.type_ == RECONCILING).unwrap();
    assert_eq!((reconciling.reason.as_str(), reconciling.message.as_str()), ("Failing", "no quota; trying again"));
}
