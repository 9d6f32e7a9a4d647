//! Who reaches which port: the peer port is for the cluster's own Pods, the others are for everyone.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::validate::ClusterSpec;

use super::metadata::{owned, selector};
use super::names::Names;
use super::template::{ADMIN, PEER, Port, client_ports};

pub(super) fn network_policy(spec: &ClusterSpec) -> NetworkPolicy {
    let own_pods = NetworkPolicyPeer { pod_selector: Some(selector(&spec.identity)), ..NetworkPolicyPeer::default() };
    NetworkPolicy {
        metadata: owned(spec, Names::from(&spec.identity).clients()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(&spec.identity)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    from: None,
                    ports: Some(client_ports(spec).chain([ADMIN]).map(policy_port).collect()),
                },
                NetworkPolicyIngressRule { from: Some(vec![own_pods]), ports: Some(vec![policy_port(PEER)]) },
            ]),
            ..NetworkPolicySpec::default()
        }),
    }
}

fn policy_port(port: Port) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(port.number)),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    }
}
