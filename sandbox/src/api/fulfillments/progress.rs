//! What follows from a fulfillment of a known order: events about captures and cancellations, which end later, and about the
//! order, which becomes fulfilled and complete.
//!
//! Source: Digital River, "Informing Digital River of a fulfillment" and the order's and the charge's states.

use std::sync::Arc;

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
};
use chrono::SecondsFormat;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::orders;
use crate::api::{Api, ApiError, lock, objects, publish};

/// Most rules about captures.
const RULES_MAX: usize = 1_000;

/// How the capture of a fulfillment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureOutcome {
    /// `order.charge.capture.complete`.
    #[default]
    Complete,
    /// `order.charge.capture.failed`: the order stays fulfilled.
    Failed,
    /// No event follows `order.charge.capture.pending`.
    StaysPending,
    /// The fulfillment is rejected with `payment_authorization_failed`.
    AuthorizationExpired,
}

/// How captures of an order end, or of all orders. The first matching rule applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CaptureRule {
    /// Only captures of this order.
    #[serde(default)]
    pub order_id: Option<String>,
    /// How they end.
    pub outcome: CaptureOutcome,
}

pub(in crate::api) async fn show(State(api): State<Arc<Api>>) -> Json<Vec<CaptureRule>> {
    Json(lock(&api.captures).clone())
}

/// `POST /sandbox/captures`: replaces all rules; with `[]`, every capture becomes complete.
pub(in crate::api) async fn replace(
    State(api): State<Arc<Api>>,
    body: Result<Json<Vec<CaptureRule>>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    let Json(rules) = body?;
    if rules.len() > RULES_MAX {
        return Err(ApiError::invalid("rules", format!("There may be {RULES_MAX} rules.")));
    }
    *lock(&api.captures) = rules;
    Ok(StatusCode::NO_CONTENT)
}

/// How captures of an order end.
pub(super) fn outcome(api: &Api, order_id: &str) -> CaptureOutcome {
    let rules = lock(&api.captures);
    let fits = |rule: &&CaptureRule| rule.order_id.as_deref().is_none_or(|wanted| wanted == order_id);
    rules.iter().find(fits).map(|rule| rule.outcome).unwrap_or_default()
}

/// An accepted fulfillment.
pub(super) struct Accepted {
    pub(super) fulfillment: Map<String, Value>,
    pub(super) order_id: String,
    /// Whether it reports the last open lines of its order.
    pub(super) is_last: bool,
    pub(super) outcome: CaptureOutcome,
}

impl Accepted {
    fn has(&self, quantity: &str) -> bool {
        let items = self.fulfillment.get("items").and_then(Value::as_array);
        items.into_iter().flatten().any(|item| item[quantity].as_u64().is_some_and(|count| count > 0))
    }
}

/// Publishes the events that follow from a fulfillment, if its order is known.
pub(super) fn follow(api: &Arc<Api>, accepted: Accepted) {
    let Some(order) = objects::snapshot(api, &accepted.order_id) else { return };
    let (shared, tasks) = (Arc::clone(api), api.publisher.tasks());
    tasks.spawn(async move {
        let api = shared;
        emit(&api, "fulfillment.created", &Value::Object(accepted.fulfillment.clone()));
        let charge = charge_of(&api, &order, &accepted);
        let (captures, cancels) = (accepted.has("quantity"), accepted.has("cancelQuantity"));
        for (kind, list, happens) in [("capture", "captures", captures), ("cancel", "cancels", cancels)] {
            if happens {
                emit(&api, &format!("order.charge.{kind}.pending"), &charge.with(&api, list, "pending"));
            }
        }
        if accepted.is_last {
            emit(&api, "order.fulfilled", &reached(&api, &accepted.order_id, "fulfilled"));
        }
        tokio::time::sleep(api.capture_delay).await;
        if cancels {
            emit(&api, "order.charge.cancel.complete", &charge.with(&api, "cancels", "complete"));
        }
        match accepted.outcome {
            _ if !captures => {}
            CaptureOutcome::Failed => {
                emit(&api, "order.charge.capture.failed", &charge.with(&api, "captures", "failed"));
                return;
            }
            CaptureOutcome::StaysPending | CaptureOutcome::AuthorizationExpired => return,
            CaptureOutcome::Complete => {
                emit(&api, "order.charge.capture.complete", &charge.with(&api, "captures", "complete"));
            }
        }
        if orders::settle(&api, &accepted.order_id) {
            emit(&api, "order.complete", &reached(&api, &accepted.order_id, "complete"));
        }
    });
}

/// The charge of an order, with the operation of one fulfillment.
struct Charge {
    charge: Value,
    operation_id: String,
    fulfillment_id: Value,
}

fn charge_of(api: &Api, order: &Value, accepted: &Accepted) -> Charge {
    let known = order["payment"]["charges"].as_array().or_else(|| order["charges"].as_array());
    let known = known.and_then(|charges| charges.first());
    let id = known.and_then(|charge| charge["id"].as_str()).unwrap_or(&accepted.order_id);
    let charge = json!({
        "id": id, "orderId": accepted.order_id, "createdTime": stamp(api), "currency": order["currency"],
        "amount": order["totalAmount"], "state": "capturable", "type": "merchant_initiated", "captured": false,
        "refunded": false, "liveMode": api.mode.is_live(),
    });
    Charge { charge, operation_id: api.next_id().to_string(), fulfillment_id: accepted.fulfillment["id"].clone() }
}

impl Charge {
    /// The charge with its operation in `list`.
    fn with(&self, api: &Api, list: &str, state: &str) -> Value {
        let mut operation = json!({
            "id": self.operation_id, "createdTime": stamp(api), "amount": self.charge["amount"], "state": state,
            "fulfillmentId": self.fulfillment_id,
        });
        if state == "failed" {
            operation["failureCode"] = json!("failed-request");
        }
        let mut charge = self.charge.clone();
        charge[list] = json!([operation]);
        charge
    }
}

/// The order's snapshot in a new state.
fn reached(api: &Api, order_id: &str, state: &str) -> Value {
    let mut order = objects::snapshot(api, order_id).unwrap_or_else(|| json!({ "id": order_id }));
    let now = stamp(api);
    order["state"] = json!(state);
    order["updatedTime"] = json!(now);
    order["stateTransitions"][state] = json!(now);
    if state == "fulfilled" {
        let cancelled = orders::cancelled_lines(api, order_id);
        for item in order["items"].as_array_mut().into_iter().flatten() {
            let is_cancelled = item["id"].as_str().is_some_and(|id| cancelled.contains(id));
            let of_line = if is_cancelled { "cancelled" } else { "fulfilled" };
            item["state"] = json!(of_line);
            item["stateTransitions"][of_line] = json!(now);
        }
    } else {
        order["capturedAmount"] = order["totalAmount"].clone();
    }
    order
}

fn emit(api: &Arc<Api>, event_type: &str, object: &Value) {
    let event = json!({
        "id": api.next_id(), "type": event_type, "data": { "object": object }, "liveMode": api.mode.is_live(),
        "createdTime": stamp(api), "digitalriverVersion": "2021-12-13",
    });
    if let Err(error) = publish::publish(api, event.to_string().into(), false) {
        tracing::error!("the sandbox's own event {event_type} is invalid: {error:?}");
    }
}

fn stamp(api: &Api) -> String {
    api.clock.now().to_rfc3339_opts(SecondsFormat::Micros, true)
}
