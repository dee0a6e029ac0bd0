//! The orders that fulfillments are checked against, and the stored fulfillments.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Map, Value};

use crate::api::{Api, ApiError, lock};

/// Most orders that are stored; fulfillments of further ones are not checked.
const ORDERS_KNOWN_MAX: usize = 10_000;

/// The stored orders and fulfillments.
#[derive(Debug, Default)]
pub(in crate::api) struct Fulfillments {
    /// The latest, the newest last.
    pub(super) kept: VecDeque<Map<String, Value>>,
    pub(super) orders: BTreeMap<String, Order>,
}

/// The facts of an order that fulfillments are checked against.
#[derive(Debug, Default)]
pub(super) struct Order {
    cancelled: bool,
    complete: bool,
    lines: BTreeMap<String, OrderLine>,
    /// Captures that are not complete.
    pub(super) uncaptured: u64,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct OrderLine {
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
    pub(super) fn is_finished(&self) -> bool {
        !self.lines.is_empty() && self.lines.values().all(|line| line.is_finished())
    }
}

/// Ends a capture of an order. Returns whether the order is complete now.
pub(super) fn settle(api: &Api, order_id: &str) -> bool {
    let mut known = lock(&api.fulfillments);
    let Some(order) = known.orders.get_mut(order_id) else { return false };
    order.uncaptured = order.uncaptured.saturating_sub(1);
    let is_complete = order.is_finished() && order.uncaptured == 0 && !order.complete;
    order.complete |= is_complete;
    is_complete
}

/// The lines of an order of which nothing was shipped.
pub(super) fn cancelled_lines(api: &Api, order_id: &str) -> BTreeSet<String> {
    let known = lock(&api.fulfillments);
    let lines = known.orders.get(order_id).into_iter().flat_map(|order| &order.lines);
    lines.filter(|(_, line)| line.fulfilled == 0 && line.cancelled > 0).map(|(id, _)| id.clone()).collect()
}

/// Stores an order's lines and state from the object of an order event.
pub(in crate::api) fn learn(api: &Api, event: &Value) {
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

/// Counts a fulfillment against its order, completely or not at all. Source: the codes that Digital River answers with 409.
pub(super) fn take(order: &mut Order, order_id: &str, fulfillment: &Map<String, Value>) -> Result<(), ApiError> {
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
