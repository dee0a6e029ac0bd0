//! `POST /fulfillments` and `GET /fulfillments`: what was shipped or will not be.

use std::{collections::VecDeque, sync::Arc};

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
};
use chrono::SecondsFormat;
use serde_json::{Map, Value, json};

use super::{Api, ApiError, lock, params::Params};

/// How many fulfillments are kept; the oldest go first.
pub const FULFILLMENTS_KEPT_MAX: usize = 10_000;

/// The latest fulfillments, the newest last.
pub(super) type Fulfillments = VecDeque<Map<String, Value>>;

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    body: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let Json(mut fulfillment) = body?;
    check(&fulfillment)?;
    fulfillment.insert("id".into(), format!("ful_{}", api.next_id().simple()).into());
    let now = api.clock.now().to_rfc3339_opts(SecondsFormat::Secs, true);
    fulfillment.insert("createdTime".into(), now.into());
    fulfillment.insert("liveMode".into(), api.mode.is_live().into());

    let mut kept = lock(&api.fulfillments);
    if kept.len() >= FULFILLMENTS_KEPT_MAX {
        kept.pop_front();
    }
    kept.push_back(fulfillment.clone());
    Ok((StatusCode::CREATED, Json(Value::Object(fulfillment))))
}

pub(super) async fn list(State(api): State<Arc<Api>>, params: Params) -> Result<Json<Value>, ApiError> {
    params.only(&["orderId", "limit"])?;
    let limit = params.limit()?;
    let order_id = params.one("orderId")?;
    let kept = lock(&api.fulfillments);
    let is_wanted = |fulfillment: &&Map<String, Value>| order_id.is_none_or(|wanted| fulfillment["orderId"] == wanted);
    let mut data: Vec<Value> =
        kept.iter().rev().filter(is_wanted).take(limit + 1).cloned().map(Value::Object).collect();
    let has_more = data.len() > limit;
    data.truncate(limit);
    Ok(Json(json!({ "hasMore": has_more, "data": data })))
}

/// Source: Digital River, Fulfillments API: an order, and lines that each say what is shipped or cancelled.
fn check(fulfillment: &Map<String, Value>) -> Result<(), ApiError> {
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
