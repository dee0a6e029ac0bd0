//! `GET /orders` and `GET /files`: the orders and documents of the events from `POST /sandbox/events`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{Api, ApiError, lock, params::Params};

/// How many orders and how many documents are kept; further ones are not listed.
const KEPT_MAX: usize = 10_000;

/// The states by whose times orders are listed. Source: Digital River, Orders API.
const STATES: [&str; 8] =
    ["accepted", "in_review", "pending_payment", "blocked", "cancelled", "fulfilled", "complete", "returned"];

const COMPARISONS: [&str; 4] = ["gt", "gte", "lt", "lte"];

/// Orders and documents.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// The newest snapshot of each order, with what makes it the newest.
    orders: BTreeMap<String, (DateTime<Utc>, Value)>,
    /// Documents with their creation time.
    files: BTreeMap<String, (DateTime<Utc>, Value)>,
}

/// Updates orders and documents from an event.
pub(super) fn learn(api: &Api, event: &Value, created_time: DateTime<Utc>) {
    let object = &event["data"]["object"];
    let mut objects = lock(&api.objects);
    if let (Some(file), Some(purpose)) = (object["fileId"].as_str(), object["purpose"].as_str())
        && objects.files.len() < KEPT_MAX
    {
        let value = json!({ "id": file, "purpose": purpose, "type": "pdf", "fileName": format!("{file}.pdf"),
                            "createdTime": event["createdTime"], "liveMode": api.mode.is_live() });
        objects.files.insert(file.to_owned(), (created_time, value));
    }
    let is_order = event["type"].as_str().is_some_and(|name| name.starts_with("order.")) && object["items"].is_array();
    let (true, Some(id)) = (is_order, object["id"].as_str()) else { return };
    let newer = objects.orders.get(id).is_none_or(|(known, _)| *known <= created_time);
    if newer && (objects.orders.len() < KEPT_MAX || objects.orders.contains_key(id)) {
        objects.orders.insert(id.to_owned(), (created_time, object.clone()));
    }
}

/// The newest snapshot of an order.
pub(super) fn snapshot(api: &Api, order_id: &str) -> Option<Value> {
    lock(&api.objects).orders.get(order_id).map(|(_, order)| order.clone())
}

pub(super) async fn orders(State(api): State<Arc<Api>>, params: Params) -> Result<Json<Value>, ApiError> {
    let mut names: Vec<String> = ["state", "limit", "startingAfter"].map(str::to_owned).to_vec();
    let fields: Vec<&str> = STATES.into_iter().chain(["createdTime", "updatedTime"]).collect();
    names.extend(fields.iter().flat_map(|field| COMPARISONS.map(|comparison| format!("{field}[{comparison}]"))));
    params.only(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let state = params.one("state")?;
    let bounds: Vec<(&str, Bounds)> =
        fields.into_iter().map(|field| Ok((field, Bounds::of(&params, field)?))).collect::<Result<_, ApiError>>()?;
    let objects = lock(&api.objects);
    let fits = |order: &Value| {
        state.is_none_or(|state| order["state"] == state)
            && bounds.iter().all(|(field, bounds)| {
                let time = if field.ends_with("Time") { &order[*field] } else { &order["stateTransitions"][*field] };
                bounds.contain(time.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok()))
            })
    };
    page(&objects.orders, &params, fits)
}

pub(super) async fn order(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let objects = lock(&api.objects);
    let found = objects.orders.get(&id).map(|(_, order)| order.clone());
    found.map(Json).ok_or_else(|| ApiError::not_found("id", format!("There is no order '{id}'.")))
}

pub(super) async fn files(State(api): State<Arc<Api>>, params: Params) -> Result<Json<Value>, ApiError> {
    let mut names: Vec<String> = ["purpose", "limit", "startingAfter"].map(str::to_owned).to_vec();
    names.extend(COMPARISONS.map(|comparison| format!("createdTime[{comparison}]")));
    params.only(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let (purpose, bounds) = (params.one("purpose")?, Bounds::of(&params, "createdTime")?);
    let objects = lock(&api.objects);
    let fits = |file: &Value| {
        let created = file["createdTime"].as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        purpose.is_none_or(|purpose| file["purpose"] == purpose) && bounds.contain(created)
    };
    page(&objects.files, &params, fits)
}

/// One page, the newest first.
fn page(
    kept: &BTreeMap<String, (DateTime<Utc>, Value)>,
    params: &Params,
    fits: impl Fn(&Value) -> bool,
) -> Result<Json<Value>, ApiError> {
    let (limit, after) = (params.limit()?, params.one("startingAfter")?);
    let position = |id: &str| kept.get(id).map(|(time, _)| (*time, id.to_owned()));
    let before = match after {
        None => None,
        Some(id) => {
            Some(position(id).ok_or_else(|| ApiError::invalid("startingAfter", "There is no object with this id."))?)
        }
    };
    let mut sorted: Vec<(DateTime<Utc>, &String, &Value)> = kept
        .iter()
        .filter(|(id, (time, value))| {
            fits(value) && before.as_ref().is_none_or(|before| (*time, id.as_str()) < (before.0, before.1.as_str()))
        })
        .map(|(id, (time, value))| (*time, id, value))
        .collect();
    sorted.sort_by(|a, b| (b.0, b.1).cmp(&(a.0, a.1)));
    let has_more = sorted.len() > limit;
    let data: Vec<&Value> = sorted.into_iter().take(limit).map(|(_, _, value)| value).collect();
    Ok(Json(json!({ "hasMore": has_more, "data": data })))
}

/// The conditions of a request on a time.
struct Bounds {
    comparisons: Vec<(&'static str, DateTime<Utc>)>,
}

impl Bounds {
    fn of(params: &Params, field: &str) -> Result<Self, ApiError> {
        let mut comparisons = Vec::new();
        for comparison in COMPARISONS {
            if let Some(time) = params.time(&format!("{field}[{comparison}]"))? {
                comparisons.push((comparison, time));
            }
        }
        Ok(Self { comparisons })
    }

    /// Whether a time matches; an absent time matches only if there is no condition.
    fn contain<Z: chrono::TimeZone>(&self, time: Option<DateTime<Z>>) -> bool {
        let Some(time) = time.map(|time| time.to_utc()) else { return self.comparisons.is_empty() };
        self.comparisons.iter().all(|(comparison, bound)| match *comparison {
            "gt" => time > *bound,
            "gte" => time >= *bound,
            "lt" => time < *bound,
            _ => time <= *bound,
        })
    }
}
