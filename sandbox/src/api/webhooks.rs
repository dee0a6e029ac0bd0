//! `/webhooks`: the endpoints that a merchant registers.
//!
//! Events of `POST /sandbox/events` are delivered to them. The player ignores them: it delivers to its configured target.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
};
use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde_json::{Map, Value, json};
use url::Url;
use uuid::Uuid;

use super::{Api, ApiError, lock, params::Params};
use crate::events::matches;

/// How many webhooks may be registered.
pub const WEBHOOKS_MAX: usize = 20_000;

/// Most webhooks in a list, which has neither limit nor cursors. Source: Digital River, Webhooks API.
const LIST_MAX: usize = 100;

/// The fields of a webhook. Source: Digital River, Webhooks API.
const FIELDS: [&str; 7] = ["types", "address", "apiVersion", "enabled", "transportType", "oauth", "authentication"];

/// The required fields of a token endpoint.
const OAUTH_REQUIRED: [&str; 3] = ["tokenEndPoint", "clientID", "clientSecret"];

/// Failed attempts in a row; kept with the webhook and not shown.
const FAILURES: &str = "sandbox:failures";

pub(super) type Webhook = Map<String, Value>;

/// By creation, then by id.
pub(super) type Webhooks = BTreeMap<(DateTime<Utc>, Uuid), Webhook>;

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    body: Result<Json<Webhook>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let Json(mut webhook) = body?;
    for (name, default) in
        [("apiVersion", json!("default")), ("enabled", json!(true)), ("transportType", json!("HTTP"))]
    {
        webhook.entry(name).or_insert(default);
    }
    check(&webhook)?;
    let (id, now) = (api.next_id(), api.clock.now());
    let mut kept = lock(&api.webhooks);
    if kept.len() >= WEBHOOKS_MAX {
        return Err(ApiError::bad_request(
            "limit_reached",
            "webhooks",
            format!("There may be {WEBHOOKS_MAX} webhooks."),
        ));
    }
    check_conflict(&kept, None, &webhook)?;
    webhook.insert("id".into(), id.to_string().into());
    webhook.insert("createdTime".into(), stamp(now));
    webhook.insert("updatedTime".into(), stamp(now));
    webhook.insert("liveMode".into(), api.mode.is_live().into());
    let answer = shown(&webhook);
    kept.insert((now, id), webhook);
    Ok((StatusCode::CREATED, Json(answer)))
}

pub(super) async fn list(State(api): State<Arc<Api>>, params: Params) -> Result<Json<Value>, ApiError> {
    params.only(&["type", "types", "types[]"])?;
    let patterns = params.types()?;
    let kept = lock(&api.webhooks);
    let fits = |webhook: &&Webhook| {
        let mut types = types(webhook);
        patterns.is_empty() || types.any(|name| patterns.iter().any(|pattern| matches(pattern, name)))
    };
    let mut data: Vec<Value> = kept.values().rev().filter(fits).take(LIST_MAX + 1).map(shown).collect();
    let has_more = data.len() > LIST_MAX;
    data.truncate(LIST_MAX);
    Ok(Json(json!({ "hasMore": has_more, "data": data })))
}

pub(super) async fn one(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let kept = lock(&api.webhooks);
    let key = find(&kept, &id)?;
    Ok(Json(shown(&kept[&key])))
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    body: Result<Json<Webhook>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(changes) = body?;
    let mut kept = lock(&api.webhooks);
    let key = find(&kept, &id)?;
    let mut webhook = kept[&key].clone();
    check_names(&changes)?;
    // Source: OAS: `enabled` has the default true in PATCH as well.
    webhook.insert("enabled".into(), true.into());
    webhook.insert(FAILURES.into(), 0.into());
    webhook.extend(changes);
    check_values(&webhook)?;
    check_conflict(&kept, Some(key), &webhook)?;
    webhook.insert("updatedTime".into(), stamp(api.clock.now()));
    let answer = shown(&webhook);
    kept.insert(key, webhook);
    Ok(Json(answer))
}

pub(super) async fn remove(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let mut kept = lock(&api.webhooks);
    let key = find(&kept, &id)?;
    kept.remove(&key);
    Ok(StatusCode::NO_CONTENT)
}

fn stamp(time: DateTime<Utc>) -> Value {
    time.to_rfc3339_opts(SecondsFormat::Secs, true).into()
}

fn find(kept: &Webhooks, id: &str) -> Result<(DateTime<Utc>, Uuid), ApiError> {
    let key = kept.keys().find(|(_, own)| own.to_string() == id).copied();
    key.ok_or_else(|| ApiError::not_found("id", format!("There is no webhook '{id}'.")))
}

fn types(webhook: &Webhook) -> impl Iterator<Item = &str> {
    webhook.get("types").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// A webhook as answers show it. Source: Digital River returns secrets decrypted.
fn shown(webhook: &Webhook) -> Value {
    let mut shown = webhook.clone();
    shown.remove(FAILURES);
    Value::Object(shown)
}

/// The enabled webhooks that send events of a type.
pub(super) fn sending(api: &Api, event_type: &str) -> Vec<Uuid> {
    let kept = lock(&api.webhooks);
    let sends = |webhook: &Webhook| is_enabled(webhook) && types(webhook).any(|pattern| matches(pattern, event_type));
    kept.iter().filter(|(_, webhook)| sends(webhook)).map(|((_, id), _)| *id).collect()
}

/// A webhook, if it is enabled.
pub(super) fn enabled(api: &Api, id: Uuid) -> Option<Webhook> {
    let kept = lock(&api.webhooks);
    let (_, webhook) = kept.iter().find(|((_, own), _)| *own == id)?;
    is_enabled(webhook).then(|| webhook.clone())
}

/// Counts an attempt; too many failures in a row disable the webhook, which shows only in `updatedTime` and `enabled`.
pub(super) fn count(api: &Api, id: Uuid, acknowledged: bool) {
    let mut kept = lock(&api.webhooks);
    let Some((_, webhook)) = kept.iter_mut().find(|((_, own), _)| *own == id) else { return };
    let earlier = webhook.get(FAILURES).and_then(Value::as_u64).unwrap_or_default();
    let failures = if acknowledged { 0 } else { earlier + 1 };
    webhook.insert(FAILURES.into(), failures.into());
    if failures >= u64::from(api.webhook_failures_max) && is_enabled(webhook) {
        webhook.insert("enabled".into(), false.into());
        webhook.insert("updatedTime".into(), stamp(api.clock.now()));
        tracing::info!(webhook = %id, failures, "webhook disabled after failures in a row");
    }
}

fn is_enabled(webhook: &Webhook) -> bool {
    webhook.get("enabled").and_then(Value::as_bool).unwrap_or(false)
}

fn check(webhook: &Webhook) -> Result<(), ApiError> {
    check_names(webhook)?;
    check_values(webhook)
}

fn check_names(webhook: &Webhook) -> Result<(), ApiError> {
    match webhook.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        Some(name) => Err(ApiError::invalid(name.as_str(), format!("A webhook has no '{name}' to set."))),
        None => Ok(()),
    }
}

fn check_values(webhook: &Webhook) -> Result<(), ApiError> {
    let text = |name: &str| webhook.get(name).and_then(Value::as_str);
    let listed = webhook.get("types").and_then(Value::as_array).filter(|types| !types.is_empty());
    let listed = listed.ok_or_else(|| ApiError::missing("types"))?;
    if !listed.iter().all(|name| name.as_str().is_some_and(|name| !name.is_empty())) {
        return Err(ApiError::invalid("types", "'types' is a list of event types."));
    }
    let address = text("address").ok_or_else(|| ApiError::missing("address"))?;
    if !is_web_address(address) {
        return Err(ApiError::invalid("address", "'address' is an http or https address."));
    }
    let version = text("apiVersion").unwrap_or_default();
    if !matches!(version, "default" | "latest") && NaiveDate::parse_from_str(version, "%Y-%m-%d").is_err() {
        return Err(ApiError::invalid("apiVersion", "'apiVersion' is 'default', 'latest' or a date."));
    }
    if !webhook.get("enabled").is_some_and(Value::is_boolean) {
        return Err(ApiError::invalid("enabled", "'enabled' is true or false."));
    }
    match text("transportType") {
        Some("HTTP") => check_authentication(webhook.get("authentication")),
        Some("OAUTH") => check_oauth(webhook.get("oauth")),
        _ => Err(ApiError::invalid("transportType", "'transportType' is 'HTTP' or 'OAUTH'.")),
    }
}

/// Source: Digital River writes `userName` in one place and `username` in another.
fn check_authentication(authentication: Option<&Value>) -> Result<(), ApiError> {
    let Some(given) = authentication.filter(|value| !value.is_null()) else {
        return Ok(());
    };
    let has = |name: &str| given.get(name).is_some_and(Value::is_string);
    if (has("username") || has("userName")) && has("password") {
        Ok(())
    } else {
        Err(ApiError::invalid("authentication", "'authentication' has a 'username' and a 'password'."))
    }
}

fn check_oauth(oauth: Option<&Value>) -> Result<(), ApiError> {
    let oauth = oauth.and_then(Value::as_object).ok_or_else(|| ApiError::missing("oauth"))?;
    for name in OAUTH_REQUIRED {
        if oauth.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(ApiError::missing(&format!("oauth.{name}")));
        }
    }
    match oauth["tokenEndPoint"].as_str() {
        Some(address) if is_web_address(address) => Ok(()),
        _ => Err(ApiError::invalid("oauth.tokenEndPoint", "'tokenEndPoint' is an http or https address.")),
    }
}

fn is_web_address(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Rejects a second webhook with the same type and address.
fn check_conflict(kept: &Webhooks, own: Option<(DateTime<Utc>, Uuid)>, webhook: &Webhook) -> Result<(), ApiError> {
    let is_twin = |(key, other): (&(DateTime<Utc>, Uuid), &Webhook)| {
        Some(*key) != own
            && other.get("address") == webhook.get("address")
            && types(other).any(|name| types(webhook).any(|wanted| wanted == name))
    };
    if kept.iter().any(is_twin) {
        return Err(ApiError::conflict("address", "A webhook sends one of these types to this address already."));
    }
    Ok(())
}
