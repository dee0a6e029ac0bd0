//! `/fulfillments`: shipped and cancelled quantities.
//!
//! Fulfillments of an order whose events were published here are checked against its lines, as Digital River does. For other
//! orders every fulfillment is accepted.

use std::{
    collections::{BTreeMap, VecDeque},
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

/// The facts of an order that fulfillments are checked against.
#[derive(Debug, Default)]
struct Order {
    cancelled: bool,
    /// Ordered and reported quantity, by line.
    lines: BTreeMap<String, (u64, u64)>,
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
    for item in object["items"].as_array().into_iter().flatten() {
        if let (Some(line), Some(quantity)) = (item["id"].as_str(), item["quantity"].as_u64()) {
            order.lines.entry(line.to_owned()).or_default().0 = quantity;
        }
    }
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    body: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let Json(mut fulfillment) = body?;
    check(&fulfillment)?;
    let mut known = lock(&api.fulfillments);
    let order_id = fulfillment["orderId"].as_str().unwrap_or_default().to_owned();
    if let Some(order) = known.orders.get_mut(&order_id) {
        take(order, &order_id, &fulfillment)?;
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
    Ok((StatusCode::CREATED, Json(Value::Object(fulfillment))))
}

/// Counts a fulfillment against its order, completely or not at all. Source: the codes that Digital River answers with 409.
fn take(order: &mut Order, order_id: &str, fulfillment: &Map<String, Value>) -> Result<(), ApiError> {
    let conflict = |code, parameter: &str, message: String| Err(ApiError::conflict_of(code, parameter, message));
    if order.cancelled {
        return conflict("order_cancelled", "orderId", format!("Resource '{order_id}' is cancelled."));
    }
    if !order.lines.is_empty() && order.lines.values().all(|(quantity, reported)| reported >= quantity) {
        return conflict("order_fulfilled", "orderId", format!("Resource '{order_id}' is fulfilled."));
    }
    let mut reported = order.lines.clone();
    for item in fulfillment.get("items").and_then(Value::as_array).into_iter().flatten() {
        let id = item["itemId"].as_str().unwrap_or_default();
        let asked =
            ["quantity", "cancelQuantity"].map(|name| item[name].as_u64().unwrap_or_default()).iter().sum::<u64>();
        let Some((quantity, so_far)) = reported.get_mut(id) else {
            return Err(ApiError::invalid("itemId", format!("Resource '{id}' is no line of the order.")));
        };
        if *so_far >= *quantity {
            return conflict("item_fulfilled", "itemId", format!("Resource '{id}' is already fulfilled."));
        }
        if *so_far + asked > *quantity {
            let message = "Sum of quantity and cancelQuantity may not exceed sku quantity of the order.";
            return conflict("quantity_too_large", "quantity", message.to_owned());
        }
        *so_far += asked;
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
