//! Viewers that come while their node begins to stop: in every order each is an orphan, and counts until its grace is over.

use std::sync::Barrier;
use std::thread;

use counter_core::counter::Key;
use futures::future::BoxFuture;

use super::*;
use crate::live::{AdmissionLimits, Live, LiveConfig, Mode, Subject, Subscriptions, Who};

const GRACE: Duration = Duration::from_secs(5);
const PAGE: &[u8] = b"p";

/// How often each name is there, as was said.
#[derive(Default)]
struct Names(Mutex<BTreeMap<u64, i64>>);

impl Names {
    fn change(&self, Name(name): Name, change: i64) {
        *lock(&self.0).entry(name).or_default() += change;
    }

    fn there(&self) -> Vec<i64> {
        lock(&self.0).values().copied().filter(|times| *times != 0).collect()
    }
}

impl Registrar for Names {
    fn refresh(&self, _: &Key) {}
    fn refresh_user(&self, _: &Key) {}
    fn may_follow(&self, _: &Key) -> bool {
        true
    }
    fn name_came(&self, _: &Key, name: Name) {
        self.change(name, 1);
    }
    fn name_left(&self, _: &Key, name: Name) {
        self.change(name, -1);
    }
    fn told(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

fn page() -> Key {
    Key::new(PAGE).unwrap()
}

fn node() -> (Arc<Live>, Arc<Names>) {
    let names = Arc::new(Names::default());
    let admission = AdmissionLimits { open: 100, per_address: None, per_second: 100 };
    let config = LiveConfig { heartbeat: GRACE, lease: GRACE, admission, unread_max: 1 };
    (Live::new(config, Arc::new(Hub::new(Arc::default())), names.clone(), None, 1), names)
}

fn viewer(live: &Arc<Live>, user: Option<&str>) -> Subscriptions {
    let mut subscriptions = Subscriptions::new(live.clone(), Who { user: user.map(Name::of_user), ..Who::default() });
    look(&mut subscriptions, Mode::View);
    subscriptions
}

fn look(subscriptions: &mut Subscriptions, mode: Mode) {
    subscriptions.add(vec![Subject::Page(page())], mode).unwrap();
}

fn counted(live: &Live) -> u32 {
    live.hub.attendance(&page()).sessions
}

/// All graces are over.
fn expire(live: &Live) -> usize {
    let mut state = lock(&live.hand_over.state);
    let gone = state.orphans.expire(u64::MAX);
    let lost = gone.len();
    live.hand_over.count(&state, gone, -1);
    lost
}

#[tokio::test]
async fn who_comes_after_a_node_has_begun_to_stop_counts_on_as_those_before_do() {
    let (live, names) = node();
    let before = viewer(&live, Some("ann"));
    live.begin_leaving();
    let after = viewer(&live, Some("ben"));
    assert_eq!(counted(&live), 2);
    drop((before, after));
    assert_eq!((counted(&live), names.there()), (2, vec![1, 1]), "their clients are on their way to another node");
    assert_eq!(expire(&live), 2);
    assert_eq!((counted(&live), names.there()), (0, Vec::new()));
}

#[tokio::test]
async fn who_watches_for_a_while_and_views_again_at_a_node_that_stops_counts_once() {
    let (live, names) = node();
    let (mut early, mut late) = (viewer(&live, Some("ann")), viewer(&live, None));
    look(&mut late, Mode::Observe);
    live.begin_leaving();
    for _ in 0..3 {
        for subscriptions in [&mut early, &mut late] {
            look(subscriptions, Mode::Observe);
            look(subscriptions, Mode::View);
        }
    }
    drop((early, late));
    assert_eq!((counted(&live), names.there()), (2, vec![1]));
    assert_eq!(expire(&live), 2);
    assert_eq!((counted(&live), names.there()), (0, Vec::new()));
}

#[tokio::test]
async fn no_interleaving_of_coming_and_stopping_loses_a_viewer() {
    const COMING: usize = 4;
    for round in 0..200 {
        let (live, names) = node();
        let barrier = Barrier::new(COMING + 1);
        thread::scope(|scope| {
            for number in 0..COMING {
                let (live, barrier) = (&live, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    drop(viewer(live, Some("ann")));
                    // Whoever left before the stop began has left.
                    (0..number).for_each(|_| thread::yield_now());
                    std::mem::forget(viewer(live, Some("ann")));
                });
            }
            barrier.wait();
            (0..round % 7).for_each(|_| thread::yield_now());
            live.begin_leaving();
        });
        let orphans = lock(&live.hand_over.state).orphans.len();
        assert!((COMING..=2 * COMING).contains(&orphans), "round {round}: {orphans} orphans of {COMING} viewers");
        assert_eq!(counted(&live) as usize, orphans, "round {round}: someone counts and is no orphan, or the other way round");
        assert_eq!(expire(&live), orphans);
        assert_eq!((counted(&live), names.there()), (0, Vec::new()), "round {round}");
    }
}
