//! Reads a node's records out of Redis, as it starts.

use std::collections::HashMap;

use counter_core::slot::Slot;
use redis::Value;

use super::batch::{COUNTER, FLOOR, TOKEN, generation_of};
use super::keys::Keys;
use super::link::{Link, Pairs, bytes, list, pairs, text};
use super::{RedisFailure, parts};
use crate::storage::{Loaded, Visitor};

/// How many slots are asked for at once: 64 rounds for a node that holds all.
const SLOTS_AT_ONCE: usize = 256;
/// How many fields of a slot Redis is to give at once; small slots come whole.
const FIELDS_AT_ONCE: usize = 1_000;

/// Hands every record to the visitor, the slots' first.
pub(super) fn load(link: &mut Link, keys: &Keys, visitor: &Visitor<'_>) -> Result<(), RedisFailure> {
    let generations = load_slots(link, keys, visitor)?;
    let slots: Vec<Slot> = Slot::all().collect();
    for some in slots.chunks(SLOTS_AT_ONCE) {
        for (slot, counters) in read_counters(link, keys, some, &generations)? {
            let key = || keys.counters(slot, generations.get(&slot).copied().unwrap_or(0));
            for (field, map) in counters {
                let damaged = |what: String| RedisFailure::damaged(key(), format!("field `{}`: {what}", field.escape_ascii()));
                match &field[..] {
                    [COUNTER, name @ ..] => {
                        let record = parts::from_parts(&map).map_err(damaged)?;
                        visitor(Loaded::Counter { slot, key: name, bytes: &record }).map_err(damaged)?;
                    }
                    [TOKEN, ..] => visitor(Loaded::Token { slot, bytes: &map }).map_err(damaged)?,
                    [FLOOR] => visitor(Loaded::Floor { slot, bytes: &map }).map_err(damaged)?,
                    _ => return Err(damaged("it is of an unknown kind".to_owned())),
                }
            }
        }
    }
    Ok(())
}

/// The generations of the slots that are past their first.
fn load_slots(link: &mut Link, keys: &Keys, visitor: &Visitor<'_>) -> Result<HashMap<Slot, u64>, RedisFailure> {
    let key = keys.slots();
    let damaged = |what: String| RedisFailure::damaged(&key, what);
    let answer = link.ask(&[redis::cmd("HGETALL").arg(&key).to_owned()], &key)?.pop();
    let records = answer.and_then(pairs).ok_or(RedisFailure::NotRedis)?;
    let mut generations = HashMap::with_capacity(records.len());
    for (field, value) in records {
        let number = std::str::from_utf8(&field).ok().and_then(|number| number.parse().ok());
        let name = || field.escape_ascii().to_string();
        let slot = number.and_then(Slot::new).ok_or_else(|| damaged(format!("`{}` is no slot", name())))?;
        let record = value.iter().position(|byte| *byte == b' ').and_then(|space| value.get(space + 1..)).unwrap_or_default();
        let generation = generation_of(record).filter(|generation| value.starts_with(format!("{generation} ").as_bytes()));
        let generation = generation.ok_or_else(|| damaged(format!("field `{}`: it is no slot's record", name())))?;
        visitor(Loaded::Slot { slot, bytes: record }).map_err(damaged)?;
        generations.insert(slot, generation);
    }
    Ok(generations)
}

type Counters = HashMap<Vec<u8>, Vec<u8>>;

/// All counters of these slots. Redis may give one more than once.
fn read_counters(
    link: &mut Link,
    keys: &Keys,
    slots: &[Slot],
    generations: &HashMap<Slot, u64>,
) -> Result<HashMap<Slot, Counters>, RedisFailure> {
    let mut read: HashMap<Slot, Counters> = HashMap::new();
    let mut unread: Vec<(Slot, String)> = slots.iter().map(|slot| (*slot, "0".to_owned())).collect();
    while !unread.is_empty() {
        let scan = |(slot, cursor): &(Slot, String)| {
            let key = keys.counters(*slot, generations.get(slot).copied().unwrap_or(0));
            redis::cmd("HSCAN").arg(key).arg(cursor).arg("COUNT").arg(FIELDS_AT_ONCE).to_owned()
        };
        let answers = link.ask(&unread.iter().map(scan).collect::<Vec<_>>(), &keys.slots())?;
        let mut further = Vec::new();
        for ((slot, _), answer) in unread.into_iter().zip(answers) {
            let (cursor, counters) = page(answer).ok_or(RedisFailure::NotRedis)?;
            if !counters.is_empty() {
                read.entry(slot).or_default().extend(counters);
            }
            if cursor != "0" {
                further.push((slot, cursor));
            }
        }
        unread = further;
    }
    Ok(read)
}

/// Where the scan goes on, and what it has given.
fn page(answer: Value) -> Option<(String, Pairs)> {
    let [cursor, counters] = <[Value; 2]>::try_from(list(answer)?).ok()?;
    Some((text(cursor)?, pairs(counters)?))
}

/// What Redis's own configuration should be, and is not: each a sentence for the operator's log.
pub(super) fn advice(link: &mut Link) -> Vec<&'static str> {
    let sections = ["memory", "persistence"].map(|section| redis::cmd("INFO").arg(section).to_owned());
    // A user that may not ask gets no advice.
    let Ok(answers) = link.ask(&sections, "") else { return Vec::new() };
    let info: String = answers.into_iter().filter_map(bytes).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
    advice_on(&info)
}

fn advice_on(info: &str) -> Vec<&'static str> {
    let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let mut advice = Vec::new();
    let evicts = value("maxmemory_policy").is_some_and(|policy| policy.starts_with("allkeys-"));
    if evicts && value("maxmemory").is_some_and(|limit| limit != "0") {
        advice.push("Redis may drop counters when it is full: set maxmemory-policy noeviction");
    }
    if value("aof_enabled") == Some("0") {
        advice.push("Redis keeps no append-only file: when it ends, updates since its last snapshot are held by the nodes alone");
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_that_may_forget_is_told_of() {
        assert_eq!(advice_on("maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:1\r\n").len(), 0);
        assert_eq!(advice_on("maxmemory:9\r\nmaxmemory_policy:volatile-lru\r\naof_enabled:1\r\n").len(), 0);
        assert!(advice_on("maxmemory:9\r\nmaxmemory_policy:allkeys-lfu\r\n")[0].contains("noeviction"));
        assert!(advice_on("aof_enabled:0\r\n")[0].contains("append-only"));
        assert_eq!(advice_on("").len(), 0);
    }
}
