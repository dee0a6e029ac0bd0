//! State that all requests share: configuration, producer, limits.

use std::{net::IpAddr, sync::Arc, time::Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use riverlock_runtime::Context;
use riverlock_schemas::kafka::topics::Topics;

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
    refusal::Rejection,
    webhook::{
        floods::{Floods, Kind},
        quarantine::Quarantine,
        reading::{BodyReads, Origin},
    },
};

/// Longest event id in a log line, in characters.
pub(crate) const SHOWN_ID_CHARS_MAX: usize = 80;

/// State that all requests share.
pub(crate) struct Ingest {
    /// Replaced as a whole; a request keeps the endpoints that it started with.
    pub(crate) endpoints: ArcSwap<Endpoints>,
    /// Metrics of requests that match no endpoint.
    pub(crate) unmatched: Arc<EndpointMetrics>,
    pub(crate) limits: LimitsConfig,
    pub(crate) topics: Topics,
    pub(crate) producer: Arc<Producer>,
    pub(crate) context: Context,
    /// Empty without TLS; replaced when the certificate changes.
    pub(crate) tls: Arc<ArcSwapOption<Tls>>,
    /// Failed attempts to get a token.
    pub(crate) token_guesses: Guesses,
    pub(crate) quarantine: Arc<Quarantine>,
    /// Rate limits for log lines that unauthenticated clients can cause.
    pub(crate) floods: Floods,
    /// Requests whose body is still arriving.
    pub(crate) reading: BodyReads,
    pub(crate) known: KnownAddresses,
}

impl Ingest {
    /// The sender's network and rank, which decide about its slots.
    pub(crate) fn network_and_rank(&self, origin: &Origin) -> (Option<u64>, Rank) {
        let rank = if origin.over_authenticated_connection {
            Rank::Authenticated
        } else {
            self.known.rank(origin.client.address, Instant::now())
        };
        (origin.network(), rank)
    }

    /// Notes that a request was authenticated: further requests of its sender have priority when slots are scarce.
    pub(crate) fn note_authenticated(&self, origin: &Origin, peer: Option<&Peer>) {
        self.known.note(origin.client.address, Instant::now());
        if let Some(peer) = peer {
            peer.authenticate();
        }
    }

    /// Logs why a request was rejected.
    pub(crate) fn log_refusal(&self, endpoint: &str, address: impl std::fmt::Display, refusal: &Rejection) {
        let outcome = refusal.outcome();
        self.floods.warn(Kind::Request(outcome), || {
            let reason = refusal.text();
            tracing::warn!(endpoint, %address, outcome = outcome.as_str(), "a request to {endpoint} was rejected: {reason}");
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
            return PeerKind::Client(self.known.rank(address, Instant::now()));
        }
        self.floods.warn(Kind::Connection, || {
            tracing::warn!(%address, "no endpoint accepts requests from {address}: closing its connection");
        });
        PeerKind::NotAllowed
    }

    fn accept_failed(&self, error: &std::io::Error) {
        self.floods.warn(Kind::Connection, || {
            tracing::warn!(%error, "a connection could not be accepted: {error}");
        });
    }
}
