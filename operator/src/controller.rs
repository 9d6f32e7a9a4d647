//! The pipeline that brings a cluster to what its object says.

pub mod build;
pub mod plan;
pub mod validate;
