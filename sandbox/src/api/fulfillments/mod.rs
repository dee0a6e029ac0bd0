//! `/fulfillments`: shipped and cancelled quantities.
//!
//! Fulfillments of an order whose events were published here are checked against its lines, as Digital River does, and events
//! follow from them. For other orders every fulfillment is accepted.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
};
use chrono::SecondsFormat;
use serde_json::{Map, Value, json};

use super::{Api, ApiError, lock, params::Params};

pub(super) mod orders;
pub(super) mod progress;

use orders::take;
use progress::{Accepted, CaptureOutcome};

/// Most fulfillments that are stored; the oldest are dropped first.
pub const FULFILLMENTS_KEPT_MAX: usize = 10_000;

/// The fields of a fulfillment. Source: Digital River, Fulfillments API.
const FIELDS: [&str; 10] = [
    "orderId",
    "items",
    "trackingCompany",
    "trackingNumber",
    "trackingUrl",
    "shipmentId",
    "metadata",
    "partnerId",
    "currency",
    "liveMode",
];

/// The fields of a fulfillment that can be changed. Source: Digital River, Fulfillments API, since 2023-09-27.
const CHANGEABLE: [&str; 5] = ["trackingCompany", "trackingNumber", "trackingUrl", "metadata", "items"];

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    body: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let Json(mut fulfillment) = body?;
    check(&fulfillment)?;
    let order_id = fulfillment["orderId"].as_str().unwrap_or_default().to_owned();
    let outcome = progress::outcome(&api, &order_id);
    if outcome == CaptureOutcome::AuthorizationExpired {
        return Err(ApiError::authorization_expired());
    }
    let mut known = lock(&api.fulfillments);
    let mut is_last = false;
    if let Some(order) = known.orders.get_mut(&order_id) {
        take(order, &order_id, &fulfillment)?;
        order.uncaptured += 1;
        is_last = order.is_finished();
    }
    // Source: samples have both quantities always, 0 where unused.
    for item in fulfillment.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        for name in ["quantity", "cancelQuantity"] {
            if item.get(name).is_none() {
                item[name] = json!(0);
            }
        }
    }
    fulfillment.insert("id".into(), format!("ful_{}", api.next_id()).into());
    let now = api.clock.now().to_rfc3339_opts(SecondsFormat::Secs, true);
    fulfillment.insert("createdTime".into(), now.into());
    fulfillment.insert("liveMode".into(), api.mode.is_live().into());
    if known.kept.len() >= FULFILLMENTS_KEPT_MAX {
        known.kept.pop_front();
    }
    known.kept.push_back(fulfillment.clone());
    drop(known);
    progress::follow(&api, Accepted { fulfillment: fulfillment.clone(), order_id, is_last, outcome });
    Ok((StatusCode::CREATED, Json(Value::Object(fulfillment))))
}

pub(super) async fn list(State(api): State<Arc<Api>>, params: Params) -> Result<Json<Value>, ApiError> {
    params.only(&["orderId", "limit", "startingAfter"])?;
    let (limit, order_id, after) = (params.limit()?, params.one("orderId")?, params.one("startingAfter")?);
    let known = lock(&api.fulfillments);
    if let Some(after) = after
        && known.kept.iter().all(|fulfillment| fulfillment["id"] != after)
    {
        return Err(ApiError::invalid("startingAfter", "There is no fulfillment with this id."));
    }
    let is_wanted = |fulfillment: &&Map<String, Value>| order_id.is_none_or(|wanted| fulfillment["orderId"] == wanted);
    let older = known.kept.iter().rev().skip_while(|fulfillment| after.is_some_and(|after| fulfillment["id"] != after));
    let older = older.skip(usize::from(after.is_some()));
    let mut data: Vec<Value> = older.filter(is_wanted).take(limit + 1).cloned().map(Value::Object).collect();
    let has_more = data.len() > limit;
    data.truncate(limit);
    Ok(Json(json!({ "hasMore": has_more, "data": data })))
}

pub(super) async fn one(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let known = lock(&api.fulfillments);
    let found = known.kept.iter().find(|fulfillment| fulfillment["id"] == id.as_str());
    let found = found.ok_or_else(|| ApiError::not_found("id", format!("There is no fulfillment '{id}'.")))?;
    Ok(Json(Value::Object(found.clone())))
}

/// Changes tracking data and metadata. Repeating it is harmless.
pub(super) async fn change(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    body: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(changes) = body?;
    if let Some(name) = changes.keys().find(|name| !CHANGEABLE.contains(&name.as_str())) {
        return Err(ApiError::bad_request("unknown_parameter", name.as_str(), format!("'{name}' cannot be changed.")));
    }
    let mut known = lock(&api.fulfillments);
    let found = known.kept.iter_mut().find(|fulfillment| fulfillment["id"] == id.as_str());
    let found = found.ok_or_else(|| ApiError::not_found("id", format!("There is no fulfillment '{id}'.")))?;
    for (name, value) in changes.into_iter().filter(|(name, _)| name != "items") {
        found.insert(name, value);
    }
    Ok(Json(Value::Object(found.clone())))
}

/// Source: Digital River, Fulfillments API: an order, and lines that each say what is shipped or cancelled.
fn check(fulfillment: &Map<String, Value>) -> Result<(), ApiError> {
    if let Some(name) = fulfillment.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(ApiError::bad_request("unknown_parameter", name.as_str(), format!("There is no '{name}'.")));
    }
    let is_text = |value: Option<&Value>| value.and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    if !is_text(fulfillment.get("orderId")) {
        return Err(ApiError::missing("orderId"));
    }
    let items = fulfillment.get("items").and_then(Value::as_array).filter(|items| !items.is_empty());
    for (number, item) in items.ok_or_else(|| ApiError::missing("items"))?.iter().enumerate() {
        if !is_text(item.get("itemId")) {
            return Err(ApiError::missing(&format!("items[{number}].itemId")));
        }
        let quantities = ["quantity", "cancelQuantity"].map(|name| (name, item.get(name)));
        let wrong = quantities.iter().find(|(_, value)| value.is_some_and(|value| !is_count(value)));
        if let Some((name, _)) = wrong {
            return Err(ApiError::invalid(format!("items[{number}].{name}"), "A quantity is a whole number from 0."));
        }
        if !quantities.iter().any(|(_, value)| value.and_then(Value::as_u64).is_some_and(|count| count > 0)) {
            let message = "Each item needs a 'quantity' or a 'cancelQuantity' above 0.";
            return Err(ApiError::bad_request("missing_parameter", format!("items[{number}].quantity"), message));
        }
    }
    Ok(())
}

fn is_count(value: &Value) -> bool {
    value.as_u64().is_some()
}
