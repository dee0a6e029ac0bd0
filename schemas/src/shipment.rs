//! Records of the topic of shipments, which a warehouse writes: what was shipped, and what will not be shipped.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{Mode, OrderId};

/// A shipment to be reported to Digital River.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Shipment")]
pub struct ShipmentRecord {
    /// Digital River's id of the order. Also the record's key, so that the shipments of an order are read in order.
    #[serde(deserialize_with = "order_id")]
    pub order_id: OrderId,
    /// The order's mode.
    pub mode: Mode,
    /// 1 to 200 visible ASCII characters, chosen by the warehouse: the same key with the same content is the same shipment.
    #[schemars(length(min = 1, max = 200))]
    pub idempotency_key: String,
    /// What was shipped or cancelled; each line once.
    #[schemars(length(min = 1, max = 1_000))]
    pub lines: Vec<ShipmentLine>,
    /// The carrier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking_company: Option<String>,
    /// The carrier's tracking number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking_number: Option<String>,
    /// The carrier's tracking page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking_url: Option<String>,
}

/// A line of a shipment. One of the quantities must be above 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShipmentLine {
    /// Digital River's id of the order's line.
    pub line_id: String,
    /// Units shipped; their amount is captured.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub quantity: i64,
    /// Units that will not be shipped; their amount is released.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub cancel_quantity: i64,
}

fn order_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OrderId, D::Error> {
    OrderId::parse(String::deserialize(deserializer)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shipment_needs_its_order_mode_key_and_lines_and_has_no_other_fields() {
        let read = |text: &str| serde_json::from_str::<ShipmentRecord>(text).map_err(|error| error.to_string());
        let whole = r#"{"orderId":"204440790336","mode":"live","idempotencyKey":"parcel-1","lines":[{"lineId":"1","quantity":2}]}"#;
        let record = read(whole).unwrap();
        assert_eq!((record.mode, record.lines[0].quantity, record.lines[0].cancel_quantity), (Mode::Live, 2, 0));
        assert_eq!(serde_json::to_string(&record).unwrap().replace(r#","cancelQuantity":0"#, ""), whole);
        for (from, to) in [
            (r#""mode":"live","#, ""),
            (r#""mode":"live""#, r#""mode":"production""#),
            ("204440790336", ""),
            (r#""quantity":2"#, r#""quantity":"two""#),
            (r#""lineId":"1""#, r#""line":"1""#),
            ("}]}", r#"}],"surprise":1}"#),
        ] {
            assert!(whole.contains(from) && read(&whole.replacen(from, to, 1)).is_err(), "{from} -> {to}");
        }
    }
}
