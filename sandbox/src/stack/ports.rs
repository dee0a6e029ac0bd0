//! Loopback ports.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

/// A Kafka node's controller listens this far above its clients' port (see `deploy/kafka/kafka`).
pub const CONTROLLER_OFFSET: u16 = 1000;

/// Below Linux's ephemeral range (32768 and up), also with [`CONTROLLER_OFFSET`] added: no outgoing connection takes a port
/// between the moment it is found free and the moment a server listens on it.
const RANGE: Range<u16> = 20_000..31_000;

/// How often a random port may turn out to be taken.
const ATTEMPTS: u32 = 2_000;

/// Ports given out by this process: two tests that run side by side must not be given the same one before either listens.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Finds `count` distinct loopback ports on which nobody listens, nor on the port [`CONTROLLER_OFFSET`] above each.
///
/// # Errors
///
/// When there are not as many.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = Vec::with_capacity(count);
    for _ in 0..ATTEMPTS {
        if found.len() == count {
            break;
        }
        let port = fastrand::u16(RANGE);
        let pair = [port, port + CONTROLLER_OFFSET];
        if pair.iter().all(|port| !given.contains(port) && is_free(*port)) {
            given.extend(pair);
            found.push(port);
        }
    }
    ensure!(found.len() == count, "found only {} of {count} free ports in {RANGE:?}", found.len());
    Ok(found)
}

/// Finds one free port.
///
/// # Errors
///
/// When there is none.
pub fn free_port() -> Result<u16> {
    free_ports(1)?.pop().context("no free port")
}

/// Whether nobody listens on a loopback port.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Refuses a port that is taken: a server of somebody else's would answer in place of ours.
///
/// # Errors
///
/// When somebody listens on it.
pub fn ensure_free(port: u16, for_what: &str) -> Result<()> {
    ensure!(is_free(port), "port {port} for {for_what} is taken by another process (see: ss -ltnp sport = :{port})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_their_controllers_are_all_distinct() {
        let ports = free_ports(50).unwrap();
        let all: BTreeSet<u16> = ports.iter().flat_map(|port| [*port, port + CONTROLLER_OFFSET]).collect();
        assert_eq!(all.len(), 100);
    }

    #[test]
    fn a_taken_port_is_refused_by_name() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = ensure_free(port, "PostgreSQL").unwrap_err().to_string();
        assert!(error.contains(&format!("port {port} for PostgreSQL is taken")), "{error}");
    }
}
