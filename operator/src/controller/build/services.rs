//! The two Services: one gives nodes their DNS names, the other gives clients a ready node.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::validate::ClusterSpec;

use super::metadata::{owned, selected};
use super::names::Names;
use super::template::{Port, client_ports, ports};

/// Names for all nodes, ready or not: a node must find its siblings before any of them can become ready.
pub(super) fn nodes(spec: &ClusterSpec) -> Service {
    Service {
        metadata: owned(spec, Names::from(&spec.identity).nodes()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selected(&spec.identity)),
            ports: Some(ports(spec).map(service_port).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The way in for clients.
pub(super) fn clients(spec: &ClusterSpec) -> Service {
    let mut metadata = owned(spec, Names::from(&spec.identity).clients());
    let annotations = &spec.service.annotations;
    metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(spec.service.kind.as_str().to_owned()),
            selector: Some(selected(&spec.identity)),
            ports: Some(client_ports(spec).map(service_port).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn service_port(port: Port) -> ServicePort {
    ServicePort {
        name: Some(port.name.to_owned()),
        port: port.number,
        target_port: Some(IntOrString::String(port.name.to_owned())),
        protocol: Some("TCP".to_owned()),
        app_protocol: port.app_protocol.map(str::to_owned),
        ..ServicePort::default()
    }
}
