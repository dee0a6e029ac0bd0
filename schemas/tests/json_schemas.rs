//! The checked-in JSON Schemas are generated from the Rust types and accept the same events.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use riverlock_schemas::{
    Envelope, FileId, LineId, Mode, OrderId,
    cloud_event::{
        FulfillmentRequested, InvoiceStored, Message, RefusedBy, RequestedLine, ShipmentRefused, ShipmentReported,
    },
    events::{
        event_type,
        file_event::{FileEvent, Purpose},
        order_event::OrderEvent,
    },
    hash::Sha256Hash,
    json_schema::{documents, event_path},
    shipment::ShipmentRecord,
};
use serde_json::{Value, json};

/// The command that generates the schemas.
const REGENERATE: &str = "cargo run -p riverlock-schemas --example json-schemas";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { assert!(found.insert(path)) }
    }
}

fn schemas() -> BTreeMap<String, jsonschema::Validator> {
    let compile = |schema: &Value| jsonschema::validator_for(schema).unwrap();
    documents().into_iter().map(|document| (document.path, compile(&document.schema))).collect()
}

#[test]
fn the_checked_in_schemas_are_up_to_date() {
    let mut found = BTreeSet::new();
    files(&folder("json"), &mut found);
    let documents = documents();
    for document in &documents {
        let path = folder("json").join(&document.path);
        assert!(found.remove(&path), "{} is missing: run `{REGENERATE}`", path.display());
        let kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(kept, document.schema, "{} is not up to date: run `{REGENERATE}`", path.display());
    }
    assert!(found.is_empty(), "{found:?} do not belong to a type: run `{REGENERATE}`");
    assert!(documents.len() > 10);
}

#[test]
fn every_golden_event_matches_the_schema_of_its_type_and_of_any_event() {
    let schemas = schemas();
    let mut used = BTreeSet::new();
    let mut golden = BTreeSet::new();
    files(&folder("golden"), &mut golden);
    let is_event = |path: &&PathBuf| {
        path.parent() == Some(&folder("golden")) && path.extension().is_some_and(|ending| ending == "json")
    };
    for path in golden.iter().filter(is_event) {
        let event: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let own = event_path(event["type"].as_str().unwrap());
        for schema in [own, "event/envelope.json"] {
            let errors: Vec<String> = schemas[schema].iter_errors(&event).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{} against {schema}: {errors:?}", path.display());
        }
        used.insert(own);
    }
    let all: BTreeSet<&str> = schemas.keys().map(String::as_str).filter(|path| path.starts_with("event/")).collect();
    assert_eq!(used, all, "every schema of events was used");
}

#[test]
fn events_that_consumers_reject_do_not_match_the_schema() {
    let schemas = schemas();
    for (event_type, object) in [
        ("order.accepted", json!({ "id": "o", "items": [["l", "sku", 7]] })),
        ("order.accepted", json!({ "id": "o", "items": [{ "id": "l", "quantity": 1.5 }] })),
        ("order.accepted", json!({ "id": "o", "items": [{ "id": "l", "quantity": -1 }] })),
        ("order.accepted", json!({ "id": "o", "totalAmount": "a lot" })),
        ("order.accepted", json!({ "id": "o", "items": [{ "id": { "value": "l" } }] })),
        ("order.accepted", json!("o")),
        ("order.charge.failed", json!({ "id": "c", "orderId": "o", "captures": [{ "amount": "x" }] })),
        ("fulfillment.created", json!({ "id": "f", "orderId": "o", "items": [{ "itemId": "l", "quantity": -1 }] })),
        ("fulfillment.created", json!({ "id": "f", "orderId": "o", "items": [{ "itemId": true }] })),
        ("order.invoice.created", json!({ "fileId": 7, "orderId": "o" })),
    ] {
        let event = json!({ "id": "e", "type": event_type, "liveMode": false, "createdTime": "2026-01-01T00:00:00Z",
                            "data": { "object": object } });
        let body = event.to_string();
        let envelope = Envelope::parse(body.as_bytes()).unwrap();
        let readable = match Purpose::of_event_type(event_type) {
            Some(purpose) => FileEvent::parse(&envelope, purpose, body.as_bytes()).is_ok(),
            None => OrderEvent::parse(&envelope, body.as_bytes(), None).is_ok(),
        };
        assert!(!readable, "{event}");
        assert!(!schemas[event_path(event_type)].is_valid(&event), "{event}");
    }
}

#[test]
fn every_handled_type_has_its_own_schema() {
    let schemas = schemas();
    let types = event_type::ORDER_SNAPSHOTS.iter().chain(&event_type::MORE_ORDER_SNAPSHOTS).chain(&event_type::CHARGES);
    let more = [event_type::ORDER_CHARGEBACK, event_type::FULFILLMENT_CREATED];
    for event_type in types.chain(&more).chain(&event_type::FILES) {
        let path = event_path(event_type);
        assert_ne!(path, "event/envelope.json", "{event_type}");
        let event = json!({ "id": "e", "type": event_type, "data": { "object": { "orderId": "o" } } });
        assert!(schemas[path].is_valid(&event), "{path} accepts {event_type}");
        let other = json!({ "id": "e", "type": "payout.created", "data": { "object": { "orderId": "o" } } });
        assert!(!schemas[path].is_valid(&other), "{path} accepts only its types");
    }
}

#[test]
fn every_golden_message_matches_only_the_schema_of_its_kind() {
    let schemas = schemas();
    let path = folder("golden/messages/of-golden-events.json");
    let messages: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut kinds = BTreeSet::new();
    for message in messages.values() {
        let own = format!("message/{}.json", message["type"].as_str().unwrap());
        let errors: Vec<String> = schemas[&own].iter_errors(message).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{message}: {errors:?}");
        assert_eq!(
            schemas.iter().filter(|(path, schema)| path.starts_with("message/") && schema.is_valid(message)).count(),
            1
        );
        kinds.insert(own);
    }
    assert_eq!(kinds.len(), 6, "{kinds:?}");
}

fn stored(order_id: OrderId) -> Message {
    Message::InvoiceStored(InvoiceStored {
        order_id,
        mode: Mode::Live,
        file_id: FileId::parse("2c3d4e5f-6071-4829-93a4-b5c6d7e8f90a").unwrap(),
        purpose: Purpose::CreditMemo,
        object_key: "live/3/310000000001/x.pdf".to_owned(),
        sha256: Sha256Hash::of(b"%PDF-"),
        size_bytes: 5,
    })
}

#[test]
fn shipments_match_the_schema_if_and_only_if_they_can_be_read() {
    let schemas = schemas();
    let whole = json!({ "orderId": "310000000001", "mode": "test", "idempotencyKey": "parcel-1",
                        "lines": [{ "lineId": "1", "quantity": 2, "cancelQuantity": 0 }] });
    let with = |name: &str, value: Value| {
        let mut record = whole.clone();
        record[name] = value;
        record
    };
    for (record, readable) in [
        (whole.clone(), true),
        (with("trackingNumber", json!("JD0146000030")), true),
        (with("orderId", json!("")), false),
        (with("mode", json!("production")), false),
        (with("lines", json!([{ "quantity": 2 }])), false),
        (with("lines", json!([{ "lineId": "1", "quantity": 1.5 }])), false),
        (with("surprise", json!(1)), false),
        (json!([]), false),
    ] {
        assert_eq!(schemas["shipment.json"].is_valid(&record), readable, "{record}");
        assert_eq!(serde_json::from_value::<ShipmentRecord>(record.clone()).is_ok(), readable, "{record}");
    }
}

#[test]
fn every_message_matches_only_the_schema_of_its_kind() {
    let order_id = OrderId::parse("310000000001").unwrap();
    let requested = Message::FulfillmentRequested(FulfillmentRequested {
        order_id: order_id.clone(),
        mode: Mode::Test,
        status: "ready",
        upstream_id: None,
        service_level: None,
        ship_to: None,
        lines: vec![RequestedLine {
            line_id: LineId::parse("1").unwrap(),
            sku_id: None,
            quantity: Some(2),
            fulfilled_quantity: 0,
            cancelled_quantity: 0,
            physical: None,
        }],
        line_count: 1,
        more_lines_at: None,
    });
    let reported = Message::ShipmentReported(ShipmentReported {
        order_id: order_id.clone(),
        mode: Mode::Live,
        report_id: "0192f3c2-7d1e-7aa0-b3f1-5f3c2a9d0e11".to_owned(),
        idempotency_key: "parcel-1".to_owned(),
        fulfillment_id: "ful_1".to_owned(),
    });
    let refused = Message::ShipmentRefused(ShipmentRefused {
        order_id: order_id.clone(),
        mode: Mode::Live,
        report_id: None,
        idempotency_key: "parcel-1".to_owned(),
        refused_by: RefusedBy::Riverlock,
        code: "unknown_line".to_owned(),
        detail: "the order has no line 7".to_owned(),
        refusal_key: "a".to_owned(),
    });
    let stored = stored(order_id);
    let schemas = schemas();
    for message in [requested, stored, reported, refused] {
        let event: Value = serde_json::from_slice(&message.to_json(chrono::DateTime::UNIX_EPOCH)).unwrap();
        let own = format!("message/{}.json", message.kind());
        let met: Vec<&String> = schemas
            .iter()
            .filter(|(path, schema)| path.starts_with("message/") && schema.is_valid(&event))
            .map(|(path, _)| path)
            .collect();
        assert_eq!(met, [&own], "{event}");
    }
}
