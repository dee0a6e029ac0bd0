//! The messages that orders really cause are those that are checked in, and have the fields that are promised.
//!
//! `schemas/tests/json_schemas.rs` validates the same files against the JSON Schemas.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is reported")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use riverlock_ledger::{Decision, Projection as _};
use riverlock_processor::{
    Orders,
    domain::{Facts, OrderKey, effects},
};
use riverlock_schemas::{Envelope, Mode, json_schema};
use serde_json::Value;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("schemas/golden")
}

/// The messages of every golden event that takes effect, each as the news that it is to what came before it.
fn messages() -> BTreeMap<String, Value> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    let mut known: BTreeMap<OrderKey, Facts> = BTreeMap::new();
    let mut messages = BTreeMap::new();
    for file in files {
        let body = std::fs::read(file).unwrap();
        let envelope = Envelope::parse(&body).unwrap();
        let Decision::Apply(event) = Orders::new(vec![Mode::Test, Mode::Live]).decide(&envelope, &body) else {
            continue;
        };
        let (key, news) = Facts::of(event, false);
        let before = known.entry(key.clone()).or_default();
        let mut after = before.clone();
        after.join(news);
        for message in effects::new_messages(&key, before, &after) {
            let value: Value = serde_json::from_slice(&message.to_json(chrono::DateTime::UNIX_EPOCH)).unwrap();
            let id = value["id"].as_str().unwrap().to_owned();
            assert!(messages.insert(id.clone(), value).is_none(), "{id} fired twice");
        }
        *before = after;
    }
    messages
}

#[test]
fn the_messages_of_the_golden_events_are_for_ever_what_they_were() {
    let path = golden().join("messages/of-golden-events.json");
    let kept: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let found = messages();
    assert_eq!(found, kept, "{}:\n{:#}", path.display(), serde_json::to_value(&found).unwrap());
}

#[test]
fn a_message_has_every_field_that_its_schema_names_and_no_other() {
    let documents = json_schema::documents();
    let schemas: BTreeMap<&str, &Value> =
        documents.iter().map(|document| (document.path.as_str(), &document.schema)).collect();
    let mut kinds = BTreeSet::new();
    for message in messages().into_values() {
        let kind = message["type"].as_str().unwrap().to_owned();
        let schema = schemas[format!("message/{kind}.json").as_str()];
        for (part, schema) in [(&message, schema), (&message["data"], resolve(schema, &schema["properties"]["data"]))] {
            let promised: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
            let sent: BTreeSet<&String> = part.as_object().unwrap().keys().collect();
            assert_eq!(sent, promised, "{kind}");
        }
        kinds.insert(kind);
    }
    let expected = ["capture_failed", "completed", "disputed", "halted", "reported", "requested"];
    assert_eq!(kinds, expected.map(|kind| format!("fulfillment.{kind}")).into());
}

/// Follows a reference within the document.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}
