//! CONFIG GET of what tools ask for. Nothing is set here: a node is set by its flags.

use super::{Args, Executed, Step, Turn, words};
use crate::resp::codec::CAPS;
use crate::resp::glob;
use crate::storage::Fsync;

pub(super) fn config(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let sub = args.get(1).to_ascii_lowercase();
    match (sub.as_slice(), args.len()) {
        (b"get", 3..) => get(turn, args),
        (b"get", _) => return Err(words::arity("config|get")),
        (b"resetstat", 2) => return Err("ERR CONFIG RESETSTAT is not supported: figures only grow".into()),
        (b"set" | b"rewrite", _) => return Err("ERR CONFIG SET is not supported: a node is set by its flags".into()),
        (b"help", 2) => {
            turn.out.array(1);
            turn.out.simple("CONFIG GET <pattern> [<pattern> ...]");
        }
        _ => return Err(words::unknown_subcommand("CONFIG", args.get(1))),
    }
    Ok(Step::Done)
}

fn get(turn: &mut Turn<'_, '_>, args: Args<'_>) {
    let settings = settings(turn);
    let asked = |name: &str| args.from(2).any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()));
    let found: Vec<&(&str, String)> = settings.iter().filter(|(name, _)| asked(name)).collect();
    turn.out.map(found.len());
    for (name, value) in found {
        turn.out.text(name);
        turn.out.text(value);
    }
}

/// The node's settings under the names that Redis has for the like.
fn settings(turn: &Turn<'_, '_>) -> Vec<(&'static str, String)> {
    let resp = turn.resp;
    let (append_only, fsync) = match resp.durability {
        None => ("no", "no"),
        Some(Fsync::Always) => ("yes", "always"),
        Some(Fsync::EverySecond) => ("yes", "everysec"),
        Some(Fsync::Never) => ("yes", "no"),
    };
    vec![
        ("save", String::new()),
        ("appendonly", append_only.to_owned()),
        ("appendfsync", fsync.to_owned()),
        ("maxmemory", if resp.memory_bytes_max == u64::MAX { "0".to_owned() } else { resp.memory_bytes_max.to_string() }),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("maxclients", resp.connections_max.to_string()),
        ("databases", "1".to_owned()),
        ("timeout", "0".to_owned()),
        ("tcp-keepalive", "300".to_owned()),
        ("proto-max-bulk-len", CAPS.arg_bytes.to_string()),
        ("port", resp.address.port().to_string()),
        ("bind", resp.address.ip().to_string()),
        ("cluster-enabled", "yes".to_owned()),
    ]
}
