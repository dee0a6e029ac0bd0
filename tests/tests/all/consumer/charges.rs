//! Charges and fulfillments: any order of arrival, before their order is stored, separate modes.

use std::{collections::BTreeMap, path::Path};

use riverlock_ledger::{Record, batch};
use riverlock_processor::{Orders, store};
use riverlock_schemas::Mode;
use riverlock_tests::{Database, now, outcomes, record, state};
use sqlx::PgConnection;

async fn apply(connection: &mut PgConnection, bodies: &[Vec<u8>], partition: i32) {
    let records: Vec<Record> = bodies.iter().zip(0..).map(|(body, offset)| record(partition, offset, body)).collect();
    let orders = Orders::new(vec![Mode::Test, Mode::Live]);
    batch::apply(connection, &orders, &records, None, now()).await.expect("a batch is stored");
}

/// The events of `schemas/golden/` that concern an order and are applied.
fn golden() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("schemas/golden");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    files.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[tokio::test]
async fn golden_events_yield_the_same_tables_in_any_order_with_duplicates_and_any_batch_size() {
    let golden = golden();
    let mut states = Vec::new();
    for seed in 0..8 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bodies = golden.clone();
        bodies.extend(random.choose_multiple(golden.iter().cloned(), 10));
        random.shuffle(&mut bodies);
        let database = Database::create().await.unwrap();
        let mut connection = database.connect().await.unwrap();
        // In the first run each event has its own transaction, in the last one all share one.
        for (batch, partition) in bodies.chunks(usize::try_from(1 + seed * 6).unwrap()).zip(0..) {
            apply(&mut connection, batch, partition).await;
        }
        let outcomes = outcomes(&mut connection).await.unwrap();
        assert_eq!(outcomes.get("dead"), None, "no golden event is dead: {outcomes:?}");
        assert_eq!(outcomes["duplicate"], 10);
        states.push(state(&mut connection).await.unwrap());
    }
    assert!(states[0].contains("fulfillment.capture_failed") && states[0].contains("ful_02"), "{}", states[0]);
    assert!(states.iter().all(|state| *state == states[0]), "the tables differ");
}

fn event(id: &str, event_type: &str, live: bool, object: &str) -> Vec<u8> {
    format!(
        r#"{{"id":"{id}","type":"{event_type}","liveMode":{live},"createdTime":"2026-01-02T00:00:00Z","data":{{"object":{object}}}}}"#
    )
    .into_bytes()
}

#[tokio::test]
async fn facts_that_arrive_before_their_order_are_kept_on_hold_and_joined() {
    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    let early = [
        event(
            "f",
            "fulfillment.created",
            false,
            r#"{"id":"ful_1","orderId":"o","trackingNumber":"T1","items":[{"itemId":"l","quantity":1,"cancelQuantity":1}]}"#,
        ),
        event(
            "c",
            "order.charge.capture.failed",
            false,
            r#"{"id":"ch","orderId":"o","amount":9.95,"currency":"EUR","captures":[{"id":"ca","state":"failed","amount":9.95}]}"#,
        ),
        event(
            "x",
            "order.charge.capture.failed",
            true,
            r#"{"id":"ch","orderId":"o","captures":[{"id":"live","state":"failed"}]}"#,
        ),
    ];
    apply(&mut connection, &early, 0).await;
    let views = store::find(&mut connection, "o").await.unwrap();
    assert_eq!(views.iter().map(|view| view.status.as_str()).collect::<Vec<_>>(), ["on_hold", "on_hold"]);

    let accepted = event(
        "a",
        "order.accepted",
        false,
        r#"{"id":"o","state":"accepted","items":[{"id":"l","skuId":"s","quantity":3,"productDetails":{"physical":true}}]}"#,
    );
    apply(&mut connection, &[accepted], 1).await;
    let views = store::find(&mut connection, "o").await.unwrap();
    let [live, test] = &views[..] else { panic!("{views:?}") };
    assert_eq!((live.status.as_str(), live.operations[1].operation_id.as_str()), ("on_hold", "live"));
    assert!(live.lines.is_empty() && live.shipments.is_empty(), "test data does not reach a live order");

    assert_eq!((test.status.as_str(), test.ofi_received, test.ocn_received), ("ready", true, false));
    assert_eq!(test.efn_status.as_str(), "pending");
    assert_eq!(test.anomalies, ["capture_failed"]);
    let line = &test.lines[0];
    assert_eq!((line.quantity, line.fulfilled_quantity, line.cancelled_quantity), (Some(3), 1, 1));
    assert_eq!((line.sku_id.as_deref(), line.physical), (Some("s"), Some(true)));
    assert_eq!(test.shipments[0].tracking_number.as_deref(), Some("T1"));
    assert_eq!(test.operations[1].amount.unwrap().to_string(), "9.95");

    let sent: Vec<(String, String)> = sqlx::query_as("SELECT kind, effect_key FROM effects WHERE NOT live_mode")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let sent: BTreeMap<String, String> = sent.into_iter().collect();
    let expected = [
        ("fulfillment.capture_failed", "capture:ch:ca"),
        ("fulfillment.reported", "ful_1"),
        ("fulfillment.requested", ""),
    ];
    assert_eq!(sent, expected.map(|(kind, key)| (kind.to_owned(), key.to_owned())).into());
}
