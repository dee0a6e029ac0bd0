//! JSON Schemas of the events and shipments that Riverlock reads and of the messages that it publishes.
//!
//! They are generated from the Rust types and checked in under `schemas/json/`; a test fails when the two differ. An event's
//! schema describes the documented fields that are read: other fields are allowed, and nearly every field is optional. Every
//! valid event can be read; some invalid events can be read too (see `wire`). A message's schema is a contract: required fields
//! are present in every message, fields may be added, and none is removed.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::{
    cloud_event::{
        CloudEvent, DATA_CONTENT_TYPE, FulfillmentCaptureFailed, FulfillmentEnded, FulfillmentReported,
        FulfillmentRequested, InvoiceStored, SOURCE, SPEC_VERSION, ShipmentRefused, ShipmentReported,
    },
    events::{
        charge_event::WireCharge, event_type, file_event::WireFile, fulfillment_event::WireFulfillment,
        order_object::WireOrderCharges, order_snapshot::WireOrder,
    },
    shipment::ShipmentRecord,
    wire::time::Time,
};

/// A schema and its file.
#[derive(Clone, Debug)]
pub struct Document {
    /// The path under `schemas/json/`.
    pub path: String,
    /// The schema.
    pub schema: Value,
}

/// Every schema.
#[must_use]
pub fn documents() -> Vec<Document> {
    let snapshots: Vec<&str> =
        event_type::ORDER_SNAPSHOTS.into_iter().chain(event_type::MORE_ORDER_SNAPSHOTS).collect();
    vec![
        Document { path: "event/envelope.json".to_owned(), schema: envelope() },
        event::<WireOrder>("order", &json!({ "enum": snapshots })),
        event::<ChargeObject>(
            "charge",
            &json!({
                "type": "string",
                "pattern": "^order\\.charge\\.",
                "examples": event_type::CHARGES,
            }),
        ),
        event::<ChargebackObject>("chargeback", &json!({ "const": event_type::ORDER_CHARGEBACK })),
        event::<WireFulfillment>("fulfillment", &json!({ "const": event_type::FULFILLMENT_CREATED })),
        event::<WireFile>("file", &json!({ "enum": event_type::FILES })),
        message::<FulfillmentRequested>("fulfillment.requested"),
        message::<FulfillmentReported>("fulfillment.reported"),
        message::<FulfillmentCaptureFailed>("fulfillment.capture_failed"),
        message::<FulfillmentEnded>("fulfillment.halted"),
        message::<FulfillmentEnded>("fulfillment.completed"),
        message::<FulfillmentEnded>("fulfillment.disputed"),
        message::<InvoiceStored>("invoice.stored"),
        message::<ShipmentReported>("shipment.reported"),
        message::<ShipmentRefused>("shipment.refused"),
        Document { path: "shipment.json".to_owned(), schema: shipment() },
    ]
}

/// The path of the schema for events of this type: that of their subject, or else that of any event.
#[must_use]
pub fn event_path(event_type: &str) -> &'static str {
    match event_type::subject(event_type) {
        Some(event_type::Subject::Order) => "event/order.json",
        Some(event_type::Subject::Charge) => "event/charge.json",
        Some(event_type::Subject::Chargeback) => "event/chargeback.json",
        Some(event_type::Subject::Fulfillment) => "event/fulfillment.json",
        None if event_type::FILES.contains(&event_type) => "event/file.json",
        None => "event/envelope.json",
    }
}

/// The schema of a record of the topic of shipments.
fn shipment() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    generator.into_root_schema_for::<ShipmentRecord>().to_value()
}

/// The schema of any event, whatever its type.
fn envelope() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Event",
        "description": "Any event that ingest accepts. Invalid values of `data`, `liveMode` and `createdTime` count as absent.",
        "type": "object",
        "properties": {
            "id": { "description": "Digital River's id of the event.", "type": "string", "minLength": 1 },
            "type": { "description": "The event's type, for example `order.accepted`.", "type": "string", "minLength": 1 },
            "data": true,
            "liveMode": true,
            "createdTime": true,
        },
        "required": ["id", "type"],
    })
}

/// An event that a consumer handles.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "the fields exist for the schema; the envelope and the payloads are parsed separately")]
struct Event<T> {
    /// Digital River's id of the event, the same in every delivery.
    #[schemars(length(min = 1, max = 255))]
    id: String,
    /// The payload.
    r#type: String,
    data: Data<T>,
    /// Whether the event is live; may be absent if the object has the field.
    live_mode: Option<bool>,
    /// When Digital River created the event.
    created_time: Option<Time>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "the field exists for the schema")]
struct Data<T> {
    object: T,
}

/// A charge with `orderId`, or an order with its charges.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the variants exist for the schema")]
enum ChargeObject {
    Charge(Box<WireCharge>),
    Order(Box<OrderWithCharges>),
}

/// An order; an object with `orderId` is a charge.
#[derive(JsonSchema)]
#[schemars(extend("not" = { "required": ["orderId"] }))]
#[expect(dead_code, reason = "the fields exist for the schema")]
struct OrderWithCharges {
    #[serde(flatten)]
    order: WireOrder,
    #[serde(flatten)]
    charges: WireOrderCharges,
}

/// A sales transaction with `orderId`, or an order.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the variants exist for the schema")]
enum ChargebackObject {
    #[serde(rename_all = "camelCase")]
    Transaction {
        order_id: String,
        created_time: Option<Time>,
    },
    Order(Box<WireOrder>),
}

fn event<T: JsonSchema>(name: &str, event_type: &Value) -> Document {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<Event<T>>().to_value();
    schema["title"] = format!("Event about {}", article(name)).into();
    schema["properties"]["type"] = event_type.clone();
    Document { path: format!("event/{name}.json"), schema }
}

fn article(name: &str) -> String {
    format!("{} {name}", if name.starts_with('o') { "an" } else { "a" })
}

fn message<T: JsonSchema + 'static>(kind: &str) -> Document {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<CloudEvent<'static, T>>().to_value();
    schema["title"] = kind.into();
    for (field, value) in
        [("specversion", SPEC_VERSION), ("source", SOURCE), ("type", kind), ("datacontenttype", DATA_CONTENT_TYPE)]
    {
        schema["properties"][field] = json!({ "const": value });
    }
    Document { path: format!("message/{kind}.json"), schema }
}
