//! `/fulfillments`: reports of quantities that were shipped or will not be shipped.

use riverlock_schemas::Mode;
use serde_json::{Value, json};

use crate::{
    client::{Call, Client, Priority},
    failure::Error,
    page::Page,
};

/// Most fulfillments on a page. Source: Digital River, "Lists".
const PAGE_MAX: usize = 100;

/// Most pages of one order.
const PAGES_MAX: usize = 100;

/// The key of `metadata` for the report id.
pub const REPORT_KEY: &str = "riverlockReport";

/// The reported quantities of one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// The line's id.
    pub line_id: String,
    /// Quantity that was shipped; its amount is captured.
    pub quantity: i64,
    /// Quantity that will not be shipped; its amount is released.
    pub cancel_quantity: i64,
}

/// A shipment report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Riverlock's report id, sent in `metadata`.
    pub report_id: String,
    /// The order.
    pub order_id: String,
    /// The lines; at least one.
    pub lines: Vec<Line>,
    /// The carrier.
    pub tracking_company: Option<String>,
    /// The carrier's tracking number.
    pub tracking_number: Option<String>,
    /// URL for tracking the shipment.
    pub tracking_url: Option<String>,
}

/// A fulfillment as Digital River returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fulfillment {
    /// Digital River's id.
    pub id: String,
    /// The report id, if Riverlock created the fulfillment and Digital River returns its metadata.
    pub report_id: Option<String>,
    /// Its lines.
    pub lines: Vec<Line>,
}

impl Fulfillment {
    /// Parses a fulfillment tolerantly.
    ///
    /// # Errors
    /// When it has no id.
    pub fn read(value: &Value) -> Result<Self, String> {
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let lines = value.get("items").and_then(Value::as_array).into_iter().flatten().filter_map(|item| {
            let line_id = text(item, "itemId")?;
            Some(Line {
                line_id,
                quantity: count(item.get("quantity")),
                cancel_quantity: count(item.get("cancelQuantity")),
            })
        });
        Ok(Self {
            id: text(value, "id").filter(|id| !id.is_empty()).ok_or("a fulfillment has no `id`")?,
            report_id: value.get("metadata").and_then(|metadata| text(metadata, REPORT_KEY)),
            lines: lines.collect(),
        })
    }
}

/// Parses a quantity, which Digital River's examples show both as a number and as a string.
fn count(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::Number(number)) => number.as_i64().unwrap_or_default(),
        Some(Value::String(text)) => text.trim().parse().unwrap_or_default(),
        _ => 0,
    }
}

/// Reports a shipment. The request is never repeated if it may have been executed.
///
/// # Errors
/// When Digital River rejects the report or does not answer; [`Error::is_ambiguous`] tells whether it may have been
/// executed.
pub async fn create(client: &Client, mode: Mode, report: &Report) -> Result<(Fulfillment, Option<String>), Error> {
    let items = report.lines.iter().map(|line| {
        let mut item = json!({ "itemId": line.line_id });
        for (name, count) in [("quantity", line.quantity), ("cancelQuantity", line.cancel_quantity)] {
            if count > 0 {
                item[name] = json!(count);
            }
        }
        item
    });
    let items: Vec<Value> = items.collect();
    let metadata = json!({ REPORT_KEY: report.report_id });
    let mut body = json!({ "orderId": report.order_id, "items": items, "metadata": metadata });
    for (name, text) in [
        ("trackingCompany", &report.tracking_company),
        ("trackingNumber", &report.tracking_number),
        ("trackingUrl", &report.tracking_url),
    ] {
        if let Some(text) = text {
            body[name] = json!(text);
        }
    }
    let call = Call::post("fulfillments_create", &["fulfillments"], &body);
    let answer = client.send(mode, &call).await?;
    let value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string());
    let read = value.and_then(|value| Fulfillment::read(&value));
    let fulfillment = read.map_err(|cause| client.unreadable(mode, &call, &answer, cause))?;
    Ok((fulfillment, answer.request_id))
}

/// Lists all fulfillments of an order. Also returns the id of the last request.
///
/// # Errors
/// When Digital River does not answer with a finite list.
pub async fn of_order(
    client: &Client,
    mode: Mode,
    order_id: &str,
) -> Result<(Vec<Fulfillment>, Option<String>), Error> {
    let mut found: Vec<Fulfillment> = Vec::new();
    let mut after: Option<String> = None;
    for page_number in 1.. {
        let mut call = Call::get("fulfillments_list", &["fulfillments"])
            .query("orderId", order_id)
            .query("limit", PAGE_MAX.to_string())
            .priority(Priority::Foreground);
        if let Some(id) = &after {
            call = call.query("startingAfter", id.as_str());
        }
        let answer = client.send(mode, &call).await?;
        let unreadable = |cause: String| client.unreadable(mode, &call, &answer, cause);
        let page = Page::read(&answer.body).map_err(unreadable)?;
        let before = found.len();
        for element in &page.data {
            let value: Value = serde_json::from_str(element.get()).map_err(|error| unreadable(error.to_string()))?;
            let fulfillment = Fulfillment::read(&value).map_err(unreadable)?;
            if found.iter().all(|known| known.id != fulfillment.id) {
                found.push(fulfillment);
            }
        }
        if !page.has_more {
            return Ok((found, answer.request_id));
        }
        if found.len() == before || page_number >= PAGES_MAX {
            return Err(unreadable("the list of fulfillments does not end".to_owned()));
        }
        after = found.last().map(|fulfillment| fulfillment.id.clone());
    }
    unreachable!("the last iteration returns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fulfillments_are_parsed_tolerantly() {
        let value = json!({ "id": "ful_1", "items": [{ "itemId": "a", "quantity": "2", "cancelQuantity": 0 }, { "x": 1 }],
                            "metadata": { REPORT_KEY: "r" }, "new": 1 });
        let line = Line { line_id: "a".into(), quantity: 2, cancel_quantity: 0 };
        let expected = Fulfillment { id: "ful_1".into(), report_id: Some("r".into()), lines: vec![line] };
        assert_eq!(Fulfillment::read(&value).unwrap(), expected);
        assert!(Fulfillment::read(&json!({ "items": [] })).is_err());
    }
}
