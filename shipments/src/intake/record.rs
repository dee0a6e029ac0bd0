//! Reads a record of the topic of shipments. Pure.

use riverlock_digital_river::fulfillments::Line;
use riverlock_ledger::{DeadReason, detail::safe};
use riverlock_schemas::{
    cloud_event::{Message, RefusedBy, ShipmentRefused},
    shipment::ShipmentRecord,
};

use crate::{AddError, NewReport, Source, add::KEY_CHARS_MAX, messages::bounded};

/// Largest shipment, as JSON, in bytes.
pub const SHIPMENT_BYTES_MAX: usize = 256 * 1024;

/// Reads a shipment.
///
/// # Errors
/// When the body is too large, is not JSON, or does not have the shape of a shipment.
pub fn read(body: &[u8]) -> Result<NewReport, DeadReason> {
    let bytes = body.len();
    if bytes > SHIPMENT_BYTES_MAX {
        let detail = format!("the shipment has {bytes} bytes, more than the limit of {SHIPMENT_BYTES_MAX}");
        return Err(DeadReason { reason: "too_large", detail });
    }
    let record: ShipmentRecord = serde_json::from_slice(body)
        .map_err(|error| DeadReason { reason: "shape", detail: safe(&error.to_string()) })?;
    let lines = record.lines.into_iter().map(|line| Line {
        line_id: line.line_id,
        quantity: line.quantity,
        cancel_quantity: line.cancel_quantity,
    });
    Ok(NewReport {
        order_id: record.order_id.to_string(),
        mode: record.mode,
        idempotency_key: record.idempotency_key,
        lines: lines.collect(),
        tracking_company: record.tracking_company,
        tracking_number: record.tracking_number,
        tracking_url: record.tracking_url,
        source: Source::Kafka,
        created_by: "Kafka".to_owned(),
    })
}

/// The message about a shipment that was not stored. `position` identifies its record in every Kafka cluster.
pub(super) fn refused(new: &NewReport, error: &AddError, position: String) -> Option<Message> {
    Some(Message::ShipmentRefused(ShipmentRefused {
        order_id: riverlock_schemas::OrderId::parse(new.order_id.as_str()).ok()?,
        mode: new.mode,
        report_id: None,
        idempotency_key: key(new),
        refused_by: RefusedBy::Riverlock,
        code: error.code_name().to_owned(),
        detail: bounded(&error.to_string()),
        refusal_key: position,
    }))
}

/// The idempotency key, up to its longest valid length.
pub(super) fn key(new: &NewReport) -> String {
    new.idempotency_key.chars().filter(|c| !c.is_control()).take(KEY_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_dead_and_its_detail_shows_no_value_of_the_body() {
        let whole = br#"{"orderId":"1","mode":"test","idempotencyKey":"k","lines":[{"lineId":"a","quantity":1}]}"#;
        let new = read(whole).unwrap();
        assert_eq!((new.order_id.as_str(), new.lines.len(), new.source), ("1", 1, Source::Kafka));
        let large = vec![b' '; SHIPMENT_BYTES_MAX + 1];
        for (body, reason) in [
            (&b""[..], "shape"),
            (b"<html>", "shape"),
            (br#"{"orderId":"1","mode":"test","idempotencyKey":"k"}"#, "shape"),
            (br#"{"orderId":"1","mode":"Ada Lovelace","idempotencyKey":"k","lines":[]}"#, "shape"),
            (&large, "too_large"),
        ] {
            let dead = read(body).unwrap_err();
            assert!(dead.reason == reason && !dead.detail.contains("Ada"), "{dead:?}");
        }
    }
}
