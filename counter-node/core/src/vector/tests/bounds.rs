//! Bounds hold at the moment when the first copy was told, whatever happens while the others are; and where nothing is under
//! way they are the number.

use super::*;

/// All replicas' copies of a key, the first told now, the others between further steps; and what the key came to, all replicas
/// together, at that moment.
fn told(world: &mut World, key: usize, first: usize, meanwhile: &[Step]) -> (Vec<SlotDelta>, i128) {
    let now = world.expected(key);
    let mut copies = Vec::new();
    let mut rest = meanwhile.chunks(meanwhile.len().div_ceil(REPLICAS - 1).max(1));
    for turn in 0..REPLICAS {
        copies.push(world.replicas[(first + turn) % REPLICAS].delta(slot(), [&key_of(key)]));
        rest.next().into_iter().flatten().for_each(|step| world.step(step));
    }
    (copies, now)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_number_was_within_them_when_the_first_copy_was_told(
        before in steps(true),
        meanwhile in steps(true),
        first in 0..REPLICAS,
        key in 0..KEYS.len(),
    ) {
        let mut world = after(&before);
        let (copies, number) = told(&mut world, key, first, &meanwhile);
        let bounds = bounds_of(&key_of(key), &copies);
        let alike = copies.iter().all(|copy| copy.generation == copies[0].generation);
        prop_assert_eq!(bounds.is_some(), alike);
        if let Some(Bounds { min, max }) = bounds {
            prop_assert!((min..=max).contains(&number), "{} is not between {} and {}", number, min, max);
        }
    }

    #[test]
    fn where_nothing_is_under_way_they_are_the_number(before in steps(true), key in 0..KEYS.len()) {
        let mut world = after(&before);
        world.converge();
        let (copies, number) = told(&mut world, key, 0, &[]);
        prop_assert_eq!(bounds_of(&key_of(key), &copies), Some(Bounds { min: number, max: number }));
    }
}

#[test]
fn what_is_under_way_is_what_they_leave_open() {
    let mut world = World::new();
    world.update(0, 0, Update::Increment(9));
    world.converge();
    world.update(0, 0, Update::Increment(5));
    world.update(1, 0, Update::Decrement(2));
    let (copies, number) = told(&mut world, 0, 2, &[]);
    assert_eq!((bounds_of(&key_of(0), &copies), number), (Some(Bounds { min: 7, max: 14 }), 12));
    world.update(2, 0, Update::Reset);
    let (copies, number) = told(&mut world, 0, 2, &[]);
    assert_eq!((bounds_of(&key_of(0), &copies), number), (Some(Bounds { min: -3, max: 15 }), 3));
}

#[test]
fn a_token_that_two_replicas_have_taken_leaves_them_out() {
    let mut world = World::new();
    let token = Token { id: 7, made_ms: None };
    let mut count = |replica: usize, update| {
        world.replicas[replica].apply(&key_of(0), update, Some(&token), Hlc::from_wall_ms(1_000), |_| Ok(())).unwrap();
        let copies: Vec<SlotDelta> = world.replicas.iter().map(|replica| replica.delta(slot(), [&key_of(0)])).collect();
        bounds_of(&key_of(0), &copies)
    };
    assert_eq!(count(0, Update::Increment(3)), Some(Bounds { min: 0, max: 3 }));
    assert_eq!(count(1, Update::Increment(3)), None, "3, though the entries come to 6");
}

#[test]
fn what_a_reset_under_a_token_clears_is_cleared_in_them() {
    let mut world = World::new();
    world.update(0, 0, Update::Increment(9));
    world.converge();
    let reset = |vector: &mut SlotVector| {
        let token = Token { id: 7, made_ms: None };
        vector.apply(&key_of(0), Update::Reset, Some(&token), Hlc::from_wall_ms(1_000), |_| Ok(())).unwrap();
    };
    reset(&mut world.replicas[1]);
    let (copies, _) = told(&mut world, 0, 1, &[]);
    let Bounds { min, max } = bounds_of(&key_of(0), &copies).unwrap();
    assert!(min <= 0 && max >= 9, "between {min} and {max}: whether the others have heard of the reset is open");
    world.converge();
    let (copies, _) = told(&mut world, 0, 0, &[]);
    assert_eq!(bounds_of(&key_of(0), &copies), Some(Bounds { min: 0, max: 0 }));
}
