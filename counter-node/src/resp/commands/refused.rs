//! Commands that Redis has and this server does not: what is told instead.

use super::{Args, Executed, Refused, Turn, words};

/// Commands of other data types. Every key here is a counter, which is of the type string.
const OTHER_TYPES: &[&str] = &[
    "lpush",
    "rpush",
    "lpop",
    "rpop",
    "llen",
    "lrange",
    "lindex",
    "lset",
    "linsert",
    "lrem",
    "ltrim",
    "blpop",
    "brpop",
    "lpushx",
    "rpushx",
    "lmove",
    "rpoplpush",
    "sadd",
    "srem",
    "smembers",
    "sismember",
    "scard",
    "spop",
    "srandmember",
    "smismember",
    "sscan",
    "zadd",
    "zrem",
    "zrange",
    "zscore",
    "zcard",
    "zincrby",
    "zrank",
    "zcount",
    "zrangebyscore",
    "zscan",
    "hset",
    "hget",
    "hmset",
    "hmget",
    "hgetall",
    "hdel",
    "hlen",
    "hincrby",
    "hincrbyfloat",
    "hexists",
    "hkeys",
    "hvals",
    "hscan",
    "xadd",
    "xlen",
    "xrange",
    "xread",
    "pfadd",
    "pfcount",
    "pfmerge",
    "geoadd",
    "geodist",
    "geosearch",
];

/// Commands of strings and keys that make no sense of a counter, or that it cannot keep in several replicas.
const NOT_OF_COUNTERS: &[&str] = &[
    "append",
    "strlen",
    "getrange",
    "setrange",
    "substr",
    "setbit",
    "getbit",
    "bitcount",
    "bitop",
    "bitpos",
    "bitfield",
    "setnx",
    "setex",
    "psetex",
    "mset",
    "msetnx",
    "getdel",
    "getex",
    "expire",
    "pexpire",
    "expireat",
    "pexpireat",
    "persist",
    "rename",
    "renamenx",
    "copy",
    "move",
    "dump",
    "restore",
    "object",
    "sort",
    "keys",
    "randomkey",
    "lcs",
];

/// What is not served at all.
const NOT_SERVED: &[&str] = &[
    "multi",
    "exec",
    "discard",
    "watch",
    "unwatch",
    "subscribe",
    "unsubscribe",
    "psubscribe",
    "punsubscribe",
    "publish",
    "pubsub",
    "ssubscribe",
    "sunsubscribe",
    "spublish",
    "eval",
    "evalsha",
    "eval_ro",
    "script",
    "fcall",
    "monitor",
    "debug",
    "wait",
    "save",
    "bgsave",
    "bgrewriteaof",
    "lastsave",
    "shutdown",
    "replicaof",
    "slaveof",
    "role",
    "swapdb",
    "slowlog",
    "latency",
    "memory",
    "module",
    "acl",
    "sync",
    "psync",
    "failover",
];

/// How much of a request is repeated to its client.
const SHOWN_ARGS: usize = 20;

/// What is told of a command that is not in the table.
pub(super) fn unknown(args: Args<'_>) -> Refused {
    let name = args.get(0).to_ascii_lowercase();
    let is_one_of = |names: &[&str]| names.iter().any(|known| known.as_bytes() == name);
    let shown = words::shown(&name);
    if is_one_of(OTHER_TYPES) {
        return format!(
            "WRONGTYPE Operation against a key holding the wrong kind of value: every key is a counter, '{shown}' is not served"
        )
        .into();
    }
    if is_one_of(NOT_OF_COUNTERS) {
        return format!("ERR '{shown}' is not supported: every key is a counter").into();
    }
    if is_one_of(NOT_SERVED) {
        return format!("ERR '{shown}' is not supported by this server").into();
    }
    let given = args.from(1).take(SHOWN_ARGS).map(|arg| format!("'{}' ", words::shown(arg))).collect::<String>();
    format!("ERR unknown command '{}', with args beginning with: {given}", words::shown(args.get(0))).into()
}

pub(super) fn fractions(_: &mut Turn<'_, '_>, _: Args<'_>) -> Executed {
    Err("ERR INCRBYFLOAT is not supported: counters are whole numbers".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::commands::find;

    #[test]
    fn no_command_is_both_served_and_refused() {
        for name in OTHER_TYPES.iter().chain(NOT_OF_COUNTERS).chain(NOT_SERVED) {
            assert!(find(name.as_bytes()).is_none(), "{name}");
        }
    }
}
