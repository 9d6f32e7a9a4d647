//! CLUSTER: the layout in the forms that Redis Cluster's clients ask for.

use std::fmt::Write as _;

use counter_core::slot::{SLOTS, Slot};

use super::{Args, Executed, Refused, Replies, Step, Turn, scan, words};
use crate::resp::cluster::{Place, Topology, node_id};

pub(super) fn cluster(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let sub = args.get(1).to_ascii_lowercase();
    match (sub.as_slice(), args.len()) {
        (b"slots", 2) => slots(&Topology::of(turn.resp, turn.session), turn.out),
        (b"shards", 2) => shards(&Topology::of(turn.resp, turn.session), turn.out),
        (b"nodes", 2) => nodes(turn),
        (b"myid", 2) => turn.out.text(&node_id(turn.resp.router.protocol.me())),
        (b"keyslot", 3) => turn.out.integer(Slot::of(args.get(2)).number().into()),
        (b"info", 2) => info(turn),
        (b"countkeysinslot", 3) => {
            let existing = turn.resp.router.owner.table.slot(slot(args)?).existing();
            turn.out.integer(i64::try_from(existing).unwrap_or(i64::MAX));
        }
        (b"getkeysinslot", 4) => {
            let count = usize::try_from(args.number(3)?).map_err(|_| "ERR Invalid number of keys")?;
            let keys = scan::keys_in(turn, slot(args)?, count);
            turn.out.array(keys.len());
            keys.iter().for_each(|key| turn.out.bulk(key.as_bytes()));
        }
        (b"help", 2) => {
            turn.out.array(1);
            turn.out.simple("CLUSTER SLOTS, SHARDS, NODES, MYID, KEYSLOT, INFO, COUNTKEYSINSLOT, GETKEYSINSLOT");
        }
        (b"slots" | b"shards" | b"nodes" | b"myid" | b"keyslot" | b"info" | b"countkeysinslot" | b"getkeysinslot", _) => {
            return Err(words::arity(&format!("cluster|{}", words::shown(&sub))));
        }
        _ => return Err(words::unknown_subcommand("CLUSTER", args.get(1))),
    }
    Ok(Step::Done)
}

fn slot(args: Args<'_>) -> Result<Slot, Refused> {
    let number = u16::try_from(args.number(2)?).ok().and_then(Slot::new);
    number.ok_or_else(|| "ERR Invalid or out of range slot".into())
}

fn slots(topology: &Topology, out: &mut Replies) {
    out.array(topology.parts.len());
    for part in &topology.parts {
        out.array(3);
        out.integer(part.slots.first().number().into());
        out.integer(part.slots.last().number().into());
        out.array(4);
        out.text(&part.master.host);
        out.integer(part.master.port.into());
        out.text(&node_id(&part.master.name));
        out.array(0);
    }
}

/// One entry per master, since each has slots of its own.
fn shards(topology: &Topology, out: &mut Replies) {
    let masters = topology.masters();
    out.array(masters.len());
    for (master, slots) in masters {
        out.map(2);
        out.text("slots");
        out.array(slots.len() * 2);
        for range in slots {
            out.integer(range.first().number().into());
            out.integer(range.last().number().into());
        }
        out.text("nodes");
        out.array(1);
        shard_node(master, out);
    }
}

fn shard_node(place: &Place, out: &mut Replies) {
    out.map(7);
    for (name, text) in [("id", node_id(&place.name).as_str()), ("endpoint", &place.host), ("ip", &place.host)] {
        out.text(name);
        out.text(text);
    }
    out.text("port");
    out.integer(place.port.into());
    out.text("role");
    out.text("master");
    out.text("replication-offset");
    out.integer(0);
    out.text("health");
    out.text("online");
}

fn nodes(turn: &mut Turn<'_, '_>) {
    let topology = Topology::of(turn.resp, turn.session);
    let me = turn.resp.router.protocol.me();
    let mut text = String::new();
    for (place, slots) in topology.masters() {
        let myself = if place.name == *me { "myself," } else { "" };
        let (id, host, port) = (node_id(&place.name), &place.host, place.port);
        // Writing into memory does not fail.
        let _ = write!(text, "{id} {host}:{port}@{port} {myself}master - 0 0 {} connected", topology.version);
        for range in slots {
            let _ = write!(text, " {range}");
        }
        text.push('\n');
    }
    turn.out.verbatim(&text);
}

fn info(turn: &mut Turn<'_, '_>) {
    let topology = Topology::of(turn.resp, turn.session);
    let serving = turn.resp.router.protocol.view().routes.is_some();
    let (state, assigned) = if serving { ("ok", SLOTS) } else { ("fail", 0) };
    let masters = topology.masters().len();
    turn.out.verbatim(&format!(
        "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{assigned}\r\ncluster_slots_ok:{assigned}\r\ncluster_slots_pfail:0\r\n\
         cluster_slots_fail:0\r\ncluster_known_nodes:{masters}\r\ncluster_size:{masters}\r\ncluster_current_epoch:{version}\r\ncluster_my_epoch:{version}\r\n",
        version = topology.version
    ));
}

impl Turn<'_, '_> {
    /// Sends a client on that wants to be sent on: where another node owns the counter, and says where it is. A page that
    /// is spread over several counters is at home everywhere.
    pub(super) fn moved(&self, key: &[u8]) -> Result<(), Refused> {
        if self.resp.redirect == crate::args::Redirect::Forward {
            return Ok(());
        }
        let slot = Slot::of(key);
        let view = self.resp.router.protocol.view();
        if view.routes.as_ref().is_none_or(|routes| routes.is_mine(slot) || routes.layout.spread(key).ever_count > 0) {
            return Ok(());
        }
        match Topology::of(self.resp, self.session).master(slot) {
            Some(place) if place.name != *self.resp.router.protocol.me() => {
                Err(format!("MOVED {slot} {}:{}", place.host, place.port).into())
            }
            _ => Ok(()),
        }
    }
}
