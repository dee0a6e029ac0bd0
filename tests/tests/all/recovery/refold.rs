//! Recomputing orders from their audited events.

use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::mocking::MockCluster;
use riverlock_ledger::batch;
use riverlock_processor::{
    Orders,
    domain::Status,
    refold::{self, Obstacle, OrderDiff, Reason, RefoldFinding, RefoldPlan, Selection, Tally},
};
use riverlock_runtime::{
    SystemClock,
    kafka::{KafkaConfig, topics},
};
use riverlock_schemas::{Mode, OrderId};
use riverlock_tests::{Database, events, lives, now, outcomes, record, state};
use sqlx::PgConnection;

use crate::harness::raw::{Raw, event, execute, orders, value};

/// The findings of a refold.
#[derive(Default)]
struct Found {
    tally: Tally,
    diffs: Vec<OrderDiff>,
    obstacles: Vec<(String, Obstacle)>,
    unreadable: Vec<String>,
}

impl Found {
    fn ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.diffs.iter().map(|diff| diff.order_id.as_str()).collect();
        ids.sort_unstable();
        ids
    }
}

async fn refold(raw: &Raw, selection: Selection, apply: bool) -> Found {
    let mut found = Found::default();
    let plan = RefoldPlan {
        selection,
        orders: orders(),
        other_topics: raw.kafka.topics().documents(),
        apply: apply.then(|| Reason { by: "ada".to_owned(), why: "a bug was fixed".to_owned() }),
        clock: &SystemClock,
    };
    let mut tell = |finding| match finding {
        RefoldFinding::Differs(diff) => found.diffs.push(diff),
        RefoldFinding::Blocked(key, obstacle) => found.obstacles.push((key.order_id.as_str().to_owned(), obstacle)),
        RefoldFinding::Unreadable(row) => found.unreadable.push(row),
    };
    let tally = refold::run(&raw.kafka, &raw.database.config, plan, &mut tell, &|_, _| {}).await.unwrap();
    found.tally = tally;
    found
}

fn bodies(seed: u64, count: u64) -> Vec<Vec<u8>> {
    events(&lives(seed, count)).map(|event| event.body.to_vec()).collect()
}

/// The tables after every body was applied once.
pub(crate) async fn reference(bodies: &[Vec<u8>]) -> String {
    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    let records: Vec<_> = bodies.iter().zip(0..).map(|(body, offset)| record(0, offset, body)).collect();
    batch::apply(&mut connection, &orders(), &records, None, now()).await.unwrap();
    state(&mut connection).await.unwrap()
}

/// All rows that must not change if no order differs.
async fn all_rows(connection: &mut PgConnection) -> String {
    value(
        connection,
        "SELECT (SELECT jsonb_agg(to_jsonb(o) ORDER BY order_id, live_mode) FROM orders o)::text
             || (SELECT jsonb_agg(to_jsonb(m) ORDER BY message_id) FROM outbox m)::text",
    )
    .await
}

/// Damages orders: changes the quantity of each of their lines.
fn miscount(orders: &str) -> String {
    format!(
        "UPDATE orders SET lines = (SELECT json_object_agg(key, value || '{{\"quantity\": 77}}') FROM jsonb_each(lines::jsonb))
         WHERE lines::text <> '{{}}' AND {orders}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_orders_are_repaired_byte_for_byte_and_others_are_not_changed() {
    let raw = Raw::new().await;
    raw.take(bodies(21, 40)).await;
    let mut connection = raw.database.connect().await.unwrap();
    let (expected, before) = (state(&mut connection).await.unwrap(), all_rows(&mut connection).await);
    let found = refold(&raw, Selection::All, true).await;
    assert_eq!((found.tally.recomputed, found.tally.differing, found.tally.blocked), (40, 0, 0), "{:?}", found.diffs);
    assert_eq!(all_rows(&mut connection).await, before, "correct orders are not changed");

    let ids: Vec<String> = sqlx::query_scalar(
        "SELECT order_id FROM orders JOIN order_lines USING (order_id, live_mode) GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 6",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let [a, b, c, d, e, f] = <[String; 6]>::try_from(ids.clone()).unwrap();
    for statement in [
        format!("UPDATE orders SET status = 'on_hold', accepted_at = NULL WHERE order_id = '{a}'"),
        miscount(&format!("order_id = '{b}'")),
        // More than the events contain: a line, a type, a state.
        format!("UPDATE orders SET lines = (lines::jsonb || '{{\"ghost\": {{\"state\": \"paid\"}}}}')::json WHERE order_id = '{c}'"),
        format!("UPDATE orders SET seen = seen || '{{order.zzz}}', returned_at = now() WHERE order_id = '{d}'"),
        format!("DELETE FROM orders WHERE order_id = '{e}'"),
        // Not even readable.
        format!(
            "UPDATE orders SET details = '{{\"totalAmount\": \"x\", \"shipTo\": 7}}', lines = '{{\"\": {{\"paidAt\": 7}}, \"l\": 7}}'
             WHERE order_id = '{f}'"
        ),
    ] {
        assert!(execute(&mut connection, statement).await > 0);
    }
    let damaged = all_rows(&mut connection).await;
    let before = versions(&mut connection, &ids).await;

    let mut sorted = ids.clone();
    sorted.sort();
    let found = refold(&raw, Selection::All, false).await;
    assert_eq!(found.ids(), sorted);
    // What has fired is lost with the order's row.
    assert_eq!((found.tally.written, found.tally.effects), (0, 2));
    assert_eq!(all_rows(&mut connection).await, damaged, "a dry run writes nothing");
    let text: Vec<String> = found.diffs.iter().map(ToString::to_string).collect();
    let text = text.join("\n");
    for part in [
        "orders.status: stored \"on_hold\"",
        "order_lines[ghost]: stored {\"state\":\"paid\"}, not supported by any event",
        "orders: not stored",
        ".quantity: stored 77, refolded ",
        "order_lines[]: stored {\"paidAt\":7}, not supported by any event",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }

    let found = refold(&raw, Selection::All, true).await;
    assert_eq!((found.tally.written, found.tally.effects, found.tally.blocked), (6, 2, 0));
    assert_eq!(state(&mut connection).await.unwrap(), expected);
    let after = versions(&mut connection, &ids).await;
    for (id, before) in &before {
        assert_eq!(after[id], before + 1, "{id} has the next version");
    }
    let remembered: Vec<String> =
        sqlx::query_scalar("SELECT order_id FROM refolds WHERE refolded_by = 'ada' ORDER BY 1")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(remembered, sorted);
    let ghost: i64 =
        value(&mut connection, "SELECT count(*) FROM refolds WHERE before->'orders'->0->'lines' ? 'ghost'").await;
    assert_eq!(ghost, 1, "the order's former row is kept");
    assert_eq!(refold(&raw, Selection::All, false).await.tally.differing, 0);
}

async fn versions(connection: &mut PgConnection, ids: &[String]) -> std::collections::BTreeMap<String, i32> {
    let rows: Vec<(String, i32)> = sqlx::query_as("SELECT order_id, version FROM orders WHERE order_id = ANY($1)")
        .bind(ids)
        .fetch_all(connection)
        .await
        .unwrap();
    rows.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_selected_by_id_status_and_change_time_and_a_missing_message_is_added_once() {
    let raw = Raw::new().await;
    raw.take(bodies(22, 30)).await;
    let mut connection = raw.database.connect().await.unwrap();
    let expected = state(&mut connection).await.unwrap();
    let complete: i64 = value(&mut connection, "SELECT count(*) FROM orders WHERE status = 'complete'").await;
    let like = |status, changed_since| Selection::Like { status, changed_since };
    let found = refold(&raw, like(Some(riverlock_processor::domain::Status::Complete), None), false).await;
    assert_eq!(found.tally.recomputed, u64::try_from(complete).unwrap());
    assert_eq!(refold(&raw, like(None, Some(now())), false).await.tally.recomputed, 0);
    assert_eq!(
        refold(&raw, Selection::Ids(vec![OrderId::parse("nobody").unwrap()]), false).await.tally,
        Tally::default()
    );

    let id: String = value(
        &mut connection,
        "UPDATE orders SET fired = (fired::jsonb - 'fulfillment.requested')::json
         WHERE order_id = (SELECT max(order_id) FROM effects WHERE kind = 'fulfillment.requested') RETURNING order_id",
    )
    .await;
    let chosen = Selection::Ids(vec![OrderId::parse(id.as_str()).unwrap()]);
    let before = versions(&mut connection, std::slice::from_ref(&id)).await;
    let found = refold(&raw, chosen.clone(), false).await;
    assert_eq!((found.tally.recomputed, found.tally.effects, found.ids()), (1, 1, vec![id.as_str()]));
    refold(&raw, chosen.clone(), true).await;
    refold(&raw, chosen, true).await;
    assert_eq!(state(&mut connection).await.unwrap(), expected, "the missing message was added once");
    let after = versions(&mut connection, std::slice::from_ref(&id)).await;
    assert_eq!(after[&id], before[&id] + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refolding_during_live_traffic_changes_nothing() {
    let raw = Raw::new().await;
    let all = bodies(23, 120);
    let (early, late) = all.split_at(all.len() / 2);
    raw.take(early.to_vec()).await;
    let mut connection = raw.database.connect().await.unwrap();
    execute(&mut connection, miscount("true")).await;
    execute(&mut connection, "UPDATE orders SET status = 'on_hold', details = '{}'").await;

    let consumers = raw.consume(orders());
    let is_done = AtomicBool::new(false);
    let live = async {
        for some in late.chunks(10) {
            raw.produce(some.to_vec()).await;
        }
        raw.until_rows(all.len()).await;
        is_done.store(true, Ordering::Relaxed);
    };
    let again = async {
        let (mut written, mut rounds) = (0, 0);
        while !is_done.load(Ordering::Relaxed) {
            let found = refold(&raw, Selection::All, true).await;
            assert_eq!(found.tally.blocked, 0, "{:?}", found.obstacles);
            written += found.tally.written;
            rounds += 1;
        }
        (written, rounds)
    };
    let ((), (written, rounds)) = tokio::join!(live, again);
    consumers.end().await;
    assert!(written > 0, "nothing was written during the traffic in {rounds} rounds: the test showed nothing");
    refold(&raw, Selection::All, true).await;
    assert_eq!(state(&mut connection).await.unwrap(), reference(&all).await);
    assert_eq!(refold(&raw, Selection::All, false).await.tally.differing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_with_a_missing_or_different_record_is_not_changed() {
    let raw = Raw::new().await;
    raw.take(bodies(24, 10)).await;
    let mut connection = raw.database.connect().await.unwrap();
    execute(&mut connection, miscount("true")).await;
    let damaged = all_rows(&mut connection).await;

    let id: String = value(&mut connection, "SELECT order_id FROM orders ORDER BY 1 LIMIT 1").await;
    execute(
        &mut connection,
        format!(
            "UPDATE event_records SET body_sha256 = sha256('another') WHERE (topic_id, partition, record_offset) IN (
                 SELECT topic_id, partition, record_offset FROM event_records
                 WHERE order_id = '{id}' AND outcome = 'applied' AND event_type NOT LIKE 'order.%.created' LIMIT 1)"
        ),
    )
    .await;
    let found = refold(&raw, Selection::Ids(vec![OrderId::parse(id.as_str()).unwrap()]), true).await;
    assert!(
        matches!(found.obstacles.as_slice(), [(order, Obstacle::OtherBody(_))] if *order == id),
        "{:?}",
        found.obstacles
    );
    assert_eq!(all_rows(&mut connection).await, damaged);

    // The same audited offsets, on a broker without any of the records.
    let empty = Raw::new().await;
    let emptied = Raw { database: raw.database, ..empty };
    let found = refold(&emptied, Selection::All, true).await;
    assert_eq!((found.tally.recomputed, found.tally.blocked, found.tally.written), (0, 10, 0));
    assert!(found.obstacles.iter().all(|(_, obstacle)| matches!(obstacle, Obstacle::Gone(_))), "{:?}", found.obstacles);
    assert_eq!(all_rows(&mut connection).await, damaged, "no order is refolded from some of its events only");
}

#[tokio::test(flavor = "multi_thread")]
async fn formerly_ignored_events_count_once_they_are_handled() {
    let raw = Raw::new().await;
    let all = bodies(25, 20);
    raw.produce(all.clone()).await;
    let consumers = raw.consume(Orders::new(vec![Mode::Live]));
    raw.until_rows(all.len()).await;
    consumers.end().await;
    let mut connection = raw.database.connect().await.unwrap();
    assert_eq!(value::<i64>(&mut connection, "SELECT count(*) FROM orders").await, 0);

    let found = refold(&raw, Selection::All, true).await;
    assert_eq!((found.tally.written, found.tally.blocked), (20, 0), "{:?}", found.obstacles);
    assert_eq!(state(&mut connection).await.unwrap(), reference(&all).await);
    let rows = outcomes(&mut connection).await.unwrap();
    assert!(rows["applied"] > 20, "{rows:?}");
    assert_eq!(rows.values().sum::<i64>(), i64::try_from(all.len()).unwrap());
    assert_eq!(refold(&raw, Selection::All, false).await.tally.differing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_bodies_of_a_conflict_count() {
    let raw = Raw::new().await;
    let body = |currency: &str| {
        let object = format!(r#"{{"id":"o","updatedTime":"2026-01-01T00:00:00Z","currency":"{currency}"}}"#);
        event("e", "order.accepted", &object)
    };
    raw.take(vec![body("EUR"), body("USD"), body("EUR")]).await;
    let mut connection = raw.database.connect().await.unwrap();
    let expected = state(&mut connection).await.unwrap();
    execute(&mut connection, "UPDATE orders SET conflicted = false, details = '{}'").await;
    assert_eq!(refold(&raw, Selection::All, true).await.tally.written, 1);
    assert_eq!(state(&mut connection).await.unwrap(), expected);
}

#[tokio::test]
async fn a_row_without_a_valid_order_id_is_reported_and_does_not_stop_the_run() {
    let raw = Raw::new().await;
    raw.take(bodies(91, 3)).await;
    let mut connection = raw.database.connect().await.unwrap();
    let bad =
        "INSERT INTO orders SELECT (jsonb_populate_record(o, '{\"order_id\":\"no\\nid\"}')).* FROM orders o LIMIT 1";
    assert_eq!(execute(&mut connection, bad).await, 1);
    for selection in [Selection::All, Selection::Like { status: None, changed_since: None }] {
        let found = refold(&raw, selection.clone(), false).await;
        assert_eq!((found.tally.recomputed, found.tally.blocked), (3, 1), "{selection:?}: {:?}", found.obstacles);
        assert!(found.unreadable[0].contains("the order id"), "{:?}", found.unreadable);
    }
}

#[tokio::test]
async fn an_unreadable_partition_affects_only_orders_with_records_in_it() {
    let cluster = MockCluster::new(1).unwrap();
    let kafka = KafkaConfig { partitions: 2, brokers: cluster.bootstrap_servers(), ..KafkaConfig::default() };
    for name in topics::names(&kafka) {
        cluster.create_topic(&name, kafka.partitions, 1).unwrap();
    }
    let raw = Raw { database: Database::create().await.unwrap(), kafka, _cluster: None };
    raw.take(bodies(92, 8)).await;
    let topic = raw.kafka.topics().raw("order.accepted");
    cluster.partition_leader(&topic, 1, None).unwrap();
    let found = refold(&raw, Selection::All, false).await;
    let blocked = found.obstacles.iter().filter(|(_, why)| matches!(why, Obstacle::Unavailable(_))).count();
    assert_eq!(blocked, found.obstacles.len(), "{:?}", found.obstacles);
    assert!(found.tally.recomputed > 0 && blocked > 0, "{:?}", found.tally);
    assert_eq!(found.tally.recomputed + found.tally.blocked, 8);
}

#[tokio::test]
async fn orders_are_selected_by_their_state_at_the_start_of_the_run() {
    let raw = Raw::new().await;
    raw.take(bodies(93, 12)).await;
    let mut connection = raw.database.connect().await.unwrap();
    execute(&mut connection, "UPDATE orders SET status = 'on_hold'").await;
    // Writing the orders changes the selected state.
    let selection = Selection::Like { status: Some(Status::OnHold), changed_since: None };
    let found = refold(&raw, selection, true).await;
    assert_eq!(found.tally.recomputed, 12, "{:?}", found.tally);
    assert_eq!(found.tally.written, u64::try_from(found.diffs.len()).unwrap());
    let left: i64 = value(&mut connection, "SELECT count(*) FROM refolds").await;
    assert!(left > 5, "the test showed nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_refolded_from_every_spelling_and_marked_for_every_conflict() {
    let raw = Raw::new().await;
    let body = |id: &str, order: &str, rest: &str| {
        let object = format!(r#"{{"id":"{order}","updatedTime":"2026-01-01T00:00:00Z","currency":"EUR"{rest}}}"#);
        event(id, "order.accepted", &object)
    };
    let timeless = br#"{"id":"t","type":"order.accepted","liveMode":false,"data":{"object":{"id":"t"}}}"#.to_vec();
    // A spelling with more facts, another event of the same order, an event about two orders, and an event without a time.
    raw.take(vec![
        body("s", "s", ""),
        body("s", "s", r#","upstreamId":"U""#),
        body("x", "p", ""),
        body("x", "q", ""),
        timeless,
    ])
    .await;
    let mut connection = raw.database.connect().await.unwrap();
    let expected = state(&mut connection).await.unwrap();
    assert_eq!(expected.matches(r#""conflicted": true"#).count(), 2, "{expected}");
    assert_eq!(refold(&raw, Selection::All, false).await.tally.differing, 0);
    execute(&mut connection, "UPDATE orders SET conflicted = NOT conflicted, details = '{}'").await;
    assert_eq!(refold(&raw, Selection::All, true).await.tally.written, 4);
    assert_eq!(state(&mut connection).await.unwrap(), expected);
    execute(&mut connection, "DELETE FROM orders").await;
    assert_eq!(refold(&raw, Selection::All, true).await.tally.written, 4);
    assert_eq!(state(&mut connection).await.unwrap(), expected);
}
