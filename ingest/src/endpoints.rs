//! The addresses that take webhooks.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};

use crate::{
    address,
    authentication::Authentication,
    config::{AddressRanges, EndpointConfig, EndpointMode, IngestConfig, TOKEN_PATHS, without_slash},
    metrics::EndpointMetrics,
    server::Peer,
    token::Client,
};

/// One of them, ready to work.
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) mode: EndpointMode,
    pub(crate) authentication: Authentication,
    pub(crate) metrics: Arc<EndpointMetrics>,
    /// From where its requests are taken; from everywhere when empty.
    allow: AddressRanges,
}

impl Endpoint {
    fn new(config: &EndpointConfig, clients: Vec<Arc<Client>>, listener: &AddressRanges, now: DateTime<Utc>) -> Self {
        let authentication = Authentication::new(config, clients);
        let endpoint = config.name.as_str();
        if config.insecure {
            let path = config.path.as_str();
            tracing::warn!(endpoint, path, "endpoint {endpoint} is insecure: it takes whatever anyone sends");
        }
        if authentication.lacks_secret(now) {
            tracing::warn!(endpoint, "endpoint {endpoint} has no secret that counts now: it refuses everything");
        }
        let secrets = config.secrets.iter().map(|secret| secret.id.as_str());
        let metrics = Arc::new(EndpointMetrics::new(endpoint, config.insecure, secrets));
        let allow = config.allow.as_ref().unwrap_or(listener).clone();
        Self { name: config.name.clone(), mode: config.mode, authentication, metrics, allow }
    }

    /// Whether requests from there are taken.
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        self.allow.is_empty() || self.allow.contains(address)
    }
}

/// All of them, and what else changes with the configuration.
pub(crate) struct Endpoints {
    by_path: HashMap<String, Arc<Endpoint>>,
    /// The OAuth clients of all endpoints.
    clients: Vec<Arc<Client>>,
    instance_url: Option<String>,
    trusted_proxies: AddressRanges,
    allow: AddressRanges,
}

impl Endpoints {
    pub(crate) fn new(config: &IngestConfig, now: DateTime<Utc>) -> Self {
        let (mut by_path, mut all) = (HashMap::new(), Vec::new());
        for endpoint in &config.endpoints {
            let client = |client| Arc::new(Client::new(&endpoint.name, client, &config.oauth));
            let clients: Vec<_> = endpoint.oauth.iter().map(client).collect();
            all.extend(clients.iter().map(Arc::clone));
            let path = without_slash(&endpoint.path).to_owned();
            by_path.insert(path, Arc::new(Endpoint::new(endpoint, clients, &config.allow, now)));
        }
        Self {
            by_path,
            clients: all,
            instance_url: config.oauth.instance_url.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            allow: config.allow.clone(),
        }
    }

    /// Where a request comes from.
    pub(crate) fn address(&self, peer: Option<&Peer>, headers: &HeaderMap) -> IpAddr {
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.address);
        address::client(peer, headers, &self.trusted_proxies)
    }

    /// Whether tokens are given to there.
    pub(crate) fn allows_token(&self, address: IpAddr) -> bool {
        self.allow.is_empty() || self.allow.contains(address)
    }

    /// Whether tokens are fetched at this path.
    pub(crate) fn is_token_path(&self, path: &str) -> bool {
        !self.clients.is_empty() && TOKEN_PATHS.contains(&without_slash(path))
    }

    /// The OAuth clients of all endpoints.
    pub(crate) fn clients(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().map(AsRef::as_ref)
    }

    /// What clients are told to call this host.
    pub(crate) fn instance_url(&self) -> Option<&str> {
        self.instance_url.as_deref()
    }

    /// The endpoint of a path, with or without a slash at its end: Digital River counts a redirect as a failure.
    pub(crate) fn find(&self, path: &str) -> Option<Arc<Endpoint>> {
        self.by_path.get(without_slash(path)).map(Arc::clone)
    }

    /// Tells the metrics which endpoints there are no more.
    pub(crate) fn retire(&self, successor: &Self) {
        let stays = |name: &str| successor.by_path.values().any(|endpoint| endpoint.name == name);
        for endpoint in self.by_path.values().filter(|endpoint| !stays(&endpoint.name)) {
            endpoint.metrics.retire();
        }
    }
}
