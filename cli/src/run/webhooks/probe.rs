//! Sends a test event through a webhook's public address, authenticated as Digital River authenticates.
//!
//! The event has the type `riverlock.probe`, which no consumer handles: it is acknowledged, stored, and has the outcome `ignored`.

use std::{fmt, time::Duration};

use anyhow::Context as _;
use chrono::SecondsFormat;
use riverlock_digital_river::{
    failure::quote,
    http::transport::{self, Network},
    webhooks::{
        WebhookConfig,
        config::{GrantType, OAuthLogin},
    },
};
use riverlock_runtime::{Clock as _, SystemClock, with_causes};
use riverlock_sandbox::sender::sign;
use serde::Serialize;
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use super::session::Session;

/// The type of the event.
const PROBE_TYPE: &str = "riverlock.probe";

/// How long Digital River waits for an answer. Source: Digital River, "Webhooks".
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a connection may take to be established.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The largest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The result of a probe.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProbeResult {
    /// The event's id, for `riverlock trace`.
    event_id: String,
    /// The status of the answer; 202 on success.
    status: Option<u16>,
    /// The time until the answer.
    milliseconds: u64,
    /// Why it failed.
    error: Option<String>,
}

impl ProbeResult {
    pub(super) fn is_ok(&self) -> bool {
        self.status == Some(202)
    }
}

impl fmt::Display for ProbeResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event_id, status, milliseconds, error } = self;
        match (status, error) {
            (Some(202), _) => write!(f, "acknowledged in {milliseconds} ms as event {event_id}"),
            (Some(status), error) => write!(f, "answered {status}: {}", error.as_deref().unwrap_or_default()),
            (None, error) => f.write_str(error.as_deref().unwrap_or("no answer")),
        }
    }
}

/// Sends a probe.
pub(super) async fn send(session: &Session, webhook: &WebhookConfig) -> ProbeResult {
    let event_id = format!("riverlock-probe-{}", uuid::Uuid::new_v4());
    let started = std::time::Instant::now();
    let answer = tokio::time::timeout(2 * ANSWER_TIMEOUT, exchange(session, webhook, &event_id)).await;
    let (status, error) = match answer {
        Ok(Ok((202, _))) => (Some(202), None),
        Ok(Ok((status, text))) => (Some(status), Some(text)),
        Ok(Err(error)) => (None, Some(with_causes(error.as_ref()))),
        Err(_) => (None, Some(format!("no answer within {:?}", 2 * ANSWER_TIMEOUT))),
    };
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    ProbeResult { event_id, status, milliseconds, error }
}

/// Sends the event and returns the status and the body of the answer.
async fn exchange(session: &Session, webhook: &WebhookConfig, event_id: &str) -> anyhow::Result<(u16, String)> {
    let now = SystemClock.now();
    let body = json!({
        "id": event_id, "type": PROBE_TYPE, "data": { "object": {} }, "liveMode": webhook.mode.is_live(),
        "createdTime": now.to_rfc3339_opts(SecondsFormat::Micros, true),
    });
    let body = body.to_string();
    let mut request = client(session, &webhook.address)?
        .post(webhook.address.clone())
        .timeout(ANSWER_TIMEOUT)
        .header("content-type", "application/json");
    let endpoint = session.config.ingest.endpoints.iter().find(|endpoint| endpoint.name == webhook.endpoint);
    let endpoint = endpoint.with_context(|| format!("no endpoint {} is configured", webhook.endpoint))?;
    let active = |secret: &&riverlock_ingest::config::SecretConfig| {
        secret.not_before.is_none_or(|from| from <= now) && secret.expires_at.is_none_or(|until| now < until)
    };
    let secrets: Vec<&str> = endpoint.secrets.iter().filter(active).map(|secret| secret.secret.expose()).collect();
    if !secrets.is_empty() {
        request = request.header(sign::SIGNATURE_HEADER, sign::header(&secrets, now.timestamp(), body.as_bytes()));
    }
    if let Some(basic) = &webhook.basic {
        request = request.basic_auth(&basic.username, Some(basic.password.expose()));
    }
    if let Some(oauth) = &webhook.oauth {
        request = request.bearer_auth(token(session, oauth).await.context("the token endpoint")?);
    }
    let response = request.body(body).send().await.map_err(|error| anyhow::anyhow!(transport::describe(error)))?;
    let status = response.status().as_u16();
    let text = transport::read_body(response, ANSWER_BYTES_MAX).await.map_err(anyhow::Error::msg)?;
    Ok((status, quote(&String::from_utf8_lossy(&text))))
}

/// Fetches a token as Digital River does.
async fn token(session: &Session, oauth: &OAuthLogin) -> anyhow::Result<String> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", oauth.grant_type.as_str())
        .append_pair("client_id", &oauth.client_id)
        .append_pair("client_secret", oauth.client_secret.expose());
    if let (GrantType::Password, Some(username), Some(password)) = (oauth.grant_type, &oauth.username, &oauth.password)
    {
        form.append_pair("username", username).append_pair("password", password.expose());
    }
    let request = client(session, &oauth.token_endpoint)?
        .post(oauth.token_endpoint.clone())
        .timeout(ANSWER_TIMEOUT)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form.finish());
    let response = request.send().await.map_err(|error| anyhow::anyhow!(transport::describe(error)))?;
    let status = response.status();
    let body = transport::read_body(response, ANSWER_BYTES_MAX).await.map_err(anyhow::Error::msg)?;
    anyhow::ensure!(status.is_success(), "answered {}: {}", status.as_u16(), quote(&String::from_utf8_lossy(&body)));
    let value: Value = serde_json::from_slice(&body).context("the answer is not JSON")?;
    let token = value.get("access_token").and_then(Value::as_str);
    token.map(str::to_owned).context("the answer has no access_token")
}

fn client(session: &Session, base: &Url) -> anyhow::Result<reqwest::Client> {
    let config = session.config.digital_river();
    Ok(transport::http_client(&Network {
        base,
        private_networks: &config.private_networks,
        section: "digital_river",
        proxy: None,
        connect_timeout: CONNECT_TIMEOUT,
    })?)
}
