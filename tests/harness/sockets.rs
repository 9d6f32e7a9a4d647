//! What the kernel says of connections.

use std::net::SocketAddrV4;

use anyhow::Context as _;

/// The bytes that have arrived at connections of `address` (`host:port`) and that their process has not read.
///
/// # Errors
/// When the address is not one of IPv4, or the kernel does not tell.
pub fn unread(address: &str) -> anyhow::Result<u64> {
    let address: SocketAddrV4 = address.parse()?;
    // The kernel prints an address as the number that its bytes are on this machine.
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let mut bytes = 0;
    for line in table.lines().filter(|line| line.contains(&local)) {
        let mut fields = line.split_whitespace().skip(1);
        let (at, state, queues) = (fields.next(), fields.nth(1), fields.next());
        if at == Some(local.as_str()) && state == Some(ESTABLISHED) {
            let received = queues.and_then(|queues| queues.split_once(':')).context("no queues")?.1;
            bytes += u64::from_str_radix(received, 16)?;
        }
    }
    Ok(bytes)
}

const ESTABLISHED: &str = "01";
