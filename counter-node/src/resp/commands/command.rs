//! COMMAND: the table of commands, told to clients that route and complete by it.

use super::table::Keys;
use super::{Args, COMMANDS, Executed, Replies, Spec, Step, Turn, find, words};
use crate::resp::glob;

pub(super) fn command(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let out = &mut *turn.out;
    let sub = args.get(1).to_ascii_lowercase();
    match (sub.as_slice(), args.len()) {
        (b"", 1) => infos(COMMANDS.iter().map(Some).collect(), out),
        (b"info", 2) => infos(COMMANDS.iter().map(Some).collect(), out),
        (b"info", _) => infos(args.from(2).map(find).collect(), out),
        (b"count", 2) => out.integer(i64::try_from(COMMANDS.len()).unwrap_or(i64::MAX)),
        (b"docs", 2) => docs(COMMANDS.iter().collect(), out),
        (b"docs", _) => docs(args.from(2).filter_map(find).collect(), out),
        (b"list", 2) => names(COMMANDS.iter().collect(), out),
        (b"list", 5) if args.is(2, "filterby") && args.is(3, "pattern") => {
            let pattern = args.get(4).to_ascii_lowercase();
            names(COMMANDS.iter().filter(|spec| glob::matches(&pattern, spec.name.as_bytes())).collect(), out);
        }
        (b"list", 5) if args.is(2, "filterby") && (args.is(3, "module") || args.is(3, "aclcat")) => names(Vec::new(), out),
        (b"list", _) => return Err(words::SYNTAX),
        (b"getkeys", 2) => return Err(words::arity("command|getkeys")),
        (b"getkeys", _) => return get_keys(turn, args),
        (b"help", 2) => {
            out.array(1);
            out.simple("COMMAND (no subcommand), COUNT, DOCS, INFO, LIST, GETKEYS");
        }
        _ => return Err(words::unknown_subcommand("COMMAND", args.get(1))),
    }
    Ok(Step::Done)
}

fn infos(specs: Vec<Option<&Spec>>, out: &mut Replies) {
    out.array(specs.len());
    for spec in specs {
        match spec {
            Some(spec) => info(spec, out),
            None => out.null_array(),
        }
    }
}

/// Name, arity, flags, first key, last key, step, categories, tips, key specifications, subcommands.
fn info(spec: &Spec, out: &mut Replies) {
    let Keys(first, last, step) = spec.keys;
    out.array(10);
    out.text(spec.name);
    out.integer(spec.arity);
    out.set(spec.flags.len());
    spec.flags.iter().for_each(|flag| out.simple(flag));
    [first, last, step].into_iter().for_each(|number| out.integer(number));
    let categories = categories(spec);
    out.set(categories.len());
    categories.iter().for_each(|category| out.simple(category));
    (0..3).for_each(|_| out.array(0));
}

fn categories(spec: &Spec) -> Vec<&'static str> {
    let of_group = match spec.group {
        "string" => "@string",
        "generic" => "@keyspace",
        "connection" => "@connection",
        _ => "@dangerous",
    };
    let of_flags = spec.flags.iter().filter_map(|flag| match *flag {
        "readonly" => Some("@read"),
        "write" => Some("@write"),
        "fast" => Some("@fast"),
        "admin" => Some("@admin"),
        _ => None,
    });
    of_flags.chain([of_group]).collect()
}

fn docs(specs: Vec<&Spec>, out: &mut Replies) {
    out.map(specs.len());
    for spec in specs {
        out.text(spec.name);
        out.map(4);
        for (what, text) in
            [("summary", spec.summary), ("since", spec.since), ("group", spec.group), ("complexity", "O(N) in the keys named")]
        {
            out.text(what);
            out.text(text);
        }
    }
}

fn names(specs: Vec<&Spec>, out: &mut Replies) {
    out.array(specs.len());
    specs.into_iter().for_each(|spec| out.text(spec.name));
}

fn get_keys(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let spec = find(args.get(2)).ok_or("ERR Invalid command specified")?;
    let Keys(first, last, step) = spec.keys;
    let given = args.len() - 2;
    let (Ok(first), Ok(step)) = (usize::try_from(first), usize::try_from(step)) else { return Err(words::SYNTAX) };
    if first == 0 || step == 0 {
        return Err("ERR The command has no key arguments".into());
    }
    if !spec.takes(given) {
        return Err("ERR Invalid number of arguments specified for command".into());
    }
    let last = if last < 0 { given - 1 } else { usize::try_from(last).unwrap_or(first) };
    let keys: Vec<&[u8]> = (first..=last).step_by(step).map(|index| args.get(index + 2)).collect();
    turn.out.array(keys.len());
    keys.into_iter().for_each(|key| turn.out.bulk(key));
    Ok(Step::Done)
}
