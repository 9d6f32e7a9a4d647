//! Starts real clusters for the tests: counter nodes as local processes, and a Kubernetes control plane with a stand-in
//! kubelet that runs Pods as processes.

pub mod cluster;
pub mod control_plane;
pub mod count;
pub mod exact;
pub mod http;
pub mod kubelet;
pub mod live;
pub mod local;
pub mod node;
pub mod ports;
pub mod power;
pub mod process;
pub mod programs;
pub mod redis;
pub mod relay;
pub mod session;
pub mod site;
pub mod sockets;
pub mod wait;
