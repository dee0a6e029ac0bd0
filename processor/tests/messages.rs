//! The messages that orders really cause meet the JSON Schemas that are promised.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is how a failure is told")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use riverlock_ledger::{Decision, Projection as _};
use riverlock_processor::{
    Orders,
    domain::{Facts, OrderKey, effects},
};
use riverlock_schemas::{Envelope, Mode, json_schema};

/// Every golden event that takes effect, each as the news that it is to what came before.
fn messages() -> Vec<serde_json::Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("schemas/golden");
    let mut known: BTreeMap<OrderKey, Facts> = BTreeMap::new();
    let mut messages = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let body = std::fs::read(path).unwrap();
        let envelope = Envelope::parse(&body).unwrap();
        let Decision::Apply(event) = Orders::new(vec![Mode::Test, Mode::Live]).decide(&envelope, &body) else {
            continue;
        };
        let (key, news) = Facts::of(event, false);
        let before = known.entry(key.clone()).or_default();
        let mut after = before.clone();
        after.join(news);
        let new = effects::new_messages(&key, before, &after);
        messages.extend(new.iter().map(|message| message.to_json(chrono::DateTime::UNIX_EPOCH)));
        *before = after;
    }
    messages.iter().map(|bytes| serde_json::from_slice(bytes).unwrap()).collect()
}

#[test]
fn every_message_meets_the_schema_of_its_kind() {
    let documents = json_schema::documents();
    let schemas: BTreeMap<&str, _> =
        documents.iter().map(|document| (document.path.as_str(), &document.schema)).collect();
    let mut kinds = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for message in messages() {
        let kind = message["type"].as_str().unwrap().to_owned();
        let schema = schemas[format!("message/{kind}.json").as_str()];
        let validator = jsonschema::validator_for(schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(&message).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{message}: {errors:?}");
        for (part, schema) in [(&message, schema), (&message["data"], &resolve(schema, &schema["properties"]["data"]))]
        {
            let promised: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
            let sent: BTreeSet<&String> = part.as_object().unwrap().keys().collect();
            assert_eq!(sent, promised, "a message of {kind} has what its schema names, and nothing else");
        }
        assert!(ids.insert(message["id"].to_string()), "{} fired twice", message["id"]);
        kinds.insert(kind);
    }
    let expected = ["capture_failed", "completed", "disputed", "halted", "reported", "requested"];
    assert_eq!(kinds, expected.map(|kind| format!("fulfillment.{kind}")).into());
}

/// Follows a reference within the document.
fn resolve(document: &serde_json::Value, schema: &serde_json::Value) -> serde_json::Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap().clone(),
        None => schema.clone(),
    }
}
