//! The addresses that take webhooks.

use std::{borrow::Cow, collections::HashMap, net::IpAddr, sync::Arc};

use chrono::{DateTime, Utc};

use crate::{
    auth::{Authentication, token::Client},
    config::{AddressRanges, EndpointConfig, EndpointMode, IngestConfig, TOKEN_PATHS, without_slash},
    http::address,
    metrics::EndpointMetrics,
};

/// One of them, ready to work.
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) mode: EndpointMode,
    pub(crate) authentication: Authentication,
    pub(crate) metrics: Arc<EndpointMetrics>,
    /// From where its requests are taken; from everywhere when empty.
    allow: Arc<AddressRanges>,
}

impl Endpoint {
    fn new(config: &EndpointConfig, clients: Vec<Arc<Client>>, listener: &AddressRanges, now: DateTime<Utc>) -> Self {
        let authentication = Authentication::new(config, clients);
        let endpoint = config.name.as_str();
        if config.insecure {
            let path = config.path.as_str();
            tracing::warn!(endpoint, path, "endpoint {endpoint} is insecure: it takes whatever anyone sends");
        }
        if !config.secrets.is_empty() && config.tolerance.is_zero() {
            tracing::warn!(endpoint, "endpoint {endpoint} does not check how old signatures are (tolerance is 0)");
        }
        if authentication.lacks_secret(now) {
            tracing::warn!(endpoint, "endpoint {endpoint} has no secret that counts now: it refuses everything");
        }
        let secrets = config.secrets.iter().map(|secret| (secret.id.as_str(), secret.expires_at));
        let metrics = Arc::new(EndpointMetrics::new(endpoint, config.insecure, secrets));
        let allow = Arc::new(config.allow.as_ref().unwrap_or(listener).clone());
        Self { name: config.name.clone(), mode: config.mode, authentication, metrics, allow }
    }

    /// Whether requests of a client are taken.
    pub(crate) fn allows(&self, client: &address::Client) -> bool {
        allows(&self.allow, client)
    }
}

/// Whether a client is on a list. A proxy that names nobody is not: anyone may be behind it.
fn allows(list: &AddressRanges, client: &address::Client) -> bool {
    list.is_empty() || (client.is_named && list.contains(client.address))
}

/// All of them, and what else changes with the configuration.
pub(crate) struct Endpoints {
    by_path: HashMap<String, Arc<Endpoint>>,
    /// The OAuth clients of all endpoints.
    clients: Vec<Arc<Client>>,
    instance_url: Option<String>,
    trusted_proxies: AddressRanges,
    /// The list of each endpoint that has clients.
    allow_tokens: Vec<Arc<AddressRanges>>,
}

impl Endpoints {
    pub(crate) fn new(config: &IngestConfig, now: DateTime<Utc>) -> Self {
        let (mut by_path, mut all, mut allow_tokens) = (HashMap::new(), Vec::new(), Vec::new());
        for endpoint in &config.endpoints {
            let client = |client| Arc::new(Client::new(&endpoint.name, client, &config.oauth));
            let clients: Vec<_> = endpoint.oauth.iter().map(client).collect();
            all.extend(clients.iter().map(Arc::clone));
            let path = without_slash(&endpoint.path).to_owned();
            let has_clients = !clients.is_empty();
            let endpoint = Arc::new(Endpoint::new(endpoint, clients, &config.allow, now));
            if has_clients {
                allow_tokens.push(Arc::clone(&endpoint.allow));
            }
            by_path.insert(path, endpoint);
        }
        Self {
            by_path,
            clients: all,
            instance_url: config.oauth.instance_url.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            allow_tokens,
        }
    }

    /// Whom `X-Forwarded-For` is believed.
    pub(crate) fn trusted_proxies(&self) -> &AddressRanges {
        &self.trusted_proxies
    }

    /// Whether some endpoint takes requests from an address.
    pub(crate) fn admits(&self, address: IpAddr) -> bool {
        let client = address::Client { address, is_named: true };
        self.iter().any(|endpoint| endpoint.allows(&client))
    }

    /// Whether tokens are given to a client: to whom any endpoint with OAuth clients takes requests from.
    pub(crate) fn allows_token(&self, client: &address::Client) -> bool {
        self.allow_tokens.iter().any(|list| allows(list, client))
    }

    /// Whether tokens are fetched at this path.
    pub(crate) fn is_token_path(&self, path: &str) -> bool {
        !self.clients.is_empty() && TOKEN_PATHS.contains(&without_slash(&single_slashes(path)))
    }

    /// The OAuth clients of all endpoints.
    pub(crate) fn clients(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().map(AsRef::as_ref)
    }

    /// What clients are told to call this host.
    pub(crate) fn instance_url(&self) -> Option<&str> {
        self.instance_url.as_deref()
    }

    /// The endpoint of a path, with or without a slash at its end, and with slashes doubled, as some proxies join paths:
    /// Digital River counts a redirect as a failure.
    pub(crate) fn find(&self, path: &str) -> Option<Arc<Endpoint>> {
        self.by_path.get(without_slash(&single_slashes(path))).map(Arc::clone)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.by_path.values().map(AsRef::as_ref)
    }

    /// Tells the metrics which endpoints and secrets there are no more.
    pub(crate) fn retire(&self, successor: &Self) {
        for endpoint in self.iter() {
            let same = successor.iter().find(|other| other.name == endpoint.name);
            if same.is_none() {
                endpoint.metrics.retire();
            }
            let stays = |id: &str| same.is_some_and(|same| same.authentication.secrets().any(|other| other.id == id));
            for (index, secret) in endpoint.authentication.secrets().enumerate() {
                if !stays(secret.id) {
                    endpoint.metrics.retire_secret(index);
                }
            }
        }
    }
}

/// The path with each row of slashes as one.
fn single_slashes(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return path.into();
    }
    let mut single = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !single.ends_with('/') {
            single.push(c);
        }
    }
    single.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_however_many_slashes_it_has() {
        let config: IngestConfig = serde_json::from_value(serde_json::json!({
            "endpoints": [{ "name": "main", "path": "/webhooks/dr/", "insecure": true }],
        }))
        .unwrap();
        let endpoints = Endpoints::new(&config, DateTime::UNIX_EPOCH);
        for path in ["/webhooks/dr", "/webhooks/dr/", "//webhooks/dr", "///webhooks//dr///"] {
            assert!(endpoints.find(path).is_some(), "{path}");
        }
        for path in ["", "/", "//", "/webhooks", "/webhooksdr", "/webhooks/dr/x"] {
            assert!(endpoints.find(path).is_none(), "{path}");
        }
    }
}
