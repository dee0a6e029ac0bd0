//! What all requests share: configuration, producer, limits.

use std::{net::IpAddr, sync::Arc, time::Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use riverlock_runtime::Context;
use riverlock_schemas::topics::Topics;

use crate::{
    auth::guesses::Guesses,
    config::LimitsConfig,
    endpoints::Endpoints,
    http::{
        known::KnownAddresses,
        server::{AcceptPolicy, Peer, PeerKind},
        slots::Rank,
        tls::Tls,
    },
    kafka::producer::Producer,
    metrics::EndpointMetrics,
    refusal::Refusal,
    webhook::{
        floods::{Floods, Kind},
        quarantine::Quarantine,
        reading::{BodyReads, Origin},
    },
};

/// Longest event id in a log line, in characters.
pub(crate) const SHOWN_ID_CHARS_MAX: usize = 80;

/// What every request needs.
pub(crate) struct Ingest {
    /// Replaced as a whole; a request keeps the endpoint that it came to.
    pub(crate) endpoints: ArcSwap<Endpoints>,
    /// Counts requests to no endpoint.
    pub(crate) unmatched: Arc<EndpointMetrics>,
    pub(crate) limits: LimitsConfig,
    pub(crate) topics: Topics,
    pub(crate) producer: Arc<Producer>,
    pub(crate) context: Context,
    /// Empty without TLS; replaced when the certificate is.
    pub(crate) tls: Arc<ArcSwapOption<Tls>>,
    /// Failed attempts to get a token.
    pub(crate) token_guesses: Guesses,
    pub(crate) quarantine: Arc<Quarantine>,
    /// What may be logged about what anyone sends.
    pub(crate) floods: Floods,
    /// Requests whose body is still arriving.
    pub(crate) reading: BodyReads,
    pub(crate) known: KnownAddresses,
}

impl Ingest {
    /// What the sender of a request counts as where slots are short.
    pub(crate) fn standing(&self, origin: &Origin) -> (Option<u64>, Rank) {
        let standing = if origin.over_authenticated_connection {
            Rank::Authenticated
        } else {
            self.known.standing(origin.client.address, Instant::now())
        };
        (origin.network(), standing)
    }

    /// Notes that a request was authentic: the next ones of its sender pass ahead where slots are short.
    pub(crate) fn note_authentic(&self, origin: &Origin, peer: Option<&Peer>) {
        self.known.note(origin.client.address, Instant::now());
        if let Some(peer) = peer {
            peer.authenticate();
        }
    }

    /// Logs why a request was not answered 202.
    pub(crate) fn log_refusal(&self, endpoint: &str, address: impl std::fmt::Display, refusal: &Refusal) {
        let outcome = refusal.outcome();
        self.floods.warn(Kind::Request(outcome), || {
            let reason = refusal.text();
            tracing::warn!(endpoint, %address, outcome = outcome.as_str(), "a request to {endpoint} was refused: {reason}");
        });
    }
}

impl AcceptPolicy for Ingest {
    fn peer_kind(&self, address: IpAddr) -> PeerKind {
        let endpoints = self.endpoints.load();
        if endpoints.trusted_proxies().contains(address) {
            return PeerKind::Proxy;
        }
        if endpoints.admits(address) {
            return PeerKind::Client(self.known.standing(address, Instant::now()));
        }
        self.floods.warn(Kind::Connection, || {
            tracing::warn!(%address, "no endpoint takes requests from {address}: its connection is closed");
        });
        PeerKind::NotAllowed
    }

    fn accept_failed(&self, error: &std::io::Error) {
        self.floods.warn(Kind::Connection, || {
            tracing::warn!(%error, "a connection could not be accepted: {error}");
        });
    }
}
