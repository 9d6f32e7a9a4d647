//! CLIENT: what a connection is called, and which replies it wants. A client sees its own connection only.

use super::{Args, Executed, Refused, Step, Turn, words};
use crate::resp::reply::Version;
use crate::resp::session::Wanted;

/// Names that clients give themselves stand in lines of text.
const NAME_BYTES_MAX: usize = 256;

const HELP: &[&str] = &[
    "CLIENT <subcommand> [<arg> ...]. Subcommands are:",
    "GETNAME, SETNAME <name>, SETINFO <LIB-NAME|LIB-VER> <value>, ID, INFO, LIST, GETREDIR,",
    "NO-EVICT <ON|OFF>, NO-TOUCH <ON|OFF>, REPLY <ON|OFF|SKIP>, HELP",
];

pub(super) fn client(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let sub = args.get(1).to_ascii_lowercase();
    match (sub.as_slice(), args.len()) {
        (b"id", 2) => turn.out.integer(i64::try_from(turn.session.id).unwrap_or(i64::MAX)),
        (b"getname", 2) if turn.session.name.is_empty() => turn.out.null(),
        (b"getname", 2) => turn.out.bulk(&turn.session.name),
        (b"setname", 3) => {
            set_name(turn, args.get(2))?;
            turn.out.ok();
        }
        (b"setinfo", 4) => set_info(turn, args)?,
        (b"info", 2) => turn.out.verbatim(&line(turn, "client|info")),
        (b"list", _) => turn.out.verbatim(&line(turn, "client|list")),
        (b"getredir", 2) => turn.out.integer(-1),
        (b"no-evict" | b"no-touch", 3) if args.is(2, "on") || args.is(2, "off") => turn.out.ok(),
        (b"reply", 3) => reply(turn, args)?,
        (b"no-evict" | b"no-touch", 3) => return Err(words::SYNTAX),
        (b"help", 2) => {
            turn.out.array(HELP.len());
            HELP.iter().for_each(|line| turn.out.simple(line));
        }
        (b"kill" | b"pause" | b"unpause" | b"tracking" | b"caching" | b"trackinginfo" | b"unblock", _) => {
            return Err(format!("ERR CLIENT {} is not supported by this server", words::shown(&sub.to_ascii_uppercase())).into());
        }
        (
            b"id" | b"getname" | b"setname" | b"setinfo" | b"info" | b"getredir" | b"no-evict" | b"no-touch" | b"reply" | b"help",
            _,
        ) => {
            return Err(words::arity(&format!("client|{}", words::shown(&sub))));
        }
        _ => return Err(words::unknown_subcommand("CLIENT", args.get(1))),
    }
    Ok(Step::Done)
}

pub(super) fn set_name(turn: &mut Turn<'_, '_>, name: &[u8]) -> Result<(), Refused> {
    check(name, "Client names")?;
    turn.session.name = name.to_vec();
    Ok(())
}

fn set_info(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Result<(), Refused> {
    let value = args.get(3);
    if args.is(2, "lib-name") {
        check(value, "lib-name")?;
        turn.session.library = value.to_vec();
    } else if args.is(2, "lib-ver") {
        check(value, "lib-ver")?;
        turn.session.library_version = value.to_vec();
    } else {
        return Err(format!("ERR Unrecognized option '{}'", words::shown(args.get(2))).into());
    }
    turn.out.ok();
    Ok(())
}

fn check(value: &[u8], what: &str) -> Result<(), Refused> {
    if value.len() > NAME_BYTES_MAX {
        return Err(format!("ERR {what} cannot be longer than {NAME_BYTES_MAX} bytes.").into());
    }
    if value.iter().all(u8::is_ascii_graphic) {
        return Ok(());
    }
    Err(format!("ERR {what} cannot contain spaces, newlines or special characters.").into())
}

fn reply(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Result<(), Refused> {
    turn.session.wanted = match args.get(2) {
        word if word.eq_ignore_ascii_case(b"on") => Wanted::All,
        word if word.eq_ignore_ascii_case(b"off") => Wanted::None,
        // Where none is wanted there is none to skip.
        word if word.eq_ignore_ascii_case(b"skip") && turn.session.wanted == Wanted::None => Wanted::None,
        word if word.eq_ignore_ascii_case(b"skip") => Wanted::SkipNext,
        _ => return Err(words::SYNTAX),
    };
    turn.out.ok();
    Ok(())
}

/// A connection as CLIENT LIST tells of it. Its last command is the one that asks.
fn line(turn: &Turn<'_, '_>, last: &str) -> String {
    let session = &*turn.session;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let version = if turn.out.version == Version::Resp3 { 3 } else { 2 };
    format!(
        "id={} addr={} laddr={} name={} age={} idle=0 flags=N db=0 sub=0 psub=0 multi=-1 cmd={last} user=default resp={version} lib-name={} lib-ver={}\n",
        session.id,
        session.peer,
        session.local,
        text(&session.name),
        session.since.elapsed().as_secs(),
        text(&session.library),
        text(&session.library_version),
    )
}
