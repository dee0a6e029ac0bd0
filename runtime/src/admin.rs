//! The admin listener: `/metrics`, `/livez`, `/readyz` and `/startupz`. It must not be reachable from the internet.

use std::net::SocketAddr;

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::{Context, Health, health::Finding, telemetry};

/// Metrics and health of the process.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address of `/metrics`, `/livez`, `/readyz` and `/startupz`. It has no authentication: bind it to a private interface.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9464)) }
    }
}

#[derive(Serialize)]
struct Answer {
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    findings: Vec<String>,
}

fn answer(findings: &[Finding]) -> (StatusCode, Json<Answer>) {
    let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
    if findings.is_empty() {
        (StatusCode::OK, Json(Answer { status: "ok", findings }))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(Answer { status: "failing", findings }))
    }
}

/// The components that are not ready, including those without a recent heartbeat, whatever they last reported.
fn unready(health: &Health) -> Vec<Finding> {
    [health.not_ready(), health.stuck()].concat()
}

/// The routes of the admin listener.
pub fn router(metrics: PrometheusHandle, health: Health) -> Router {
    let page = {
        let health = health.clone();
        move || async move {
            health.publish();
            metrics.render()
        }
    };
    Router::new()
        .route("/livez", get(|State(health): State<Health>| async move { answer(&health.stuck()) }))
        .route("/readyz", get(|State(health): State<Health>| async move { answer(&unready(&health)) }))
        .route("/startupz", get(|State(health): State<Health>| async move { answer(&health.not_started()) }))
        .with_state(health)
        .route("/metrics", get(page))
}

/// Serves the routes until the process ends, so that it still reports its state while it shuts down.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn start(config: &AdminConfig, metrics: PrometheusHandle, context: &Context) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        std::io::Error::new(error.kind(), format!("cannot listen on the admin address {}: {error}", config.listen))
    })?;
    let address = listener.local_addr()?;
    let router = router(metrics.clone(), context.health.clone());
    let hard = context.shutdown.hard().clone();
    #[expect(clippy::disallowed_methods, reason = "it serves until all tracked tasks have ended")]
    tokio::spawn(async move {
        tokio::select! {
            result = axum::serve(listener, router) => drop(result),
            () = telemetry::upkeep(metrics) => {}
            () = hard.cancelled() => {}
        }
    });
    Ok(address)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_component_that_is_ready_and_stuck_is_not_ready() {
        let health = Health::default();
        let component = health.register_beating("relay", Duration::ZERO);
        component.ready();
        std::thread::sleep(Duration::from_millis(1));
        assert!(health.not_ready().is_empty());
        assert_eq!(unready(&health)[0].component, "relay");
        assert_eq!(answer(&unready(&health)).0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
