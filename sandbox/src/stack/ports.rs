//! Loopback ports.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

/// Distance of a Kafka node's controller port above its client port (see `deploy/kafka/kafka`).
pub const CONTROLLER_OFFSET: u16 = 1000;

/// Ports per block. Every process takes separate blocks, so that concurrent test programs never get the same port. A
/// block's first port is its guard: the process that listens on it owns the block. All ports are below Linux's ephemeral
/// range (32768 and up), also with [`CONTROLLER_OFFSET`] added: no outgoing connection takes a port before a server listens
/// on it.
const BLOCK_PORTS: u16 = 100;
/// Number of blocks; their ports do not overlap with controller ports of others: ten in every second thousand.
const BLOCKS: Range<u16> = 0..60;
/// The first port of the first block.
const FIRST_PORT: u16 = 20_000;

/// This process's blocks. They are held until the process ends, and every port is handed out only once: concurrent tests
/// must not get the same one before either listens.
static TAKEN: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// A block of this process.
struct Block {
    /// The listener on the block's first port, which keeps other processes from taking the block.
    _guard: TcpListener,
    /// The ports that were not handed out yet.
    left: Range<u16>,
}

/// The guard port of a block.
const fn guard_port(block: u16) -> u16 {
    FIRST_PORT + block / 10 * 2 * CONTROLLER_OFFSET + block % 10 * BLOCK_PORTS
}

/// Takes a free block.
fn take_block() -> Result<Block> {
    let mut blocks: Vec<u16> = BLOCKS.collect();
    fastrand::shuffle(&mut blocks);
    let take = |block: u16| {
        let first = guard_port(block);
        let guard = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).ok()?;
        Some(Block { _guard: guard, left: first + 1..first + BLOCK_PORTS })
    };
    blocks.into_iter().find_map(take).context("every block of ports is taken")
}

/// Finds `count` distinct free loopback ports whose controller ports ([`CONTROLLER_OFFSET`] above) are free too.
///
/// # Errors
///
/// If there are too few.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = Vec::with_capacity(count);
    while found.len() < count {
        match taken.last_mut().and_then(|block| block.left.next()) {
            Some(port) if is_free(port) && is_free(port + CONTROLLER_OFFSET) => found.push(port),
            Some(_) => {}
            None => taken.push(take_block().with_context(|| format!("found only {} of {count} ports", found.len()))?),
        }
    }
    Ok(found)
}

/// Finds one free port.
///
/// # Errors
///
/// If there is none.
pub fn free_port() -> Result<u16> {
    free_ports(1)?.pop().context("no free port")
}

/// Whether a loopback port is free.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Checks that a port is free: another program's server would answer instead of the started one.
///
/// # Errors
///
/// If another process listens on it.
pub fn ensure_free(port: u16, for_what: &str) -> Result<()> {
    ensure!(is_free(port), "port {port} for {for_what} is taken by another process (see: ss -ltnp sport = :{port})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_and_their_controllers_are_all_distinct() {
        // More than one block.
        let ports = free_ports(150).unwrap();
        let all: BTreeSet<u16> = ports.iter().flat_map(|port| [*port, port + CONTROLLER_OFFSET]).collect();
        assert_eq!(all.len(), 300);
    }

    #[test]
    fn a_taken_port_is_rejected_by_name() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = ensure_free(port, "PostgreSQL").unwrap_err().to_string();
        assert!(error.contains(&format!("port {port} for PostgreSQL is taken")), "{error}");
    }
}
