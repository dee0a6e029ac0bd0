//! Monitoring of the expiry of signing secrets and of the listener's certificate while the process runs. Without it, the
//! expiry of an endpoint's last secret would only show as rejected events.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use crate::{
    endpoints::Endpoints,
    metrics::{PROCESS, seconds},
    webhook::state::Ingest,
};

/// Interval between checks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Checks for as long as the process runs, and also logs the numbers of suppressed log lines.
pub(crate) async fn watch(ingest: Arc<Ingest>) -> Infallible {
    let mut seen = ReportedExpiries::default();
    loop {
        let now = ingest.context.clock.now();
        seen.check_secrets(&ingest.endpoints.load(), now);
        seen.check_certificate(ingest.tls.load().as_ref().and_then(|tls| tls.expires_at), now);
        ingest.floods.log_suppressed();
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Result of the last check.
#[derive(Default)]
struct ReportedExpiries {
    /// Whether each secret, by endpoint and name, was active.
    secrets: HashMap<(String, String), bool>,
    /// The expiry that was already logged.
    expired_certificate: Option<DateTime<Utc>>,
}

impl ReportedExpiries {
    fn check_secrets(&mut self, endpoints: &Endpoints, now: DateTime<Utc>) {
        let mut secrets = HashMap::with_capacity(self.secrets.len());
        for endpoint in endpoints.iter() {
            let name = endpoint.name.as_str();
            for (index, secret) in endpoint.authentication.secrets().enumerate() {
                let key = (name.to_owned(), secret.id.to_owned());
                let (was_active, is_active) = (self.secrets.get(&key).copied(), secret.is_active(now));
                match (was_active, is_active) {
                    (Some(true), false) => {
                        endpoint.metrics.secret_expired(index);
                        tracing::warn!(
                            endpoint = name,
                            secret = secret.id,
                            "secret {} of endpoint {name} has expired",
                            secret.id
                        );
                    }
                    (Some(false), true) => {
                        tracing::info!(
                            endpoint = name,
                            secret = secret.id,
                            "secret {} of endpoint {name} is now active",
                            secret.id
                        );
                    }
                    _ => {}
                }
                secrets.insert(key, is_active);
            }
            let lacks_secret = endpoint.authentication.lacks_secret(now);
            endpoint.metrics.set_without_secret(lacks_secret);
            let had_secret = self.secrets.iter().any(|((endpoint, _), active)| endpoint == name && *active);
            if lacks_secret && had_secret {
                tracing::error!(
                    endpoint = name,
                    "endpoint {name} has no active secret any more: it rejects every event"
                );
            }
        }
        self.secrets = secrets;
    }

    fn check_certificate(&mut self, expires_at: Option<DateTime<Utc>>, now: DateTime<Utc>) {
        PROCESS.certificate_expiry.set(expires_at.map_or(0.0, seconds));
        let expired = expires_at.filter(|expires_at| *expires_at <= now);
        if let Some(expires_at) = expired
            && self.expired_certificate != expired
        {
            tracing::error!("the certificate of the listener expired at {expires_at}");
        }
        self.expired_certificate = expired;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_secret_is_reported_once() {
        let config =
            serde_json::from_value(serde_json::json!({ "endpoints": [{ "name": "expiry", "path": "/", "secrets": [
            { "id": "old", "secret": "0123456789abcdef", "expires_at": "2026-01-01T00:00:00Z" },
            { "id": "new", "secret": "fedcba9876543210", "not_before": "2026-01-02T00:00:00Z" },
        ] }] }))
            .unwrap();
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let endpoints = Endpoints::new(&config, at("2025-12-31T00:00:00Z"));
        let mut seen = ReportedExpiries::default();
        let active = |seen: &ReportedExpiries| {
            let mut active: Vec<&str> =
                seen.secrets.iter().filter(|(_, active)| **active).map(|((_, id), _)| id.as_str()).collect();
            active.sort_unstable();
            active.join(",")
        };
        for (time, expected) in [
            ("2025-12-31T23:59:59Z", "old"),
            ("2026-01-01T00:00:00Z", ""),
            ("2026-01-01T00:00:01Z", ""),
            ("2026-01-02T00:00:00Z", "new"),
        ] {
            seen.check_secrets(&endpoints, at(time));
            assert_eq!(active(&seen), expected, "{time}");
        }
        seen.check_certificate(Some(at("2026-01-01T00:00:00Z")), at("2026-01-01T00:00:00Z"));
        assert!(seen.expired_certificate.is_some());
        seen.check_certificate(Some(at("2027-01-01T00:00:00Z")), at("2026-01-01T00:00:00Z"));
        assert_eq!(seen.expired_certificate, None);
    }
}
