//! The operator: brings clusters of counter nodes to what `DistributedCounter` objects say, and keeps them there.
//!
//! One pipeline, read downwards: what is gathered and what is wanted go into a pure plan, the plan into objects, and
//! these to the API server. [`controller`] runs it against Kubernetes; [`local`] runs the same plan over child
//! processes, from a file. What both share with the nodes is `counter-core`: the layout and the words of its protocols.

pub mod admin;
pub mod args;
pub mod client;
pub mod controller;
pub mod crd;
pub mod leader;
pub mod local;
pub mod nodes;
pub mod run;
pub mod telemetry;
