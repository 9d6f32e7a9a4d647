//! The commands, as COMMAND tells of them. The hottest come first, since the table is searched from its start.

use super::{Args, Executed, Turn};
use super::{client, cluster, command, config, connection, counters, info, keys, refused, scan, server};

/// Where a command has its keys: the first, the last (below zero from the end), and from one to the next. No keys: all 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::resp) struct Keys(pub(super) i64, pub(super) i64, pub(super) i64);

const NONE: Keys = Keys(0, 0, 0);
const ONE: Keys = Keys(1, 1, 1);
const ALL: Keys = Keys(1, -1, 1);

type Run = fn(&mut Turn<'_, '_>, Args<'_>) -> Executed;

/// One command.
pub(in crate::resp) struct Spec {
    pub(in crate::resp) name: &'static str,
    /// How many arguments it takes, its name included; below zero: at least so many.
    pub(super) arity: i64,
    pub(super) keys: Keys,
    pub(super) flags: &'static [&'static str],
    pub(super) group: &'static str,
    pub(super) since: &'static str,
    pub(super) summary: &'static str,
    /// Served to clients that have not authenticated.
    pub(super) no_auth: bool,
    pub(super) run: Run,
}

impl Spec {
    pub(super) fn takes(&self, args: usize) -> bool {
        let args = i64::try_from(args).unwrap_or(i64::MAX);
        if self.arity < 0 { args >= -self.arity } else { args == self.arity }
    }
}

/// The command of this name.
pub(in crate::resp) fn find(name: &[u8]) -> Option<&'static Spec> {
    COMMANDS.iter().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
}

const READ: &[&str] = &["readonly", "fast"];
const WRITE: &[&str] = &["write", "denyoom", "fast"];
const DELETE: &[&str] = &["write"];
const CONNECTION: &[&str] = &["noscript", "loading", "stale", "fast"];
const OPEN: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];
const ADMIN: &[&str] = &["admin", "noscript", "loading", "stale"];
const TELLS: &[&str] = &["loading", "stale"];

macro_rules! commands {
    ($($name:literal $arity:literal $keys:ident $flags:ident $group:literal $since:literal $run:path, $summary:literal;)*) => {
        &[$(Spec {
            name: $name,
            arity: $arity,
            keys: $keys,
            flags: $flags,
            group: $group,
            since: $since,
            summary: $summary,
            no_auth: $flags.len() == OPEN.len(),
            run: $run,
        }),*]
    };
}

pub(in crate::resp) const COMMANDS: &[Spec] = commands! {
    "incr" -2 ONE WRITE "string" "1.0.0" counters::incr, "Increments a counter by one.";
    "get" 2 ONE READ "string" "1.0.0" counters::get, "Returns the number of a counter.";
    "incrby" -3 ONE WRITE "string" "1.0.0" counters::incrby, "Increments a counter by a number.";
    "set" -3 ONE WRITE "string" "1.0.0" counters::set, "Resets a counter and counts it to a number.";
    "decr" -2 ONE WRITE "string" "1.0.0" counters::decr, "Decrements a counter by one.";
    "decrby" -3 ONE WRITE "string" "1.0.0" counters::decrby, "Decrements a counter by a number.";
    "mget" -2 ALL READ "string" "1.0.0" counters::mget, "Returns the numbers of counters.";
    "getset" -3 ONE WRITE "string" "1.0.0" counters::getset, "Sets a counter and returns the number that it replaced.";
    "ping" -1 NONE CONNECTION "connection" "1.0.0" connection::ping, "Returns PONG, or its argument.";
    "del" -2 ALL DELETE "generic" "1.0.0" keys::del, "Resets counters.";
    "unlink" -2 ALL DELETE "generic" "4.0.0" keys::del, "Resets counters.";
    "exists" -2 ALL READ "generic" "1.0.0" keys::exists, "Tells how many of the counters exist.";
    "touch" -2 ALL READ "generic" "3.2.1" keys::exists, "Tells how many of the counters exist.";
    "type" 2 ONE READ "generic" "1.0.0" keys::kind, "Returns string for a counter that exists.";
    "ttl" 2 ONE READ "generic" "1.0.0" keys::ttl, "Returns -1: counters do not expire.";
    "pttl" 2 ONE READ "generic" "2.6.0" keys::ttl, "Returns -1: counters do not expire.";
    "scan" -2 NONE READ "generic" "2.8.0" scan::scan, "Goes through the counters of this node's slots.";
    "dbsize" 1 NONE READ "server" "1.0.0" scan::dbsize, "Returns how many counters exist in this node's slots.";
    "echo" 2 NONE CONNECTION "connection" "1.0.0" connection::echo, "Returns its argument.";
    "hello" -1 NONE OPEN "connection" "6.0.0" connection::hello, "Chooses the protocol, and authenticates.";
    "auth" -2 NONE OPEN "connection" "1.0.0" connection::auth, "Authenticates with a token of the public API.";
    "quit" -1 NONE OPEN "connection" "1.0.0" connection::quit, "Closes the connection.";
    "reset" 1 NONE OPEN "connection" "6.2.0" connection::reset, "Makes the connection as it was when it came.";
    "select" 2 NONE CONNECTION "connection" "1.0.0" connection::select, "Selects database 0, the only one.";
    "client" -2 NONE CONNECTION "connection" "2.4.0" client::client, "Tells and sets what a connection is.";
    "readonly" 1 NONE CONNECTION "cluster" "3.0.0" connection::accept, "Does nothing: every replica serves reads.";
    "readwrite" 1 NONE CONNECTION "cluster" "3.0.0" connection::accept, "Does nothing: every replica serves reads.";
    "asking" 1 NONE CONNECTION "cluster" "3.0.0" connection::accept, "Does nothing: nodes forward by themselves.";
    "cluster" -2 NONE TELLS "cluster" "3.0.0" cluster::cluster, "Tells which node serves which slots.";
    "command" -1 NONE TELLS "server" "2.8.13" command::command, "Tells which commands there are.";
    "config" -2 NONE ADMIN "server" "2.0.0" config::config, "Tells settings that tools ask for.";
    "info" -1 NONE TELLS "server" "1.0.0" info::info, "Tells what the node is and does.";
    "time" 1 NONE TELLS "server" "2.6.0" server::time, "Returns the node's clock.";
    "function" -2 NONE TELLS "scripting" "7.0.0" server::function, "Tells that there are no functions.";
    "flushall" -1 NONE DELETE "server" "1.0.0" server::flushall, "Resets all counters of this node's slots, where it is allowed to.";
    "flushdb" -1 NONE DELETE "server" "1.0.0" server::flushall, "Resets all counters of this node's slots, where it is allowed to.";
    "incrbyfloat" 3 ONE WRITE "string" "2.6.0" refused::fractions, "Refused: counters are whole numbers.";
};
