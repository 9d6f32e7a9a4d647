//! Free ports on loopback.

use std::net::{Ipv4Addr, TcpListener};

/// A port that is free now. Whoever takes it should do so soon.
///
/// # Errors
/// When the machine has none left.
pub fn free() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
