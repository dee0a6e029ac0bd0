//! The addresses that take webhooks.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};

use crate::{
    authentication::Authentication,
    config::{EndpointConfig, EndpointMode, IngestConfig, without_slash},
    metrics::EndpointMetrics,
};

/// One of them, ready to work.
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) mode: EndpointMode,
    pub(crate) authentication: Authentication,
    pub(crate) metrics: Arc<EndpointMetrics>,
}

impl Endpoint {
    fn new(config: &EndpointConfig, now: DateTime<Utc>) -> Self {
        let authentication = Authentication::new(config);
        let endpoint = config.name.as_str();
        match &authentication {
            Authentication::Nothing => {
                tracing::warn!(
                    endpoint,
                    path = config.path,
                    "endpoint {endpoint} is insecure: it takes whatever anyone sends"
                );
            }
            Authentication::Signature(verifier) if !verifier.has_active_secret(now) => {
                tracing::warn!(endpoint, "endpoint {endpoint} has no secret that counts now: it refuses everything");
            }
            Authentication::Signature(_) => {}
        }
        let secrets = config.secrets.iter().map(|secret| secret.id.as_str());
        let metrics = Arc::new(EndpointMetrics::new(endpoint, config.insecure, secrets));
        Self { name: config.name.clone(), mode: config.mode, authentication, metrics }
    }
}

/// All of them, by path.
pub(crate) struct Endpoints(HashMap<String, Arc<Endpoint>>);

impl Endpoints {
    pub(crate) fn new(config: &IngestConfig, now: DateTime<Utc>) -> Self {
        let endpoint =
            |config: &EndpointConfig| (without_slash(&config.path).to_owned(), Arc::new(Endpoint::new(config, now)));
        Self(config.endpoints.iter().map(endpoint).collect())
    }

    /// The endpoint of a path, with or without a slash at its end: Digital River counts a redirect as a failure.
    pub(crate) fn find(&self, path: &str) -> Option<Arc<Endpoint>> {
        self.0.get(without_slash(path)).map(Arc::clone)
    }

    /// Tells the metrics which endpoints there are no more.
    pub(crate) fn retire(&self, successor: &Self) {
        let stays = |name: &str| successor.0.values().any(|endpoint| endpoint.name == name);
        for endpoint in self.0.values().filter(|endpoint| !stays(&endpoint.name)) {
            endpoint.metrics.retire();
        }
    }
}
