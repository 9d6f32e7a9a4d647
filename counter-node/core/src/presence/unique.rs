//! Unique viewers: who of a page's sessions has a name, by hashes of users and session ids, so that one person in two tabs is
//! one.
//!
//! A gateway keeps how many sessions each name has, so a name can also leave. It tells the hashes as they are while they are
//! few, and else a sketch of them, made anew when names have left, since a sketch cannot forget one.

mod sketch;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64;

use self::sketch::Sketch;

/// So many names are told as they are; more are estimated.
pub const EXACT_MAX: usize = 64;

/// The names among one gateway's sessions of one page. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unique(Arc<Told>);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    /// How many sessions have a name.
    sessions: u32,
    names: Names,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Names {
    /// Sorted, each once.
    Exact(Vec<u64>),
    Estimated(Sketch),
}

impl Unique {
    fn of(sessions: u32, names: Names) -> Self {
        Self(Arc::new(Told { sessions, names }))
    }

    /// How many sessions have a name.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        self.0.sessions
    }

    /// How many people all of these are together, and whether that is an estimate.
    #[must_use]
    pub fn union<'a>(all: impl IntoIterator<Item = &'a Self>) -> (u64, bool) {
        let (mut hashes, mut union): (Vec<u64>, Option<Sketch>) = (Vec::new(), None);
        for unique in all {
            match (&unique.0.names, &mut union) {
                (Names::Exact(exact), _) => hashes.extend(exact),
                (Names::Estimated(sketch), Some(union)) => union.merge(sketch),
                (Names::Estimated(sketch), None) => union = Some(sketch.clone()),
            }
        }
        if let Some(mut union) = union {
            hashes.into_iter().for_each(|hash| union.add(hash));
            return (union.estimate(), true);
        }
        hashes.sort_unstable();
        hashes.dedup();
        (u64::try_from(hashes.len()).unwrap_or(u64::MAX), false)
    }

    pub(super) fn digest(&self) -> u64 {
        let names = match &self.0.names {
            Names::Exact(hashes) => xxh3_64(&hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect::<Vec<u8>>()),
            Names::Estimated(sketch) => xxh3_64(sketch.as_bytes()),
        };
        names.wrapping_add(u64::from(self.0.sessions))
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        match &self.0.names {
            Names::Exact(hashes) => hashes.len().saturating_mul(10),
            Names::Estimated(sketch) => sketch.as_bytes().len(),
        }
    }
}

impl Serialize for Unique {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let told = Told::deserialize(deserializer)?;
        match &told.names {
            Names::Exact(hashes) if hashes.len() > EXACT_MAX || !hashes.is_sorted() => {
                Err(serde::de::Error::custom("hashes of names must be sorted, and few"))
            }
            Names::Exact(_) | Names::Estimated(_) => Ok(Self(Arc::new(told))),
        }
    }
}

/// The names of the sessions that a gateway has on a page.
#[derive(Debug, Default)]
pub(super) struct Audience {
    /// By their hashes, how many sessions have them.
    names: BTreeMap<u64, u32>,
    sessions: u32,
    /// Of all names, if it is up to date.
    sketch: Option<Sketch>,
    told_ms: Option<u64>,
    /// It has changed and that is on its way to be told.
    is_due: bool,
}

impl Audience {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn came(&mut self, name: u64) {
        self.sessions = self.sessions.saturating_add(1);
        let sessions = self.names.entry(name).or_default();
        *sessions = sessions.saturating_add(1);
        if let Some(sketch) = &mut self.sketch {
            sketch.add(name);
        }
    }

    pub(super) fn left(&mut self, name: u64) {
        let Some(sessions) = self.names.get_mut(&name) else { return };
        self.sessions = self.sessions.saturating_sub(1);
        *sessions = sessions.saturating_sub(1);
        if *sessions == 0 {
            self.names.remove(&name);
            self.sketch = None;
        }
    }

    /// When a change is to be told, if not already at some time; no two tellings are closer together than `interval_ms`.
    pub(super) fn due(&mut self, now_ms: u64, interval_ms: u64) -> Option<u64> {
        let was_due = std::mem::replace(&mut self.is_due, true);
        let due_ms = self.told_ms.map_or(now_ms, |told_ms| told_ms.saturating_add(interval_ms).max(now_ms));
        (!was_due).then_some(due_ms)
    }

    /// What the owner is told now.
    pub(super) fn tell(&mut self, now_ms: u64) -> Option<Unique> {
        (self.told_ms, self.is_due) = (Some(now_ms), false);
        self.told()
    }

    /// What there is to be told. None when no session has a name.
    fn told(&mut self) -> Option<Unique> {
        if self.is_empty() {
            return None;
        }
        let names = if self.names.len() <= EXACT_MAX {
            self.sketch = None;
            Names::Exact(self.names.keys().copied().collect())
        } else {
            let anew = || {
                let mut sketch = Sketch::default();
                self.names.keys().for_each(|name| sketch.add(*name));
                sketch
            };
            Names::Estimated(self.sketch.get_or_insert_with(anew).clone())
        };
        Some(Unique::of(self.sessions, names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes as good as those of real names.
    fn hashes(names: std::ops::Range<u32>) -> Vec<u64> {
        names.map(|name| xxh3_64(&name.to_le_bytes())).collect()
    }

    fn audience(names: std::ops::Range<u32>) -> Audience {
        let mut audience = Audience::default();
        hashes(names).into_iter().for_each(|name| audience.came(name));
        audience
    }

    fn told(names: std::ops::Range<u32>) -> Unique {
        audience(names).told().unwrap()
    }

    #[test]
    fn few_names_are_counted_and_many_estimated() {
        assert_eq!(Unique::union(&[told(0..40), told(20..60)]), (60, false));
        // Exact at each gateway is exact together, however many they are.
        let parts: Vec<Unique> = (0..20).map(|part| told(part * 60..(part + 1) * 60)).collect();
        assert_eq!(Unique::union(&parts), (1_200, false));
        for (one, other, people) in [(0..65, 30..60, 65), (0..10_000, 5_000..20_000, 20_000), (0..60, 0..300_000, 300_000)] {
            let (estimate, is_estimate) = Unique::union(&[told(one), told(other)]);
            assert!(is_estimate);
            // Four standard errors of 2.3 %.
            assert!(estimate.abs_diff(people) * 100 <= people * 10 + 100, "{estimate} for {people}");
        }
        assert_eq!(Unique::union(&[]), (0, false));
    }

    #[test]
    fn estimates_fall_again_as_people_leave() {
        let mut audience = audience(0..5_000);
        assert!(Unique::union(&[audience.told().unwrap()]).0 > 4_500);
        hashes(100..5_000).into_iter().for_each(|name| audience.left(name));
        assert!(Unique::union(&[audience.told().unwrap()]).0 < 115);
        hashes(50..100).into_iter().for_each(|name| audience.left(name));
        assert_eq!(Unique::union(&[audience.told().unwrap()]), (50, false));
        hashes(0..50).into_iter().for_each(|name| audience.left(name));
        assert_eq!(audience.told(), None);
    }

    #[test]
    fn a_name_in_two_tabs_is_one_and_leaves_with_the_last() {
        let mut audience = Audience::default();
        audience.came(7);
        audience.came(7);
        let both = audience.told().unwrap();
        assert_eq!((both.sessions(), Unique::union([&both])), (2, (1, false)));
        audience.left(7);
        assert_eq!(audience.told().unwrap().sessions(), 1);
        audience.left(8);
        audience.left(7);
        assert!(audience.is_empty());
    }

    #[test]
    fn what_is_told_reads_back_and_nothing_else_does() {
        for unique in [told(0..1), told(0..64), told(0..65)] {
            let bytes = postcard::to_stdvec(&unique).unwrap();
            assert!(bytes.len() < 2_100);
            assert_eq!(postcard::from_bytes::<Unique>(&bytes), Ok(unique));
        }
        for names in [Names::Exact(vec![2, 1]), Names::Exact((0..65).collect())] {
            let bytes = postcard::to_stdvec(&Told { sessions: 1, names }).unwrap();
            assert!(postcard::from_bytes::<Unique>(&bytes).is_err());
        }
    }
}
