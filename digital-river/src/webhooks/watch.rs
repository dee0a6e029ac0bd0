//! Monitoring of the registrations. There is no other way to notice that Digital River disabled a webhook.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use riverlock_schemas::Mode;

use super::{
    apply::plan_for,
    config::WebhookConfig,
    plan::{Action, RegistrationState},
};
use crate::{
    client::{Client, Priority},
    failure::Error,
};

/// 1 for the state that a configured webhook is in, 0 for the others, by mode and webhook.
pub const STATE: &str = "riverlock_webhook_state";
/// Polls of the registrations, by mode and result.
pub const POLLS: &str = "riverlock_webhook_polls_total";
/// When the registrations of a mode were last polled successfully, in seconds since the epoch; 0 before the first time.
pub const LAST_SUCCESS: &str = "riverlock_webhook_poll_last_success_timestamp_seconds";

/// Describes the metrics and initializes them to 0.
pub fn describe(client: &Client, configured: &[WebhookConfig]) {
    describe_gauge!(STATE, "1 for the state that a configured webhook is in at Digital River, by mode and webhook");
    describe_counter!(POLLS, "Polls of the webhooks registered at Digital River, by mode and result");
    describe_gauge!(LAST_SUCCESS, "When the registered webhooks were last polled successfully, by mode");
    for mode in client.modes() {
        gauge!(LAST_SUCCESS, "mode" => mode.as_str()).set(0.0);
        for result in ["ok", "error"] {
            counter!(POLLS, "mode" => mode.as_str(), "result" => result).increment(0);
        }
    }
    forget(configured);
}

/// Resets all states, because another process monitors the registrations.
pub fn forget(configured: &[WebhookConfig]) {
    for webhook in configured {
        show(webhook.mode, &webhook.name, None);
    }
}

/// Polls the registrations of a mode once, and publishes the state of every configured webhook.
///
/// # Errors
/// When the list cannot be read. The states are not changed.
pub async fn poll(
    client: &Client,
    mode: Mode,
    configured: &[WebhookConfig],
    now_seconds: i64,
) -> Result<Vec<(String, RegistrationState)>, Error> {
    let result = plan_for(client, mode, configured, Priority::Background).await;
    let label = if result.is_ok() { "ok" } else { "error" };
    counter!(POLLS, "mode" => mode.as_str(), "result" => label).increment(1);
    let (plan, _) = result?;
    gauge!(LAST_SUCCESS, "mode" => mode.as_str()).set(now_seconds as f64);
    let mut states = Vec::new();
    for step in &plan.steps {
        let state = step.state();
        show(mode, &step.name, Some(state));
        // A webhook that is also disabled in the configuration is expected to be disabled.
        if state != RegistrationState::Enabled && !matches!(step.action, Action::Leave { .. }) {
            tracing::warn!("webhook {} ({mode} data) is {} at Digital River", step.name, state.as_str());
        }
        states.push((step.name.clone(), state));
    }
    Ok(states)
}

fn show(mode: Mode, name: &str, current: Option<RegistrationState>) {
    for state in RegistrationState::ALL {
        let value = if current == Some(state) { 1.0 } else { 0.0 };
        gauge!(STATE, "mode" => mode.as_str(), "webhook" => name.to_owned(), "state" => state.as_str()).set(value);
    }
}
