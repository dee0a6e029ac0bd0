//! Several bodies of one event: spellings are duplicates, contradicting bodies are a conflict, in either order.

use std::collections::{BTreeMap, BTreeSet};

use riverlock_ledger::{Projection, batch};
use riverlock_processor::Orders;
use riverlock_schemas::{Mode, kafka::record::FOLDED_BYTES_MAX, oddity::Oddity};
use riverlock_tests::{Database, outcomes, record, state};
use sqlx::PgConnection;

use crate::harness::raw::{execute, invoices, orders, value};

/// A standard event.
const STANDARD: &str = r#"{"id":"e","type":"order.accepted","data":{"object":{"id":"o","createdTime":"2026-01-01T00:00:00Z","currency":"EUR","totalAmount":27.01,"upstreamId":"U-1","shipTo":{"address":{"line1":"Musterweg 1","city":"Bonn","postalCode":"53111","country":"DE"},"name":"Erika Muster"},"items":[{"id":"l","skuId":"sku-1","quantity":2,"state":"created"}],"updatedTime":"2026-01-01T00:00:05Z","state":"accepted","stateTransitions":{"accepted":"2026-01-01T00:00:05Z"},"liveMode":false}},"liveMode":false,"createdTime":"2026-01-01T00:00:06Z"}"#;

fn replaced(from: &str, to: &str) -> Vec<u8> {
    assert!(STANDARD.contains(from), "{from}");
    STANDARD.replacen(from, to, 1).into_bytes()
}

/// The same event from a webhook with expanded events.
fn expanded() -> Vec<u8> {
    replaced(r#""quantity":2"#, r#""productDetails":{"id":"sku-1","physical":true},"quantity":2"#)
}

/// The same event in another API version: no transitions, a service level, a number as a string.
fn other_version() -> Vec<u8> {
    let text = STANDARD
        .replace(r#","stateTransitions":{"accepted":"2026-01-01T00:00:05Z"}"#, "")
        .replace(r#""upstreamId":"U-1""#, r#""shippingChoice":{"serviceLevel":"SG"}"#)
        .replace("27.01", "\"27.010\"");
    text.into_bytes()
}

/// The same event, fetched from the Events API and serialized again.
fn fetched() -> Vec<u8> {
    let event: serde_json::Value = serde_json::from_str(STANDARD).unwrap();
    format!("{event:#}").into_bytes()
}

/// A database that is cleared between runs.
struct Tables {
    connection: PgConnection,
    _database: Database,
}

/// The tables without columns that depend on the reading order, and the outcomes.
type Taken = (String, BTreeMap<String, i64>);

impl Tables {
    async fn new() -> Self {
        let database = Database::create().await.unwrap();
        Self { connection: database.connect().await.unwrap(), _database: database }
    }

    async fn clear(&mut self) {
        execute(
            &mut self.connection,
            "TRUNCATE events, orders, charge_operations, shipments, outbox, dead_letters, invoices CASCADE",
        )
        .await;
    }

    /// Applies bodies one by one.
    async fn take(&mut self, projection: &impl Projection, partition: i32, bodies: &[Vec<u8>]) {
        for (body, offset) in bodies.iter().zip(0..) {
            let record = record(partition, offset, body);
            batch::apply(&mut self.connection, projection, &[record], None, riverlock_tests::now()).await.unwrap();
        }
    }

    async fn taken(&mut self, bodies: &[Vec<u8>]) -> Taken {
        self.clear().await;
        self.take(&orders(), 0, bodies).await;
        self.found().await
    }

    /// As [`Self::taken`], but all in one batch.
    async fn taken_at_once(&mut self, bodies: &[Vec<u8>]) -> Taken {
        self.clear().await;
        let records: Vec<_> = bodies.iter().zip(0..).map(|(body, offset)| record(0, offset, body)).collect();
        batch::apply(&mut self.connection, &orders(), &records, None, riverlock_tests::now()).await.unwrap();
        self.found().await
    }

    async fn found(&mut self) -> Taken {
        (state(&mut self.connection).await.unwrap(), outcomes(&mut self.connection).await.unwrap())
    }
}

/// Every order of some things.
fn orders_of<T: Clone>(things: &[T]) -> Vec<Vec<T>> {
    if things.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (index, thing) in things.iter().enumerate() {
        let mut others = things.to_vec();
        others.remove(index);
        all.extend(orders_of(&others).into_iter().map(|mut rest| {
            rest.insert(0, thing.clone());
            rest
        }));
    }
    all
}

fn counts(pairs: &[(&str, i64)]) -> BTreeMap<String, i64> {
    pairs.iter().map(|(outcome, count)| ((*outcome).to_owned(), *count)).collect()
}

#[tokio::test]
async fn spellings_are_one_event_and_the_facts_of_each_count() {
    let spellings = [STANDARD.as_bytes().to_vec(), expanded(), other_version(), fetched()];
    let (mut tables, mut states) = (Tables::new().await, BTreeSet::new());
    for bodies in orders_of(&spellings) {
        let again: Vec<Vec<u8>> = bodies.iter().chain(&bodies).cloned().collect();
        let (state, outcomes) = tables.taken(&again).await;
        assert_eq!(outcomes, counts(&[("applied", 1), ("duplicate", 7)]));
        states.insert(state);
        states.insert(tables.taken_at_once(&again).await.0);
    }
    assert_eq!(states.len(), 1, "the result depends on which came first: {states:#?}");
    let state = states.first().unwrap();
    for said in [r#""conflicted": false"#, r#""physical": true"#, r#""upstreamId": "U-1""#, r#""serviceLevel": "SG""#] {
        assert!(state.contains(said), "{said} is missing in {state}");
    }
}

#[tokio::test]
async fn contradicting_bodies_mark_both_orders_in_either_order() {
    let (mut tables, standard) = (Tables::new().await, STANDARD.as_bytes().to_vec());
    for (what, other, marked) in [
        ("quantity", replaced(r#""quantity":2"#, r#""quantity":3"#), 1),
        ("another order", replaced(r#""object":{"id":"o""#, r#""object":{"id":"p""#), 2),
        ("another mode", STANDARD.replace("\"liveMode\":false", "\"liveMode\":true").into_bytes(), 2),
        ("another type", replaced("order.accepted", "order.complete"), 1),
        (
            "an unreadable quantity of another order",
            replaced(r#""object":{"id":"o""#, r#""object":{"id":"p","totalAmount":[]"#),
            1,
        ),
        ("none of our business", replaced("order.accepted", "payout.created"), 1),
    ] {
        let mut states = BTreeSet::new();
        // With a further spelling, which contradicts the other body as well.
        for bodies in orders_of(&[standard.clone(), other.clone(), expanded()]) {
            let (state, outcomes) = tables.taken(&bodies).await;
            let conflicts = outcomes.get("conflict").copied().unwrap_or_default();
            assert!((1..=2).contains(&conflicts), "{what}: {outcomes:?}");
            assert_eq!(state.matches(r#""conflicted": true"#).count(), marked, "{what}: {state}");
            assert_eq!(state.matches(r#""conflicted": false"#).count(), 0, "{what}: {state}");
            states.insert(state);
            states.insert(tables.taken_at_once(&bodies).await.0);
        }
        assert_eq!(states.len(), 1, "{what}: the result depends on which came first: {states:#?}");
    }
}

#[tokio::test]
async fn a_conflict_between_two_spellings_is_found_although_the_first_body_is_incomplete() {
    let little = br#"{"id":"e","type":"order.accepted","data":{"object":{"id":"o"}},"liveMode":false,"createdTime":"2026-01-01T00:00:06Z"}"#.to_vec();
    let (mut tables, mut states) = (Tables::new().await, BTreeSet::new());
    for bodies in orders_of(&[little, STANDARD.as_bytes().to_vec(), replaced("27.01", "27.02")]) {
        let (state, outcomes) = tables.taken(&bodies).await;
        assert_eq!(outcomes, counts(&[("applied", 1), ("conflict", 1), ("duplicate", 1)]));
        states.insert(state);
    }
    assert_eq!(states.len(), 1);
    assert!(states.first().unwrap().contains(r#""conflicted": true"#));
}

#[tokio::test]
async fn an_event_takes_effect_through_a_readable_spelling() {
    let (mut tables, dead) = (Tables::new().await, replaced("27.01", "\"a lot\""));
    for bodies in orders_of(&[dead.clone(), STANDARD.as_bytes().to_vec()]) {
        let (state, _) = tables.taken(&bodies).await;
        assert!(state.contains("fulfillment.requested") && state.contains(r#""conflicted": false"#), "{state}");
    }
    // If no spelling of an event can be read, every body is kept.
    let also_dead = String::from_utf8(dead.clone()).unwrap().replace("\"U-1\"", "\"U-2\"").into_bytes();
    tables.taken(&[dead, also_dead]).await;
    assert_eq!(value::<i64>(&mut tables.connection, "SELECT count(*) FROM dead_letters").await, 2);
}

#[tokio::test]
async fn a_body_that_is_too_large_becomes_a_dead_letter_and_a_smaller_spelling_takes_effect() {
    let metadata = format!(r#""metadata":{{"x":"{}"}},"items""#, "x".repeat(FOLDED_BYTES_MAX));
    let (mut tables, large) = (Tables::new().await, replaced(r#""items""#, &metadata));
    let (_, outcomes) = tables.taken(&[large.clone(), large.clone()]).await;
    assert_eq!(outcomes, counts(&[("dead", 1), ("duplicate", 1)]), "its event is identified");
    let reason: String =
        value(&mut tables.connection, "SELECT reason FROM dead_letters WHERE payload IS NOT NULL").await;
    assert_eq!(reason, "too_large");
    for bodies in orders_of(&[large, STANDARD.as_bytes().to_vec()]) {
        let (state, _) = tables.taken(&bodies).await;
        assert!(state.contains("fulfillment.requested") && state.contains(r#""conflicted": false"#), "{state}");
    }
}

#[tokio::test]
async fn oddities_are_counted_once_for_each_event() {
    let mut tables = Tables::new().await;
    let odd = STANDARD.replace("\"53111\"", "53111").replace("\"U-1\"", "7").replace("05Z", "05+0000");
    let modes = odd.replace("\"e\"", "\"e2\"").replacen("\"liveMode\":false", "\"liveMode\":true", 1);
    let bodies = [odd.as_str(), modes.as_str(), odd.as_str()];
    let records: Vec<_> = bodies.iter().zip(0..).map(|(body, offset)| record(0, offset, body.as_bytes())).collect();
    let now = riverlock_tests::now();
    let tally = batch::apply(&mut tables.connection, &orders(), &records, None, now).await.unwrap();
    let count = |oddity| tally.odd(oddity);
    assert_eq!((count(Oddity::Kind), count(Oddity::TimeForm), count(Oddity::ModeContradiction)), (3, 3, 1));
    assert_eq!((count(Oddity::Encoding), count(Oddity::RepeatedKey)), (0, 0));
    assert_eq!(tally.mode_contradiction.as_deref(), Some("e2"));
    let again = batch::apply(&mut tables.connection, &orders(), &records, None, now).await.unwrap();
    assert_eq!((again.odd(Oddity::Kind), again.reread), (0, 3), "records that are read again count once");
}

#[tokio::test]
async fn an_order_is_marked_by_either_consumer_that_reads_a_contradicting_body() {
    let file = br#"{"id":"e","type":"order.invoice.created","liveMode":false,"createdTime":"2026-01-01T00:00:06Z","data":{"object":{"fileId":"6e5bf525-3907-40c5-86a9-f14ce4f33f35","orderId":"o"}}}"#.to_vec();
    let (mut tables, mut states) = (Tables::new().await, Vec::new());
    for order_first in [true, false] {
        tables.clear().await;
        if order_first {
            tables.take(&orders(), 0, &[STANDARD.as_bytes().to_vec()]).await;
        }
        tables.take(&invoices(), 1, std::slice::from_ref(&file)).await;
        if !order_first {
            tables.take(&orders(), 0, &[STANDARD.as_bytes().to_vec()]).await;
        }
        let (state, outcomes) = tables.found().await;
        assert_eq!(outcomes, counts(&[("applied", 1), ("conflict", 1)]));
        states.push(state);
    }
    assert_eq!(states[0], states[1]);
    assert!(states[0].contains(r#""conflicted": true"#), "{}", states[0]);
}

#[tokio::test]
async fn records_of_earlier_versions_are_compared_by_their_rows() {
    let mut tables = Tables::new().await;
    for (other, outcome) in [
        (fetched(), "duplicate"),
        (replaced("27.01", "28"), "duplicate"),
        (replaced("order.accepted", "order.complete"), "conflict"),
    ] {
        tables.clear().await;
        tables.take(&orders(), 0, &[STANDARD.as_bytes().to_vec()]).await;
        execute(&mut tables.connection, "UPDATE events SET content = NULL").await;
        tables.take(&orders(), 1, std::slice::from_ref(&other)).await;
        assert_eq!(tables.found().await.1, counts(&[("applied", 1), (outcome, 1)]));
    }
}

#[tokio::test]
async fn an_event_of_an_ignored_mode_still_causes_conflicts() {
    let live = STANDARD.replace("\"liveMode\":false", "\"liveMode\":true").into_bytes();
    let (mut tables, mut states) = (Tables::new().await, BTreeSet::new());
    for bodies in orders_of(&[live, STANDARD.as_bytes().to_vec()]) {
        tables.clear().await;
        tables.take(&Orders::new(vec![Mode::Test]), 0, &bodies).await;
        states.insert(tables.found().await.0);
    }
    assert_eq!(states.len(), 1);
    assert!(states.first().unwrap().contains(r#""conflicted": true"#));
}
