//! Which loopback ports a node has. They stay with the node for good, because the layout names them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};

use serde::{Deserialize, Serialize};

use super::view::PortsView;

/// A node has three: http, admin, peer, in this order, one after the other.
const PORTS_PER_NODE: u16 = 3;

/// Ports for the Redis protocol are looked for so far above the others, so that these stay in their order.
const RESP_OFFSET: u16 = 1000;
/// What a node's name is followed by where its port for the Redis protocol stands.
const RESP_SUFFIX: &str = "/resp";

/// The ports given so far, by `NAMESPACE/NODE`: the first of the node's three. Where a node speaks the Redis protocol,
/// `NAMESPACE/NODE/resp` has the port of that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Ports(BTreeMap<String, u16>);

/// All ports from the base on are taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no three free ports in a row from {base} on for {node}; choose another --base-port")]
pub(super) struct NoPorts {
    node: String,
    base: u16,
}

impl Ports {
    /// The ports of a node that no layout names yet: those it has, unless `is_free` says that someone else took one.
    ///
    /// # Errors
    /// [`NoPorts`] when the search comes to the end.
    pub(super) fn choose(&mut self, node: &str, base: u16, is_free: impl Fn(u16) -> bool) -> Result<PortsView, NoPorts> {
        if let Some(&first) = self.0.get(node)
            && trio_is(first, &is_free)
        {
            return Ok(view(first));
        }
        // The node's own old ports count as given, so that a taken trio is not tried again at once.
        let given = self.given();
        let usable = |port: u16| !given.contains(&port) && is_free(port);
        let first = (base..=u16::MAX - (PORTS_PER_NODE - 1))
            .step_by(usize::from(PORTS_PER_NODE))
            .find(|&first| trio_is(first, usable))
            .ok_or_else(|| NoPorts { node: node.to_owned(), base })?;
        self.0.insert(node.to_owned(), first);
        Ok(view(first))
    }

    /// The port for the Redis protocol of a node that has none in any layout yet: the one it has, unless `is_free` says
    /// that someone else took it.
    ///
    /// # Errors
    /// [`NoPorts`] when the search comes to the end.
    pub(super) fn choose_resp(&mut self, node: &str, base: u16, is_free: impl Fn(u16) -> bool) -> Result<u16, NoPorts> {
        let key = format!("{node}{RESP_SUFFIX}");
        if let Some(&port) = self.0.get(&key)
            && is_free(port)
        {
            return Ok(port);
        }
        let given = self.given();
        let port = (base.saturating_add(RESP_OFFSET)..=u16::MAX)
            .find(|port| !given.contains(port) && is_free(*port))
            .ok_or_else(|| NoPorts { node: node.to_owned(), base })?;
        self.0.insert(key, port);
        Ok(port)
    }

    /// Keeps the ports by which a layout names `node` from being given to others.
    pub(super) fn reserve(&mut self, node: &str, ports: PortsView) {
        self.0.insert(node.to_owned(), ports.http);
        if let Some(port) = ports.resp {
            self.0.insert(format!("{node}{RESP_SUFFIX}"), port);
        }
    }

    fn given(&self) -> BTreeSet<u16> {
        let width = |key: &str| if key.ends_with(RESP_SUFFIX) { 1 } else { PORTS_PER_NODE };
        self.0.iter().flat_map(|(key, &first)| first..first.saturating_add(width(key))).collect()
    }
}

fn trio_is(first: u16, wanted: impl Fn(u16) -> bool) -> bool {
    (first..first.saturating_add(PORTS_PER_NODE)).all(wanted)
}

fn view(first: u16) -> PortsView {
    PortsView { http: first, admin: first.saturating_add(1), peer: first.saturating_add(2), resp: None }
}

/// Whether nobody listens on this loopback port. Asked by binding it: what follows may still find it taken.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The first of a node's ports that someone else has.
pub(super) fn taken(ports: PortsView) -> Option<u16> {
    [ports.http, ports.admin, ports.peer].into_iter().chain(ports.resp).find(|port| !is_free(*port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(ports: &mut Ports, node: &str, taken: &[u16]) -> u16 {
        ports.choose(node, 18080, |port| !taken.contains(&port)).unwrap().http
    }

    #[test]
    fn nodes_get_three_ports_each_and_keep_them() {
        let mut ports = Ports::default();
        assert_eq!(chosen(&mut ports, "default/a-0-0", &[]), 18080);
        assert_eq!(chosen(&mut ports, "default/a-0-1", &[]), 18083);
        assert_eq!(chosen(&mut ports, "default/a-0-0", &[]), 18080);
        let kept = serde_json::to_string(&ports).unwrap();
        let mut read: Ports = serde_json::from_str(&kept).unwrap();
        assert_eq!(chosen(&mut read, "default/a-0-1", &[]), 18083);
        assert_eq!(chosen(&mut read, "other/a-0-1", &[]), 18086);
    }

    #[test]
    fn a_strangers_port_is_passed_over_and_so_is_another_nodes() {
        let mut ports = Ports::default();
        ports.reserve("default/b-0-0", view(18086));
        assert_eq!(chosen(&mut ports, "default/a-0-0", &[18081]), 18083);
        assert_eq!(chosen(&mut ports, "default/a-0-0", &[18085]), 18080);
        assert_eq!(chosen(&mut ports, "default/a-0-0", &[18080, 18083]), 18089);
    }

    #[test]
    fn a_port_for_the_redis_protocol_is_the_nodes_own_and_stays() {
        let mut ports = Ports::default();
        let resp = |ports: &mut Ports, node: &str, taken: u16| ports.choose_resp(node, 18080, |port| port != taken).unwrap();
        assert_eq!(chosen(&mut ports, "default/a-0-0", &[]), 18080);
        assert_eq!(resp(&mut ports, "default/a-0-0", 0), 19080);
        assert_eq!(resp(&mut ports, "default/a-0-1", 0), 19081);
        assert_eq!(resp(&mut ports, "default/a-0-0", 0), 19080);
        assert_eq!(resp(&mut ports, "default/a-0-0", 19080), 19082);
        assert_eq!(ports.choose("default/b-0-0", 19079, |_| true).unwrap().http, 19085, "19081 and 19082 are given");
        ports.reserve("default/c-0-0", PortsView { resp: Some(19083), ..view(20000) });
        assert_eq!(resp(&mut ports, "default/d-0-0", 0), 19080, "the first one is nobody's any more");
        assert_eq!(resp(&mut ports, "default/e-0-0", 0), 19084);
    }

    #[test]
    fn the_end_of_the_ports_is_an_error_that_names_the_flag() {
        let error = Ports::default().choose("default/a-0-0", 65530, |_| false).unwrap_err();
        assert_eq!(error.to_string(), "no three free ports in a row from 65530 on for default/a-0-0; choose another --base-port");
    }

    #[test]
    fn a_bound_port_is_taken() {
        let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = stranger.local_addr().unwrap().port();
        assert!(!is_free(port));
        assert_eq!(taken(PortsView { http: port, admin: port, peer: port, resp: None }), Some(port));
        assert_eq!(taken(PortsView { resp: Some(port), ..PortsView::default() }), Some(port));
    }
}
