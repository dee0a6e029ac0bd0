//! `POST /sandbox/events` publishes an event: `GET /events` lists it, and it is delivered to every registered webhook that is
//! enabled and has its type, with the registered authentication.
//!
//! An attempt that is not acknowledged is retried with backoff; a number of failures in a row disables the webhook, as
//! Digital River does after several days. Events that are published while a webhook is disabled are never delivered to it.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use reqwest::{Client, RequestBuilder, header, redirect};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::{Api, ApiError, fulfillments::orders, objects, webhooks};
use crate::sender::sign::{SIGNATURE_HEADER, header_in_style};

/// Most concurrent deliveries; further ones wait.
const DELIVERIES_MAX: usize = 64;

/// How an event is published.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Options {
    /// Deliver it to no webhook: it is only listed, as if every delivery had been lost.
    withhold: bool,
}

/// The fields of an event that are used.
struct Event {
    id: String,
    event_type: String,
    created_time: DateTime<Utc>,
    body: Bytes,
}

/// Delivers published events to the registered webhooks.
#[derive(Debug)]
pub(super) struct Publisher {
    tasks: tokio_util::task::TaskTracker,
    slots: Arc<tokio::sync::Semaphore>,
}

impl Publisher {
    /// The tasks that publish and deliver.
    pub(super) fn tasks(&self) -> tokio_util::task::TaskTracker {
        self.tasks.clone()
    }
}

impl Default for Publisher {
    fn default() -> Self {
        let slots = Arc::new(tokio::sync::Semaphore::new(DELIVERIES_MAX));
        Self { tasks: tokio_util::task::TaskTracker::new(), slots }
    }
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Query(options): Query<Options>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let (id, targets) = publish(&api, body, options.withhold)?;
    let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": id, "webhooks": targets }))))
}

/// Publishes an event. Returns its id, and the webhooks to which it is delivered.
pub(super) fn publish(api: &Arc<Api>, body: Bytes, withhold: bool) -> Result<(String, Vec<uuid::Uuid>), ApiError> {
    let event = read(api, body)?;
    api.events.record_body(&event.id, &event.event_type, event.created_time, event.body.clone());
    let targets = if withhold { Vec::new() } else { webhooks::sending(api, &event.event_type) };
    let event = Arc::new(event);
    for id in &targets {
        let (api, event, id) = (Arc::clone(api), Arc::clone(&event), *id);
        let slots = Arc::clone(&api.publisher.slots);
        let tracker = api.publisher.tasks.clone();
        tracker.spawn(async move {
            let Ok(_slot) = slots.acquire_owned().await else { return };
            deliver(&api, id, &event).await;
        });
    }
    Ok((event.id.clone(), targets))
}

fn read(api: &Api, body: Bytes) -> Result<Event, ApiError> {
    let value: Value = serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_request("invalid_body", "body", error.to_string()))?;
    orders::learn(api, &value);
    let text = |name: &str| value.get(name).and_then(Value::as_str).ok_or_else(|| ApiError::missing(name));
    let created_time = DateTime::parse_from_rfc3339(text("createdTime")?)
        .map_err(|error| ApiError::invalid("createdTime", error.to_string()))?;
    objects::learn(api, &value, created_time.to_utc());
    let (id, event_type) = (text("id")?.to_owned(), text("type")?.to_owned());
    Ok(Event { id, event_type, created_time: created_time.to_utc(), body })
}

/// Delivers an event to a webhook until it is acknowledged, the webhook is disabled or deleted, or the attempts are used up.
async fn deliver(api: &Api, id: uuid::Uuid, event: &Event) {
    for attempt in 0..api.target.attempts_max.get() {
        let Some(webhook) = webhooks::enabled(api, id) else { return };
        let outcome = send(api, &webhook, event).await;
        webhooks::count(api, id, outcome.is_ok());
        match outcome {
            Ok(()) => return,
            Err(reason) => tracing::debug!(event.id = event.id, webhook = %id, attempt, "not acknowledged: {reason}"),
        }
        let wait = api.target.backoff_base.saturating_mul(1 << attempt.min(16)).min(api.target.backoff_cap);
        tokio::time::sleep(wait.mul_f64(fastrand::f64().mul_add(0.5, 0.5))).await;
    }
}

/// One attempt, with the webhook's authentication.
async fn send(api: &Api, webhook: &Map<String, Value>, event: &Event) -> Result<(), String> {
    let address = webhook.get("address").and_then(Value::as_str).unwrap_or_default();
    let client = client(address, api.target.timeout)?;
    let mut request = client.post(address).header(header::CONTENT_TYPE, "application/json");
    let secrets: Vec<&str> = api.target.secrets.iter().map(ExposeSecret::expose_secret).collect();
    if !secrets.is_empty() {
        let now = api.clock.now().timestamp();
        request =
            request.header(SIGNATURE_HEADER, header_in_style(api.target.signature_style, &secrets, now, &event.body));
    }
    let text = |object: &str, name: &str| webhook.get(object)?.get(name)?.as_str().map(str::to_owned);
    if webhook.get("transportType").and_then(Value::as_str) == Some("OAUTH") {
        request = request.bearer_auth(token(&text, api.target.timeout).await?);
    } else if let Some(password) = text("authentication", "password") {
        let user = text("authentication", "username").or_else(|| text("authentication", "userName"));
        request = request.basic_auth(user.unwrap_or_default(), Some(password));
    }
    answered(request.body(event.body.clone())).await.map(drop)
}

/// Fetches a token at the webhook's `tokenEndPoint`.
async fn token(text: &(impl Fn(&str, &str) -> Option<String> + Sync), timeout: Duration) -> Result<String, String> {
    let endpoint = text("oauth", "tokenEndPoint").unwrap_or_default();
    let request = client(&endpoint, timeout)?
        .post(endpoint.as_str())
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(token_form(text));
    let body: Value = serde_json::from_slice(&answered(request).await?).map_err(|error| error.to_string())?;
    let token = body.get("access_token").and_then(Value::as_str).map(str::to_owned);
    token.ok_or_else(|| "the token endpoint's answer has no access_token".to_owned())
}

/// Source: Digital River, "Webhooks": `grantType` is `password` by default.
fn token_form(text: &impl Fn(&str, &str) -> Option<String>) -> String {
    let grant = text("oauth", "grantType").unwrap_or_else(|| "password".to_owned());
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", &grant);
    for (name, field) in [
        ("client_id", "clientID"),
        ("client_secret", "clientSecret"),
        ("username", "userName"),
        ("password", "password"),
    ] {
        if let Some(value) = text("oauth", field) {
            form.append_pair(name, &value);
        }
    }
    form.finish()
}

async fn answered(request: RequestBuilder) -> Result<Bytes, String> {
    let response = request.send().await.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = response.bytes().await.map_err(|error| error.to_string())?;
    if status.is_success() { Ok(body) } else { Err(format!("answered {status}")) }
}

fn client(address: &str, timeout: Duration) -> Result<Client, String> {
    let builder = Client::builder()
        .user_agent(concat!("riverlock-sandbox/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .timeout(timeout)
        .no_proxy();
    // A machine without any root certificates can still send over plain http.
    let builder = if address.starts_with("http:") { builder.tls_certs_only([]) } else { builder };
    builder.build().map_err(|error| error.to_string())
}
