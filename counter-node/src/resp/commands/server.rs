//! TIME, FUNCTION, FLUSHALL.

use std::time::{SystemTime, UNIX_EPOCH};

use counter_core::key::{Key, KeyRef};
use counter_core::slot::Slot;

use super::{Args, Executed, Later, Refused, Replies, Resp, Step, Turn, words};
use crate::resp::cluster::Topology;
use crate::router::{Action, Here};

/// Counters that FLUSHALL resets in one commit.
const FLUSHED_AT_ONCE: usize = 1_000;

pub(super) fn time(turn: &mut Turn<'_, '_>, _: Args<'_>) -> Executed {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    turn.out.array(2);
    turn.out.text(&now.as_secs().to_string());
    turn.out.text(&now.subsec_micros().to_string());
    Ok(Step::Done)
}

/// There are no functions, so their list is empty, and flushing them is done.
pub(super) fn function(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    match args.get(1) {
        sub if sub.eq_ignore_ascii_case(b"flush") => turn.out.ok(),
        sub if sub.eq_ignore_ascii_case(b"list") => turn.out.array(0),
        _ => return Err("ERR functions are not supported by this server".into()),
    }
    Ok(Step::Done)
}

/// `FLUSHALL [ASYNC|SYNC]`
pub(super) fn flushall(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    if args.len() > 2 || (args.len() == 2 && !args.is(1, "async") && !args.is(1, "sync")) {
        return Err(words::SYNTAX);
    }
    if !turn.resp.flush {
        return Err("ERR FLUSHALL is refused: this node was started without --resp-flush".into());
    }
    let me = turn.resp.router.protocol.me();
    Ok(Step::Later(Later::Flush(Topology::of(turn.resp, turn.session).slots_of(me).collect())))
}

fn counted(resp: &Resp, slot: Slot) -> Vec<Key> {
    let vector = resp.router.owner.table.slot(slot);
    vector.keys().filter(|key| key.kind().is_counted()).map(KeyRef::to_key).collect()
}

/// Resets every counter of these slots that this node serves.
pub(super) async fn flush(resp: &Resp, slots: Vec<Slot>, out: &mut Replies) -> Result<(), Refused> {
    let mut pipeline = resp.router.pipeline();
    pipeline.expect(FLUSHED_AT_ONCE);
    let mut waiting = 0;
    for slot in slots {
        for key in counted(resp, slot) {
            match pipeline.update(slot, (&key).into(), Action::Reset.into()) {
                Here::Done(_) => waiting += 1,
                Here::Failed(failure) => return Err(words::failure(&failure)),
                Here::Elsewhere => return Err("CLUSTERDOWN not all counters were reset: slot or storage has just gone".into()),
            }
            if waiting == FLUSHED_AT_ONCE {
                waiting = 0;
                pipeline.commit().await.map_err(|failure| words::failure(&failure))?;
            }
        }
    }
    pipeline.commit().await.map_err(|failure| words::failure(&failure))?;
    out.ok();
    Ok(())
}
