//! Batches: the resulting tables for any content, order and number of deliveries.

use std::{collections::BTreeMap, time::Duration};

use riverlock_ledger::{Error, Record, batch, store::Outcome};
use riverlock_processor::Orders;
use riverlock_schemas::Mode;
use riverlock_tests::{
    Database, events,
    hostile::{self, Hostile},
    lives, now, outcomes, record, state,
};
use sqlx::{Connection as _, PgConnection};
use tokio::time::Instant;

use crate::harness::PATIENCE;

fn orders() -> Orders {
    Orders::new(vec![Mode::Test, Mode::Live])
}

/// Bodies as records, spread over four partitions.
fn records<'a>(bodies: impl IntoIterator<Item = &'a [u8]>) -> Vec<Record> {
    let bodies = bodies.into_iter().enumerate();
    bodies.map(|(i, body)| record(i32::try_from(i % 4).unwrap(), i64::try_from(i / 4).unwrap(), body)).collect()
}

async fn apply(connection: &mut PgConnection, records: &[Record]) -> batch::Tally {
    batch::apply(connection, &orders(), records, None, now()).await.expect("a batch is stored")
}

fn event(id: &str, event_type: &str, object: &str) -> Vec<u8> {
    format!(
        r#"{{"id":"{id}","type":"{event_type}","liveMode":false,"createdTime":"2026-01-01T00:00:00Z","data":{{"object":{object}}}}}"#
    )
    .into_bytes()
}

#[tokio::test]
async fn a_cached_order_that_others_changed_is_read_again() {
    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    let cached = Orders::with_cache(vec![Mode::Test], 10);
    let accepted = event("e1", "order.accepted", r#"{"id":"o","items":[{"id":"l","quantity":1}]}"#);
    let complete =
        event("e2", "order.complete", r#"{"id":"o","stateTransitions":{"complete":"2026-01-01T00:00:01Z"}}"#);
    // The same facts in another event.
    let again = event("e0", "order.accepted", r#"{"id":"o"}"#);
    let all = records([accepted.as_slice(), complete.as_slice(), again.as_slice()]);
    let apply = async |connection: &mut PgConnection, orders: &Orders, record: &Record| {
        batch::apply(connection, orders, std::slice::from_ref(record), None, now()).await
    };
    apply(&mut connection, &cached, &all[0]).await.unwrap();
    // Another process applies an event.
    apply(&mut connection, &orders(), &all[1]).await.unwrap();
    let expected = state(&mut connection).await.unwrap();
    let error = apply(&mut connection, &cached, &all[2]).await.unwrap_err();
    assert!(matches!(error, Error::LostRace(_)), "{error}");
    assert_eq!(state(&mut connection).await.unwrap(), expected, "nothing of the batch is stored");
    // The order is not cached any more.
    apply(&mut connection, &cached, &all[2]).await.unwrap();
    assert_eq!(state(&mut connection).await.unwrap(), expected);

    // A changed row, and an order that would be written from the cache.
    sqlx::raw_sql("UPDATE orders SET version = version + 1, dispute_at = now()")
        .execute(&mut connection)
        .await
        .unwrap();
    let fulfilled =
        event("e4", "order.fulfilled", r#"{"id":"o","stateTransitions":{"fulfilled":"2026-01-01T00:00:01Z"}}"#);
    let records = records([fulfilled.as_slice()]);
    let record = Record { offset: 9, ..records[0].clone() };
    for attempt in 0..2 {
        let result = apply(&mut connection, &cached, &record).await;
        assert_eq!(result.is_ok(), attempt > 0, "{result:?}");
    }
    let disputed: bool =
        sqlx::query_scalar("SELECT dispute_at IS NOT NULL FROM orders").fetch_one(&mut connection).await.unwrap();
    assert!(disputed, "the change was not overwritten");
}

#[tokio::test]
async fn any_order_duplication_and_batching_yields_the_same_tables() {
    let lives = lives(7, 60);
    let bodies: Vec<&[u8]> = events(&lives).map(|event| event.body.as_ref()).collect();
    let reference = Database::create().await.unwrap();
    let mut connection = reference.connect().await.unwrap();
    apply(&mut connection, &records(bodies.iter().copied())).await;
    let expected = state(&mut connection).await.unwrap();

    let statuses: BTreeMap<String, String> =
        sqlx::query_as::<_, (String, String)>("SELECT order_id, status FROM orders")
            .fetch_all(&mut connection)
            .await
            .unwrap()
            .into_iter()
            .collect();
    for life in &lives {
        assert_eq!(statuses.get(&life.order_id).map(String::as_str), Some(life.expected.status), "{}", life.order_id);
    }

    // Without a cache of orders, with one that is too small, and with one for all of them.
    for (seed, cached) in (0..6).zip([0, 20, 1_000].into_iter().cycle()) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut shuffled = bodies.clone();
        shuffled.extend(random.choose_multiple(bodies.iter().copied(), bodies.len() / 2));
        random.shuffle(&mut shuffled);
        let records = records(shuffled.iter().copied());
        let database = Database::create().await.unwrap();
        let mut connection = database.connect().await.unwrap();
        let orders = Orders::with_cache(vec![Mode::Test, Mode::Live], cached);
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(random.usize(1..=rest.len().min(80)));
            batch::apply(&mut connection, &orders, batch, None, now()).await.expect("a batch is stored");
            rest = later;
        }
        assert_eq!(state(&mut connection).await.unwrap(), expected, "seed {seed}");
        let outcomes = outcomes(&mut connection).await.unwrap();
        assert_eq!(
            outcomes.values().sum::<i64>(),
            i64::try_from(shuffled.len()).unwrap(),
            "every record has one outcome"
        );
        assert_eq!(outcomes["duplicate"], i64::try_from(shuffled.len() - bodies.len()).unwrap());
    }
}

#[tokio::test]
async fn reading_the_same_records_again_changes_nothing() {
    let lives = lives(8, 20);
    let records = records(events(&lives).map(|event| event.body.as_ref()));
    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    let first = apply(&mut connection, &records).await;
    assert_eq!(first.reread, 0);
    let (before, rows) = (state(&mut connection).await.unwrap(), outcomes(&mut connection).await.unwrap());

    let again = apply(&mut connection, &records).await;
    assert_eq!(again.reread, records.len() as u64);
    assert_eq!(again.get(Outcome::Applied) + again.get(Outcome::Duplicate), 0);
    assert_eq!(state(&mut connection).await.unwrap(), before);
    assert_eq!(outcomes(&mut connection).await.unwrap(), rows);
}

#[tokio::test]
async fn concurrent_writers_yield_the_same_tables() {
    let lives = lives(9, 40);
    let bodies: Vec<&[u8]> = events(&lives).map(|event| event.body.as_ref()).collect();
    let reference = Database::create().await.unwrap();
    let mut connection = reference.connect().await.unwrap();
    apply(&mut connection, &records(bodies.iter().copied())).await;
    let expected = state(&mut connection).await.unwrap();

    let database = Database::create().await.unwrap();
    let writers = (0..4_i32).map(|writer| {
        // Each writer has all events, shuffled, as records of one partition.
        let mut random = fastrand::Rng::with_seed(u64::try_from(writer).unwrap());
        let mut mine: Vec<Vec<u8>> = bodies.iter().map(|body| body.to_vec()).collect();
        random.shuffle(&mut mine);
        let config = database.config.clone();
        async move {
            let mut connection = config.connect().await.unwrap();
            let records: Vec<Record> =
                mine.iter().zip(0..).map(|(body, offset)| record(writer, offset, body)).collect();
            let mut retries = 0;
            for batch in records.chunks(16) {
                while let Err(error) = batch::apply(&mut connection, &orders(), batch, None, now()).await {
                    assert_eq!(error.disposition(), riverlock_ledger::error::Disposition::Retry, "{error}");
                    retries += 1;
                }
            }
            retries
        }
    });
    let tasks: Vec<_> = writers.collect();
    let mut set = tokio::task::JoinSet::new();
    for task in tasks {
        set.spawn(task);
    }
    set.join_all().await;
    let mut connection = database.connect().await.unwrap();
    assert_eq!(state(&mut connection).await.unwrap(), expected);
    let outcomes = outcomes(&mut connection).await.unwrap();
    assert_eq!(outcomes.values().sum::<i64>(), i64::try_from(4 * bodies.len()).unwrap());
    assert_eq!(outcomes["duplicate"], i64::try_from(3 * bodies.len()).unwrap(), "of four deliveries one took effect");
}

#[tokio::test]
async fn two_bodies_under_one_id_are_a_conflict_in_either_order() {
    let one = event("e", "order.accepted", r#"{"id":"o","updatedTime":"2026-01-01T00:00:00Z","currency":"EUR"}"#);
    let other = event("e", "order.accepted", r#"{"id":"o","updatedTime":"2026-01-01T00:00:00Z","currency":"USD"}"#);
    let mut states = Vec::new();
    for bodies in [[&one, &other, &one], [&other, &one, &other]] {
        let database = Database::create().await.unwrap();
        let mut connection = database.connect().await.unwrap();
        apply(&mut connection, &records(bodies.iter().map(|body| body.as_slice()))).await;
        states.push(state(&mut connection).await.unwrap());
        let found = outcomes(&mut connection).await.unwrap();
        assert_eq!(found, BTreeMap::from([("applied".into(), 1), ("conflict".into(), 1), ("duplicate".into(), 1)]));
        let hashes: i64 =
            sqlx::query_scalar("SELECT count(DISTINCT body_sha256) FROM event_records WHERE event_id = 'e'")
                .fetch_one(&mut connection)
                .await
                .unwrap();
        assert_eq!(hashes, 2, "both hashes are kept");
        let marked: bool =
            sqlx::query_scalar("SELECT conflicted FROM orders").fetch_one(&mut connection).await.unwrap();
        assert!(marked);
    }
    assert_eq!(states[0], states[1]);
}

#[tokio::test]
async fn records_that_cannot_be_applied_become_dead_letters_and_do_not_block_others() {
    let hostile = hostile::corpus();
    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    let records = records(hostile.iter().map(|hostile| hostile.body.as_slice()));
    apply(&mut connection, &records).await;
    for (record, Hostile { body, outcome, reason, .. }) in records.iter().zip(&hostile) {
        let row: (String, Option<String>) =
            sqlx::query_as("SELECT outcome, reason FROM event_records WHERE partition = $1 AND record_offset = $2")
                .bind(record.partition)
                .bind(record.offset)
                .fetch_one(&mut connection)
                .await
                .unwrap();
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        assert_eq!((row.0.as_str(), row.1.as_deref()), (*outcome, *reason), "{shown}");
    }
    let kept: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT payload FROM dead_letters").fetch_all(&mut connection).await.unwrap();
    let dead: Vec<&Vec<u8>> =
        hostile.iter().filter(|hostile| hostile.outcome == "dead").map(|hostile| &hostile.body).collect();
    assert_eq!(kept.len(), dead.len());
    assert!(dead.iter().all(|body| kept.contains(body)), "dead letters are kept byte for byte");
}

#[tokio::test]
async fn stored_orders_are_read_back_unchanged() {
    let bodies: Vec<Vec<u8>> = hostile::corpus()
        .into_iter()
        .filter(|hostile| hostile.outcome == "applied")
        .map(|hostile| hostile.body)
        .collect();
    // With a smaller id the same snapshot is not the newest, so the order changes only if it was read back differently.
    let again: Vec<Vec<u8>> = bodies
        .iter()
        .map(|body| String::from_utf8_lossy(body).replacen(r#"{"id":"a"#, r#"{"id":"A"#, 1).into_bytes())
        .collect();
    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    for (bodies, partition) in [(&bodies, 0), (&again, 1)] {
        let records: Vec<_> = bodies.iter().zip(0..).map(|(body, offset)| record(partition, offset, body)).collect();
        apply(&mut connection, &records).await;
    }
    assert_eq!(outcomes(&mut connection).await.unwrap()["applied"], i64::try_from(2 * bodies.len()).unwrap());
    let versions: Vec<i32> = sqlx::query_scalar("SELECT version FROM orders").fetch_all(&mut connection).await.unwrap();
    assert_eq!(versions, vec![1; bodies.len()]);
}

#[tokio::test]
async fn test_and_live_orders_never_mix_and_a_mode_can_be_ignored() {
    let test = event("t", "order.accepted", r#"{"id":"o","updatedTime":"2026-01-01T00:00:00Z"}"#);
    let live = String::from_utf8(test.clone()).unwrap().replace("false", "true").replace("\"t\"", "\"l\"").into_bytes();
    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    let both = records([test.as_slice(), live.as_slice()]);
    apply(&mut connection, &both).await;
    let modes: Vec<bool> = sqlx::query_scalar("SELECT live_mode FROM orders WHERE order_id = 'o' ORDER BY 1")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(modes, [false, true]);

    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    batch::apply(&mut connection, &Orders::new(vec![Mode::Live]), &both, None, now()).await.unwrap();
    let reasons: Vec<Option<String>> = sqlx::query_scalar("SELECT reason FROM event_records ORDER BY event_id")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(reasons, [None, Some("mode".to_owned())]);
}

/// Two concurrent writers of one order; the second reads it before the first commits. `stored` is applied before both.
async fn write_at_once(stored: &[Record], first: &[Record], second: &[Record]) {
    let database = Database::create().await.unwrap();
    let (mut one, mut other) = (database.connect().await.unwrap(), database.connect().await.unwrap());
    apply(&mut one, stored).await;
    let mut transaction = one.begin().await.unwrap();
    batch::apply_within(&mut transaction, &orders(), first, None, now()).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut other).await.unwrap();
    let late = async {
        let result = batch::apply(&mut other, &orders(), second, None, now()).await;
        (other, result)
    };
    let commit = async {
        let (mut look, until) = (database.connect().await.unwrap(), Instant::now() + PATIENCE);
        let waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1";
        while sqlx::query_scalar::<_, Option<bool>>(waits).bind(pid).fetch_one(&mut look).await.unwrap() != Some(true) {
            assert!(Instant::now() < until, "the second writer does not wait for the first");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        transaction.commit().await.unwrap();
    };
    let ((mut other, result), ()) = tokio::join!(late, commit);
    assert_eq!(result.unwrap_err().label(), "lost_race");
    apply(&mut other, second).await;

    let reference = Database::create().await.unwrap();
    let mut plain = reference.connect().await.unwrap();
    apply(&mut plain, &[stored, first, second].concat()).await;
    assert_eq!(state(&mut other).await.unwrap(), state(&mut plain).await.unwrap());
}

#[tokio::test]
async fn an_order_changed_since_it_was_read_is_read_again_and_not_overwritten() {
    let bodies = [
        ("e1", "order.accepted", "accepted"),
        ("e2", "order.complete", "complete"),
        ("e3", "order.blocked", "blocked"),
    ]
    .map(|(id, event_type, state)| event(id, event_type, &format!(r#"{{"id":"o1","state":"{state}"}}"#)));
    let records = records(bodies.iter().map(Vec::as_slice));
    write_at_once(&records[..1], &records[1..2], &records[2..]).await;
    // An order that did not exist for either writer.
    write_at_once(&[], &records[..1], &records[1..2]).await;
}
