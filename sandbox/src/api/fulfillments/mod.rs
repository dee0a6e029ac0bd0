//! `/fulfillments`: shipped and cancelled quantities.
//!
//! Fulfillments of an order whose events were published here are checked against its lines, as Digital River does, and events
//! follow from them. For other orders every fulfillment is accepted.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use axum::{
    Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
};
use chrono::SecondsFormat;
use serde_json::{Map, Value, json};

use super::{Api, ApiError, lock, params::Params};

pub(super) mod progress;

use progress::{Accepted, CaptureOutcome};

/// Most fulfillments that are stored; the oldest are dropped first.
pub const FULFILLMENTS_KEPT_MAX: usize = 10_000;

/// Most orders that are stored; fulfillments of further ones are not checked.
const ORDERS_KNOWN_MAX: usize = 10_000;

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

/// The stored orders and fulfillments.
#[derive(Debug, Default)]
pub(super) struct Fulfillments {
    /// The latest, the newest last.
    kept: VecDeque<Map<String, Value>>,
    orders: BTreeMap<String, Order>,
}

/// The fields of a fulfillment that can be changed. Source: Digital River, Fulfillments API, since 2023-09-27.
const CHANGEABLE: [&str; 5] = ["trackingCompany", "trackingNumber", "trackingUrl", "metadata", "items"];

/// The facts of an order that fulfillments are checked against.
#[derive(Debug, Default)]
struct Order {
    cancelled: bool,
    complete: bool,
    lines: BTreeMap<String, OrderLine>,
    /// Captures that are not complete.
    uncaptured: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct OrderLine {
    quantity: u64,
    fulfilled: u64,
    cancelled: u64,
}

impl OrderLine {
    fn is_finished(self) -> bool {
        self.fulfilled + self.cancelled >= self.quantity
    }
}

impl Order {
    fn is_finished(&self) -> bool {
        !self.lines.is_empty() && self.lines.values().all(|line| line.is_finished())
    }
}

/// Ends a capture of an order. Returns whether the order is complete now.
fn settle(api: &Api, order_id: &str) -> bool {
    let mut known = lock(&api.fulfillments);
    let Some(order) = known.orders.get_mut(order_id) else { return false };
    order.uncaptured = order.uncaptured.saturating_sub(1);
    let is_complete = order.is_finished() && order.uncaptured == 0 && !order.complete;
    order.complete |= is_complete;
    is_complete
}

/// The lines of an order of which nothing was shipped.
fn cancelled_lines(api: &Api, order_id: &str) -> BTreeSet<String> {
    let known = lock(&api.fulfillments);
    let lines = known.orders.get(order_id).into_iter().flat_map(|order| &order.lines);
    lines.filter(|(_, line)| line.fulfilled == 0 && line.cancelled > 0).map(|(id, _)| id.clone()).collect()
}

/// Stores an order's lines and state from the object of an order event.
pub(super) fn learn(api: &Api, event: &Value) {
    let object = &event["data"]["object"];
    let is_order = event["type"].as_str().is_some_and(|name| name.starts_with("order.")) && object["items"].is_array();
    let (true, Some(id)) = (is_order, object["id"].as_str()) else { return };
    let mut known = lock(&api.fulfillments);
    if known.orders.len() >= ORDERS_KNOWN_MAX && !known.orders.contains_key(id) {
        return;
    }
    let order = known.orders.entry(id.to_owned()).or_default();
    order.cancelled |= object["state"] == "cancelled";
    order.complete |= object["state"] == "complete";
    for item in object["items"].as_array().into_iter().flatten() {
        if let (Some(line), Some(quantity)) = (item["id"].as_str(), item["quantity"].as_u64()) {
            order.lines.entry(line.to_owned()).or_default().quantity = quantity;
        }
    }
}

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

/// Counts a fulfillment against its order, completely or not at all. Source: the codes that Digital River answers with 409.
fn take(order: &mut Order, order_id: &str, fulfillment: &Map<String, Value>) -> Result<(), ApiError> {
    let conflict = |code, parameter: &str, message: String| Err(ApiError::conflict_of(code, parameter, message));
    if order.cancelled {
        return conflict("order_cancelled", "orderId", format!("Resource '{order_id}' is cancelled."));
    }
    if order.complete {
        return conflict("order_complete", "orderId", format!("Resource '{order_id}' is already complete."));
    }
    if order.is_finished() {
        return conflict("order_fulfilled", "orderId", format!("Resource '{order_id}' is fulfilled."));
    }
    let mut reported = order.lines.clone();
    for item in fulfillment.get("items").and_then(Value::as_array).into_iter().flatten() {
        let id = item["itemId"].as_str().unwrap_or_default();
        let [fulfilled, cancelled] = ["quantity", "cancelQuantity"].map(|name| item[name].as_u64().unwrap_or_default());
        let Some(line) = reported.get_mut(id) else {
            return Err(ApiError::invalid("itemId", format!("Resource '{id}' is no line of the order.")));
        };
        if line.is_finished() && line.fulfilled == 0 {
            return conflict("item_cancelled", "itemId", format!("Resource '{id}' is already cancelled."));
        }
        if line.is_finished() {
            return conflict("item_fulfilled", "itemId", format!("Resource '{id}' is already fulfilled."));
        }
        line.fulfilled = line.fulfilled.saturating_add(fulfilled);
        line.cancelled = line.cancelled.saturating_add(cancelled);
        if line.fulfilled.saturating_add(line.cancelled) > line.quantity {
            let message = "Sum of quantity and cancelQuantity may not exceed sku quantity of the order.";
            return conflict("quantity_too_large", "quantity", message.to_owned());
        }
    }
    order.lines = reported;
    Ok(())
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
