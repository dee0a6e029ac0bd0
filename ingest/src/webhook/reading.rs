//! Requests whose body is still arriving. They are not authenticated yet, so they only occupy a slot and bytes.
//!
//! Most bodies arrive together with their head. Only a request that is still incomplete after [`GRACE`] takes a slot, which
//! needs a lock.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::HeaderMap;
use metrics::Counter;

use crate::{
    config::LimitsConfig,
    endpoints::Endpoints,
    http::{
        address::{self, Client},
        server::Peer,
        slots::{Rank, Slot, Slots},
    },
    refusal::Rejection,
};

/// How long a body may take before its request needs a slot.
pub(crate) const GRACE: Duration = Duration::from_millis(2);

/// The sender of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) client: Client,
    /// An authenticated request was received over the same connection, or its peer is a trusted proxy.
    pub(crate) over_authenticated_connection: bool,
}

impl Origin {
    pub(crate) fn of(peer: Option<&Peer>, headers: &HeaderMap, endpoints: &Endpoints) -> Self {
        let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address);
        let client = address::client(address, headers, endpoints.trusted_proxies());
        // A proxy sends the requests of all its clients over one connection.
        let is_direct = client.is_named && client.address == address;
        let over_authenticated_connection = is_direct && peer.is_some_and(Peer::is_authenticated);
        Self { client, over_authenticated_connection }
    }

    /// The key of limits per address; `None` for a proxy that does not name its clients, which forwards for many.
    pub(crate) fn network(&self) -> Option<u64> {
        self.client.is_named.then(|| address::network(self.client.address))
    }
}

/// Slots and bytes of all arriving requests.
pub(crate) struct BodyReads {
    slots: Arc<Slots>,
    bytes_max: usize,
}

impl BodyReads {
    pub(crate) fn new(limits: &LimitsConfig, evicted: Counter) -> Self {
        Self { slots: Slots::new(limits.reading(), evicted), bytes_max: limits.reading_bytes_max }
    }

    /// Registers a request whose body begins to arrive.
    pub(crate) fn begin(&self) -> ArrivingRequest<'_> {
        ArrivingRequest { reading: self, bytes: AtomicUsize::new(0), slot: OnceLock::new() }
    }
}

/// An arriving request, with the resources that it occupies.
pub(crate) struct ArrivingRequest<'a> {
    reading: &'a BodyReads,
    /// Bytes that arrived before it had a slot.
    bytes: AtomicUsize,
    slot: OnceLock<Slot>,
}

impl ArrivingRequest<'_> {
    /// Reserves bytes for a further part of the body.
    pub(crate) fn add_bytes(&self, count: usize) -> Result<(), Rejection> {
        let BodyReads { slots, bytes_max } = self.reading;
        slots.add_bytes(count, *bytes_max).map_err(|_| Rejection::Busy)?;
        match self.slot.get() {
            Some(slot) => slot.note_bytes(count),
            None => drop(self.bytes.fetch_add(count, Ordering::Relaxed)),
        }
        Ok(())
    }

    /// Takes a slot, because the body did not arrive together with the head.
    pub(crate) fn take_slot(&self, network: Option<u64>, rank: Rank) -> Result<&Slot, Rejection> {
        let slot = self.reading.slots.enter(network, rank).map_err(|_| Rejection::Busy)?;
        slot.note_bytes(self.bytes.swap(0, Ordering::Relaxed));
        Ok(self.slot.get_or_init(|| slot))
    }
}

impl Drop for ArrivingRequest<'_> {
    fn drop(&mut self) {
        // Bytes that were noted for the slot are released with it.
        self.reading.slots.remove_bytes(self.bytes.swap(0, Ordering::Relaxed));
    }
}
