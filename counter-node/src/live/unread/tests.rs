use std::sync::Arc;
use std::time::Instant;

use super::super::hub::Address;
use super::super::mailbox::Mailbox;
use super::super::{Hub, Subject};
use super::*;

fn user(name: &str) -> Key {
    Key::user(name.as_bytes()).unwrap()
}

fn page(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

fn known(epoch: u32, number: u32) -> Modifications {
    Modifications { epoch: Epoch(epoch), number, updated_at: Some(Hlc(number.into())) }
}

fn subscribed(name: &str, page_known: Modifications, read: u32) -> (Subscribed, Modifications) {
    let subscription = Subscription::default().begun(Modifications { number: read, ..page_known });
    (Subscribed { page: page(name), subscription, updated_at: Some(Hlc(1)) }, page_known)
}

fn fed(followed: &Followed, name: &str, number: u32) {
    followed.fed(&"a".into(), &page(name).modifications(), reading(known(9, number)));
}

fn reading(Modifications { epoch, number, updated_at }: Modifications) -> FeedReading {
    FeedReading { tally: number.into(), viewers: 0, updated_at, epoch }
}

struct World {
    hub: Arc<Hub>,
    followed: Followed,
    began: Instant,
}

impl World {
    fn new() -> Self {
        Self::with_room(1_000)
    }

    /// A world in which so many subscriptions are held.
    fn with_room(held_max: usize) -> Self {
        let hub = Arc::new(Hub::new(Arc::default()));
        Self { followed: Followed::new(hub.clone(), held_max), hub, began: Instant::now() }
    }

    /// Has a user followed, and the subscriptions fetched, if there is room.
    fn follow(&self, name: &str, connection: u64) -> Arc<super::super::hub::Topic> {
        let topic = self.look(name, connection);
        self.followed.refresh(&user(name));
        topic
    }

    fn look(&self, name: &str, connection: u64) -> Arc<super::super::hub::Topic> {
        let address = Address { connection, mailbox: Arc::new(Mailbox::default()), place: 0 };
        self.hub.enter(Subject::User(user(name)), address, false)
    }

    /// What is told of a user by now, if anything.
    fn told(&mut self, topic: &super::super::hub::Topic) -> Option<i64> {
        self.began += std::time::Duration::from_secs(9);
        self.hub.tell(self.began);
        topic.told().map(|value| value.count.count)
    }

    fn due(&self) -> Option<Key> {
        self.followed.take_due().map(|(user, _)| user)
    }
}

fn keys(names: &[&str]) -> Vec<Key> {
    names.iter().map(|name| page(name).modifications()).collect()
}

#[test]
fn a_user_is_followed_from_the_first_who_looks_to_the_last() {
    let mut world = World::new();
    let ann = user("ann");
    assert_eq!(world.followed.refresh(&ann), Rewatch::default());
    let topic = world.look("ann", 1);
    assert_eq!(world.followed.refresh(&ann), Rewatch { begin: vec![ann.clone()], end: Vec::new() });
    assert_eq!(world.followed.refresh(&ann), Rewatch::default());
    assert_eq!((world.due(), world.due()), (Some(ann.clone()), None));
    assert_eq!(world.told(&topic), None, "nothing is known yet");
    let rewatch = world.followed.fetched(&ann, vec![subscribed("a", known(9, 5), 3), subscribed("b", known(9, 1), 1)]);
    assert_eq!(rewatch, Rewatch { begin: keys(&["a", "b"]), end: Vec::new() });
    world.followed.end_fetch(&ann, false);
    assert_eq!(world.told(&topic), Some(2));
    fed(&world.followed, "a", 7);
    fed(&world.followed, "b", 2);
    assert_eq!(world.told(&topic), Some(5));
    world.hub.leave(&topic, 1);
    let Rewatch { begin, mut end } = world.followed.refresh(&ann);
    end.sort();
    assert_eq!((begin, end), (Vec::new(), [keys(&["a", "b"]), vec![ann]].concat()));
    let state = lock(&world.followed.state);
    assert!(state.users.is_empty() && state.pages.is_empty() && state.due.is_empty() && state.fetching.is_empty());
}

#[test]
fn what_is_told_of_a_subscription_is_fetched_one_answer_at_a_time() {
    let mut world = World::new();
    let ann = user("ann");
    let topic = world.look("ann", 1);
    world.followed.refresh(&ann);
    assert_eq!(world.due(), Some(ann.clone()));
    // It changes while it is fetched.
    world.followed.fed(&"b".into(), &ann, reading(Modifications::default()));
    assert_eq!(world.due(), None);
    world.followed.fetched(&ann, vec![subscribed("a", known(9, 5), 3)]);
    world.followed.end_fetch(&ann, false);
    assert_eq!(world.followed.take_due(), Some((ann.clone(), Some("b".into()))), "who tells it is asked");
    // Read in another tab, and unsubscribed from one page for another.
    let rewatch = world.followed.fetched(&ann, vec![subscribed("b", known(9, 1), 0)]);
    assert_eq!(rewatch, Rewatch { begin: keys(&["b"]), end: keys(&["a"]) });
    assert_eq!(world.told(&topic), Some(1));
    world.followed.end_fetch(&ann, true);
    assert_eq!(world.due(), Some(ann.clone()), "it failed, and is tried again");
    world.followed.end_fetch(&ann, false);
    assert_eq!(world.due(), None);
    world.followed.fed(&"b".into(), &user("bob"), reading(Modifications::default()));
    assert_eq!(world.due(), None, "nobody follows bob");
}

#[test]
fn a_page_of_several_users_is_watched_until_the_last_of_them_is_gone() {
    let mut world = World::new();
    let (ann, bob) = (user("ann"), user("bob"));
    let topics = [world.look("ann", 1), world.look("bob", 2)];
    for (name, read) in [(&ann, 1), (&bob, 4)] {
        world.followed.refresh(name);
        world.followed.fetched(name, vec![subscribed("a", known(9, 5), read)]);
    }
    fed(&world.followed, "a", 6);
    assert_eq!((world.told(&topics[0]), world.told(&topics[1])), (Some(5), Some(2)));
    world.hub.leave(&topics[0], 1);
    assert_eq!(world.followed.refresh(&ann).end, [ann]);
    world.hub.leave(&topics[1], 2);
    assert_eq!(world.followed.refresh(&bob).end, [keys(&["a"]), vec![bob]].concat());
}

#[test]
fn a_count_never_falls_by_a_replica_that_is_behind_but_does_when_modifications_are_lost() {
    let mut world = World::new();
    let ann = user("ann");
    let topic = world.look("ann", 1);
    world.followed.refresh(&ann);
    world.due();
    world.followed.fetched(&ann, vec![subscribed("a", known(9, 5), 3)]);
    world.followed.end_fetch(&ann, false);
    fed(&world.followed, "a", 4);
    assert_eq!(world.told(&topic), Some(2));
    assert_eq!(world.due(), Some(ann.clone()), "the owner is asked why");
    let behind = Modifications { number: 4, ..known(9, 4) };
    world.followed.fetched(&ann, vec![(subscribed("a", known(9, 5), 3).0, behind)]);
    assert_eq!(world.told(&topic), Some(2));
    let lost = known(20, 1);
    world.followed.fetched(&ann, vec![(subscribed("a", known(9, 5), 3).0, lost)]);
    assert_eq!(world.told(&topic), Some(1), "the only modification that there is was never read");
}

#[test]
fn the_first_modification_of_a_page_is_told_at_once_and_asks_for_nothing() {
    let mut world = World::new();
    let ann = user("ann");
    let topic = world.look("ann", 1);
    world.followed.refresh(&ann);
    world.due();
    world.followed.fetched(&ann, vec![subscribed("a", Modifications::default(), 0)]);
    world.followed.end_fetch(&ann, false);
    assert_eq!((world.told(&topic), world.due()), (Some(0), None));
    fed(&world.followed, "a", 1);
    assert_eq!((world.told(&topic), world.due()), (Some(1), None));
}

/// Found by a seed of the simulation: two replicas count the first ones apart, and the user has read those of the one that began earlier.
#[test]
fn an_epoch_that_becomes_an_earlier_one_is_told_with_the_number() {
    let mut world = World::new();
    let topic = world.follow("ann", 1);
    let (subscribed, _) = subscribed("a", known(9, 3), 3);
    world.followed.fetched(&user("ann"), vec![(subscribed, known(12, 1))]);
    assert_eq!(world.told(&topic), Some(1));
    fed(&world.followed, "a", 4);
    assert_eq!(world.told(&topic), Some(1), "three of the four have been read");
}

#[test]
fn a_page_whose_last_modifications_are_lost_is_asked_for_seldom_and_once_more_when_they_are_made_up_for() {
    let mut world = World::new();
    let ann = user("ann");
    let topic = world.follow("ann", 1);
    let mut asked = Vec::new();
    let answer = |world: &World, number| {
        world.due().is_some_and(|due| {
            assert_eq!(due, ann);
            // The same epoch: as many as were lost are missing.
            world.followed.fetched(&ann, vec![subscribed("a", known(9, number), 1_000)]);
            world.followed.end_fetch(&ann, false);
            true
        })
    };
    assert!(answer(&world, 1_000));
    for number in 900..=1_001 {
        fed(&world.followed, "a", number);
        if answer(&world, number) {
            asked.push(number);
        }
    }
    assert_eq!(asked, [900, 901, 903, 907, 915, 931, 963, 1_000]);
    assert_eq!(world.told(&topic), Some(1));
    // Lost with its epoch, after all: at the latest when there are as many again, that is known.
    for number in [10, 20, 30] {
        fed(&world.followed, "a", number);
        answer(&world, 1_001);
    }
    assert_eq!(world.due(), None);
    fed(&world.followed, "a", 1_500);
    assert_eq!(world.due(), Some(ann.clone()));
    world.followed.fetched(&ann, vec![(subscribed("a", known(9, 1_000), 1_000).0, known(20, 1_500))]);
    assert_eq!(world.told(&topic), Some(1_500));
}

#[test]
fn of_full_room_nobody_else_is_followed_until_somebody_goes() {
    let mut world = World::with_room(2);
    let (ann, bob, cid) = (user("ann"), user("bob"), user("cid"));
    let [anns, bobs] = [("ann", 1), ("bob", 2)].map(|(name, connection)| world.follow(name, connection));
    let first = world.due().unwrap();
    let pages = ["a", "b"].map(|page| subscribed(page, known(9, 5), 3));
    world.followed.fetched(&first, pages.to_vec());
    world.followed.end_fetch(&first, false);
    let metrics = world.hub.metrics().clone();
    let figures = || (metrics.followed_users.load(Ordering::Relaxed), metrics.followed_subscriptions.load(Ordering::Relaxed));
    assert_eq!((world.due(), figures()), (None, (2, 2)), "the other one waits");
    assert!(world.followed.may_follow(&ann) && world.followed.may_follow(&bob) && !world.followed.may_follow(&cid));
    // Who is followed goes on to be.
    world.followed.fed(&"b".into(), &first, reading(Modifications::default()));
    assert_eq!(world.due(), Some(first.clone()));
    world.followed.fetched(&first, [pages.to_vec(), vec![subscribed("c", known(9, 5), 1)]].concat());
    world.followed.end_fetch(&first, false);
    let (gone, left) = if first == ann { (&anns, (bob, &bobs)) } else { (&bobs, (ann, &anns)) };
    assert_eq!((world.told(gone), world.told(left.1), figures()), (Some(8), None, (2, 3)));
    world.hub.leave(gone, if Arc::ptr_eq(gone, &anns) { 1 } else { 2 });
    world.followed.refresh(&first);
    assert_eq!((world.due(), figures()), (Some(left.0.clone()), (1, 0)));
    assert!(world.followed.may_follow(&cid));
    world.followed.fetched(&left.0, vec![pages[0].clone()]);
    assert_eq!((world.told(left.1), figures()), (Some(2), (1, 1)));
    assert_eq!(metrics.unread_changes.load(Ordering::Relaxed), 3);
    assert_eq!(metrics.fetched.load(Ordering::Relaxed), 2);
}

#[test]
fn another_replica_is_asked_when_the_one_that_told_does_not_answer() {
    let world = World::new();
    let ann = user("ann");
    let _topic = world.follow("ann", 1);
    world.due().unwrap();
    world.followed.end_fetch(&ann, false);
    let tell = |by: &str| world.followed.fed(&by.into(), &ann, reading(Modifications::default()));
    tell("b");
    assert_eq!(world.followed.take_due(), Some((ann.clone(), Some("b".into()))));
    tell("c");
    world.followed.end_fetch(&ann, true);
    assert_eq!(world.followed.take_due(), Some((ann.clone(), Some("c".into()))), "it has told meanwhile");
    world.followed.end_fetch(&ann, true);
    assert_eq!(world.followed.take_due(), Some((ann.clone(), None)));
}
