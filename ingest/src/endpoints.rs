//! Endpoints, built from the configuration.

use std::{borrow::Cow, collections::HashMap, net::IpAddr, sync::Arc};

use chrono::{DateTime, Utc};

use crate::{
    auth::{Authentication, token::Client},
    config::{AddressRanges, EndpointConfig, EndpointMode, IngestConfig, TOKEN_PATHS, without_slash},
    http::address,
    metrics::EndpointMetrics,
};

/// A path that accepts webhooks, with its authentication and metrics.
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) mode: EndpointMode,
    pub(crate) authentication: Authentication,
    pub(crate) metrics: Arc<EndpointMetrics>,
    /// Addresses from which requests are accepted; every address if empty.
    allow: Arc<AddressRanges>,
}

impl Endpoint {
    fn new(config: &EndpointConfig, clients: Vec<Arc<Client>>, listener: &AddressRanges, now: DateTime<Utc>) -> Self {
        let authentication = Authentication::new(config, clients);
        let endpoint = config.name.as_str();
        if config.insecure {
            let path = config.path.as_str();
            tracing::warn!(endpoint, path, "endpoint {endpoint} is insecure: it accepts unauthenticated events");
        }
        if !config.secrets.is_empty() && config.tolerance.is_zero() {
            tracing::warn!(endpoint, "endpoint {endpoint} does not check the age of signatures (tolerance is 0)");
        }
        if authentication.lacks_secret(now) {
            tracing::warn!(endpoint, "endpoint {endpoint} has no active secret: it rejects every event");
        }
        let secrets = config.secrets.iter().map(|secret| (secret.id.as_str(), secret.expires_at));
        let metrics = Arc::new(EndpointMetrics::new(endpoint, config.insecure, secrets));
        let allow = Arc::new(config.allow.as_ref().unwrap_or(listener).clone());
        Self { name: config.name.clone(), mode: config.mode, authentication, metrics, allow }
    }

    /// Whether requests from a client are accepted.
    pub(crate) fn allows(&self, client: &address::Client) -> bool {
        allows(&self.allow, client)
    }
}

/// Whether a list contains a client. It never contains a proxy that does not name its client, because that could be anyone.
fn allows(list: &AddressRanges, client: &address::Client) -> bool {
    list.is_empty() || (client.is_named && list.contains(client.address))
}

/// All endpoints, and the other settings that change with the configuration.
pub(crate) struct Endpoints {
    by_path: HashMap<String, Arc<Endpoint>>,
    /// The OAuth clients of all endpoints.
    clients: Vec<Arc<Client>>,
    instance_url: Option<String>,
    trusted_proxies: AddressRanges,
    /// The address list of each endpoint that has OAuth clients.
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

    /// Proxies whose `X-Forwarded-For` is used.
    pub(crate) fn trusted_proxies(&self) -> &AddressRanges {
        &self.trusted_proxies
    }

    /// Whether any endpoint accepts requests from an address.
    pub(crate) fn admits(&self, address: IpAddr) -> bool {
        let client = address::Client { address, is_named: true };
        self.iter().any(|endpoint| endpoint.allows(&client))
    }

    /// Whether a client may fetch tokens: if any endpoint with OAuth clients accepts its address.
    pub(crate) fn allows_token(&self, client: &address::Client) -> bool {
        self.allow_tokens.iter().any(|list| allows(list, client))
    }

    /// Whether this is a path of the token endpoint.
    pub(crate) fn is_token_path(&self, path: &str) -> bool {
        !self.clients.is_empty() && TOKEN_PATHS.contains(&without_slash(&single_slashes(path)))
    }

    /// The OAuth clients of all endpoints.
    pub(crate) fn clients(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().map(AsRef::as_ref)
    }

    /// The configured `instance_url` of token answers.
    pub(crate) fn instance_url(&self) -> Option<&str> {
        self.instance_url.as_deref()
    }

    /// The endpoint of a path. A trailing slash and doubled slashes, as some proxies join paths, are ignored, because
    /// Digital River treats a redirect as a failure.
    pub(crate) fn find(&self, path: &str) -> Option<Arc<Endpoint>> {
        self.by_path.get(without_slash(&single_slashes(path))).map(Arc::clone)
    }

    /// All endpoints.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.by_path.values().map(AsRef::as_ref)
    }

    /// Resets the metrics of endpoints and secrets that `successor` does not have.
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

/// The path with consecutive slashes replaced by one.
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
    fn a_path_is_found_regardless_of_extra_slashes() {
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
