//! PING, ECHO, HELLO, AUTH, SELECT, RESET, QUIT: what concerns the connection alone.

use super::{Args, Executed, Refused, Step, Turn, client, info, words};
use crate::resp::reply::Version;

pub(super) fn ping(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    match args.len() {
        1 => turn.out.simple("PONG"),
        2 => turn.out.bulk(args.get(1)),
        _ => return Err(words::arity("ping")),
    }
    Ok(Step::Done)
}

pub(super) fn echo(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    turn.out.bulk(args.get(1));
    Ok(Step::Done)
}

/// What asks for what is the case anyhow.
pub(super) fn accept(turn: &mut Turn<'_, '_>, _: Args<'_>) -> Executed {
    turn.out.ok();
    Ok(Step::Done)
}

pub(super) fn select(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    match args.number(1)? {
        0 => turn.out.ok(),
        _ => return Err("ERR DB index is out of range".into()),
    }
    Ok(Step::Done)
}

pub(super) fn quit(turn: &mut Turn<'_, '_>, _: Args<'_>) -> Executed {
    turn.out.ok();
    Ok(Step::Close)
}

pub(super) fn reset(turn: &mut Turn<'_, '_>, _: Args<'_>) -> Executed {
    turn.session.reset();
    turn.out.version = Version::Resp2;
    turn.out.simple("RESET");
    Ok(Step::Done)
}

/// `AUTH [username] password`
pub(super) fn auth(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    match args.len() {
        2 => authenticate(turn, b"default", args.get(1))?,
        3 => authenticate(turn, args.get(1), args.get(2))?,
        _ => return Err(words::SYNTAX),
    }
    turn.out.ok();
    Ok(Step::Done)
}

fn authenticate(turn: &mut Turn<'_, '_>, user: &[u8], password: &[u8]) -> Result<(), Refused> {
    let Some(tokens) = &turn.resp.tokens else {
        return Err("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?".into());
    };
    if user != b"default" || !tokens.accepts(password) {
        return Err("WRONGPASS invalid username-password pair or user is disabled.".into());
    }
    turn.session.password = Some(password.to_vec());
    Ok(())
}

/// `HELLO [version [AUTH username password] [SETNAME name]]`
pub(super) fn hello(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let version = match args.len() {
        1 => turn.out.version,
        _ => match super::super::number::parse(args.get(1)) {
            Some(2) => Version::Resp2,
            Some(3) => Version::Resp3,
            Some(_) => return Err("NOPROTO unsupported protocol version".into()),
            None => return Err("ERR Protocol version is not an integer or out of range".into()),
        },
    };
    let (mut name, mut at) = (None, 2);
    while at < args.len() {
        if args.is(at, "auth") && at + 2 < args.len() {
            authenticate(turn, args.get(at + 1), args.get(at + 2))?;
            at += 3;
        } else if args.is(at, "setname") && at + 1 < args.len() {
            name = Some(args.get(at + 1));
            at += 2;
        } else {
            return Err(format!("ERR Syntax error in HELLO option '{}'", words::shown(args.get(at))).into());
        }
    }
    if !turn.resp.is_authenticated(turn.session) {
        return Err("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time".into());
    }
    if let Some(name) = name {
        client::set_name(turn, name)?;
    }
    turn.out.version = version;
    greet(turn);
    Ok(Step::Done)
}

fn greet(turn: &mut Turn<'_, '_>) {
    let (mode, id) = (info::mode(turn), i64::try_from(turn.session.id).unwrap_or(i64::MAX));
    let out = &mut *turn.out;
    out.map(7);
    out.text("server");
    out.text("redis");
    out.text("version");
    out.text(info::REDIS_VERSION);
    out.text("proto");
    out.integer(if out.version == Version::Resp3 { 3 } else { 2 });
    out.text("id");
    out.integer(id);
    out.text("mode");
    out.text(mode);
    out.text("role");
    out.text("master");
    out.text("modules");
    out.array(0);
}
