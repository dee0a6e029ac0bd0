//! Rebuilding all tables from the topics, comparing them with the live ones, and swapping.

use std::{
    collections::BTreeSet,
    process::Output,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rdkafka::{Offset, TopicPartitionList, admin::AdminOptions};
use riverlock_ledger::reading::ranges::RangeError;
use riverlock_recovery::rebuild::{FormerTables, Reason, Rebuild, RebuildError, RebuildPlan, Report, SCHEMA, tables};
use riverlock_runtime::{SystemClock, kafka::KafkaConfig};
use riverlock_sandbox::stack::kafka_for_test;
use riverlock_tests::{Database, World, binary, events, lives, now, state};
use sqlx::PgConnection;
use tokio::process::Command;

use crate::harness::raw::{Raw, event, execute, invoices, orders, value};

fn plan(raw: &Raw, schema: &str) -> RebuildPlan {
    let topics = raw.kafka.topics();
    RebuildPlan {
        schema: schema.to_owned(),
        fingerprint: "this test".to_owned(),
        fresh: false,
        consumers: vec![
            (riverlock_processor::CONSUMER, topics.orders()),
            (riverlock_invoice_fetcher::NAME, topics.documents()),
        ],
    }
}

async fn open(raw: &Raw, schema: &str) -> Result<Rebuild, RebuildError> {
    Rebuild::open(&raw.kafka, &raw.database.config, plan(raw, schema)).await
}

async fn catch_up(rebuild: &Rebuild, progress: &(dyn Fn(u64) + Sync)) {
    let target = rebuild.target().await.unwrap();
    rebuild.catch_up(&orders(), &target, &SystemClock, progress).await.unwrap();
    rebuild.catch_up(&invoices(), &target, &SystemClock, progress).await.unwrap();
}

async fn compare(rebuild: &Rebuild) -> Report {
    let snapshot = rebuild.snapshot().await.unwrap();
    rebuild.catch_up(&orders(), snapshot.target(), &SystemClock, &|_| {}).await.unwrap();
    rebuild.catch_up(&invoices(), snapshot.target(), &SystemClock, &|_| {}).await.unwrap();
    rebuild.compare(snapshot).await.unwrap()
}

async fn swap(raw: &Raw, schema: &str) -> FormerTables {
    let mut rebuild = open(raw, schema).await.unwrap();
    catch_up(&rebuild, &|_| {}).await;
    rebuild.finish().await.unwrap();
    let reason = Reason { by: "ada".to_owned(), why: "a bug was fixed".to_owned() };
    rebuild.swap(&reason, now()).await.unwrap().expect("nothing else changes the live tables")
}

/// Events of some orders: some with duplicates, one with contradicting bodies, one with several spellings, one about two
/// orders, and one without any time.
fn bodies(seed: u64, count: u64) -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = events(&lives(seed, count)).map(|event| event.body.to_vec()).collect();
    let mut random = fastrand::Rng::with_seed(seed);
    let again = random.choose_multiple(bodies.iter().cloned(), bodies.len() / 4);
    bodies.extend(again);
    random.shuffle(&mut bodies);
    for currency in ["EUR", "USD", "EUR"] {
        let object = format!(r#"{{"id":"o-{seed}","updatedTime":"2026-01-01T00:00:00Z","currency":"{currency}"}}"#);
        bodies.push(event(&format!("e-{seed}"), "order.accepted", &object));
    }
    for upstream_id in ["", r#","upstreamId":"U""#, r#","upstreamId":"U","metadata":{}"#, ""] {
        let object =
            format!(r#"{{"id":"s-{seed}","updatedTime":"2026-01-01T00:00:00Z","currency":"EUR"{upstream_id}}}"#);
        bodies.push(event(&format!("s-{seed}"), "order.accepted", &object));
    }
    for order in ["p", "q"] {
        let object =
            format!(r#"{{"id":"{order}-{seed}","updatedTime":"2026-01-01T00:00:00Z","items":[{{"id":"l"}}]}}"#);
        bodies.push(event(&format!("pq-{seed}"), "order.accepted", &object));
    }
    let timeless = format!(
        r#"{{"id":"t-{seed}","type":"order.accepted","liveMode":false,"data":{{"object":{{"id":"t-{seed}"}}}}}}"#
    );
    bodies.push(timeless.into_bytes());
    bodies.push(event("dead", "order.accepted", r#"{"id":"o7","state":1,"state":2}"#));
    bodies
}

fn differing(report: &Report) -> Vec<String> {
    report.differences.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn the_list_of_tables_is_complete() {
    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    let existing: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p')",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(tables::unknown(&existing), Vec::<String>::new(), "add the table to rebuild/tables.rs");
    let names: BTreeSet<&str> = tables::TABLES.iter().map(|table| table.name).collect();
    assert_eq!(names.len(), tables::TABLES.len(), "a table is listed twice");
    // The listed keys are unique in the database as well: otherwise a merge could lose or repeat a row.
    for table in tables::TABLES {
        if let tables::Class::LiveWins { key, .. } | tables::Class::RebuiltWins { key } = table.class {
            let unique: bool = sqlx::query_scalar(
                "SELECT EXISTS (
                     SELECT 1 FROM pg_index i WHERE i.indrelid = $1::regclass AND i.indisunique AND $2 = (
                         SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a
                         WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)))",
            )
            .bind(table.name)
            .bind(key.iter().copied().collect::<BTreeSet<&str>>().into_iter().collect::<Vec<_>>())
            .fetch_one(&mut connection)
            .await
            .unwrap();
            assert!(unique, "{}: {key:?}", table.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuilt_tables_equal_the_live_ones_and_a_damaged_row_is_named() {
    let raw = Raw::new().await;
    raw.take(bodies(31, 40)).await;
    let mut live = raw.database.connect().await.unwrap();
    let rebuild = open(&raw, SCHEMA).await.unwrap();
    catch_up(&rebuild, &|_| {}).await;
    let report = compare(&rebuild).await;
    assert_eq!(report.total, 0, "{:?}", differing(&report));
    assert!(report.tables.iter().all(|table| table.live == table.rebuilt), "{:?}", report.tables);
    assert!(report.tables.iter().filter(|table| table.live > 0).count() >= 3, "{:?}", report.tables);
    let mut shadow = raw.database.config.in_schema(SCHEMA).connect().await.unwrap();
    assert_eq!(state(&mut shadow).await.unwrap(), state(&mut live).await.unwrap());

    let order: String =
        value(&mut live, "SELECT order_id FROM orders WHERE status = 'complete' ORDER BY 1 LIMIT 1").await;
    let event: String =
        value(&mut live, "SELECT event_id FROM event_records WHERE outcome = 'ignored' ORDER BY 1 LIMIT 1").await;
    for statement in [
        format!(
            "UPDATE orders SET conflicted = true, lines = (lines::jsonb || '{{\"ghost\": {{\"quantity\": 1}}}}')::json,
                               fired = (fired::jsonb - 'fulfillment.completed')::json WHERE order_id = '{order}'"
        ),
        format!(
            "UPDATE events SET outcome_code = 'a', reason_id = 0
             WHERE event_key = event_key_of('{event}') AND outcome_code = 'i'"
        ),
    ] {
        assert_eq!(execute(&mut live, statement).await, 1);
    }
    let report = compare(&rebuild).await;
    let found = differing(&report);
    assert_eq!(report.total, 2, "{found:?}");
    for part in [
        format!(
            "orders {order}/false\n    conflicted: live true, rebuilt false\n    fired: live [\"fulfillment.requested\"], rebuilt [\"fulfillment.completed\",\"fulfillment.requested\"]\n    lines.ghost: live {{\"quantity\":1}}, rebuilt null"
        ),
        format!("events {event}\n    record"),
    ] {
        assert!(found.iter().any(|difference| difference.starts_with(&part)), "{part} is not in {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unconfigured_partitions_are_rebuilt_too() {
    let raw = Raw::new().await;
    let all = bodies(36, 20);
    raw.produce(all.clone()).await;
    let raw = Raw { kafka: KafkaConfig { partitions: 2, ..raw.kafka.clone() }, ..raw };
    // No consumer has read anything, so the tables are built up to the end of the topics.
    let rebuild = open(&raw, SCHEMA).await.unwrap();
    let target = rebuild.target().await.unwrap();
    assert_eq!(target.values().sum::<i64>(), i64::try_from(all.len()).unwrap());
    catch_up(&rebuild, &|_| {}).await;
    assert_eq!(rebuild.left(&target).await.unwrap(), 0);
    let mut beyond = target.clone();
    let ((consumer, topic_id, _), _) = target.first_key_value().unwrap();
    beyond.insert((consumer.clone(), *topic_id, 4), 1);
    let error = rebuild.catch_up(&invoices(), &beyond, &SystemClock, &|_| {}).await.unwrap_err();
    let is_reported =
        matches!(error, RebuildError::Ranges(RangeError::NoPartition { partition: 4, partitions: 4, .. }));
    assert!(is_reported, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_rebuild_is_resumed_by_the_same_code_only() {
    let raw = Raw::new().await;
    let all = bodies(32, 150);
    raw.take(all.clone()).await;
    let rebuild = open(&raw, SCHEMA).await.unwrap();
    assert!(matches!(open(&raw, SCHEMA).await, Err(RebuildError::Busy)), "one at a time");
    let target = rebuild.target().await.unwrap();
    // Aborted at an arbitrary point.
    let stored = AtomicU64::new(0);
    let told = tokio::sync::Notify::new();
    let progress = |records| {
        stored.fetch_add(records, Ordering::Relaxed);
        told.notify_one();
    };
    let projection = orders();
    tokio::select! {
        result = rebuild.catch_up(&projection, &target, &SystemClock, &progress) => result.unwrap(),
        () = told.notified() => {}
    }
    drop(rebuild);
    let left = loop {
        // The lock goes with the session, and the session with the connection.
        match open(&raw, SCHEMA).await {
            Ok(rebuild) => break rebuild,
            Err(RebuildError::Busy) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    };
    let remaining = left.left(&target).await.unwrap();
    assert!(
        remaining > 0 && remaining < all.len() as u64,
        "{remaining} of {} are left: the test showed nothing",
        all.len()
    );
    catch_up(&left, &|_| {}).await;
    let report = compare(&left).await;
    assert_eq!(report.total, 0, "{:?}", differing(&report));
    drop(left);

    let other = RebuildPlan { fingerprint: "another program".to_owned(), ..plan(&raw, SCHEMA) };
    let open = |plan: RebuildPlan| async { Rebuild::open(&raw.kafka, &raw.database.config, plan).await };
    let refused = loop {
        match open(other.clone()).await {
            Err(RebuildError::Busy) => tokio::time::sleep(Duration::from_millis(50)).await,
            result => break result.map(drop),
        }
    };
    assert!(matches!(refused, Err(RebuildError::Mixed(_))), "{refused:?}");
    let fresh = loop {
        match open(RebuildPlan { fresh: true, ..other.clone() }).await {
            Err(RebuildError::Busy) => tokio::time::sleep(Duration::from_millis(50)).await,
            result => break result.unwrap(),
        }
    };
    assert_eq!(fresh.left(&target).await.unwrap(), all.len() as u64);
}

/// The state that a swap must keep, neither lost nor repeated.
async fn carried(connection: &mut PgConnection) -> String {
    value(
        connection,
        "SELECT (SELECT coalesce(jsonb_agg(to_jsonb(m) ORDER BY message_id), '[]') FROM outbox m)::text
             || (SELECT jsonb_agg(to_jsonb(i) ORDER BY file_id) FROM invoices i)::text
             || (SELECT jsonb_agg(to_jsonb(d) ORDER BY topic_id, partition, record_offset) FROM dead_letters d)::text
             || (SELECT jsonb_agg(to_jsonb(r) ORDER BY retry_id) FROM invoice_retries r)::text",
    )
    .await
}

/// Simulates external effects: published messages, a stored document, a manual retry, a published dead letter.
const DONE_OUTSIDE: [&str; 5] = [
    "DELETE FROM outbox WHERE message_id < (SELECT max(message_id) FROM outbox)",
    "UPDATE invoices SET state = 'stored', sha256 = sha256('x'), size_bytes = 1, object_key = 'k', ended_at = now(),
                         message_at = now()
     WHERE file_id = (SELECT min(file_id::text)::uuid FROM invoices)",
    "INSERT INTO invoice_retries (file_id, retried_at, retried_by, reason, state, attempts)
     SELECT file_id, now(), 'ada', 'it is there now', 'due', 1 FROM invoices LIMIT 1",
    "UPDATE dead_letters SET published_at = now()",
    "GRANT SELECT ON orders, order_lines TO PUBLIC",
];

/// Every line, as the view of a schema shows it.
async fn lines(connection: &mut PgConnection, schema: &str) -> Option<String> {
    value(
        connection,
        format!("SELECT jsonb_agg(to_jsonb(l) ORDER BY order_id, line_id)::text FROM {schema}.order_lines l"),
    )
    .await
}

/// The orders of the messages that are not published yet.
async fn waiting(connection: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar("SELECT order_id FROM outbox ORDER BY message_id").fetch_all(connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swap_repairs_tables_repeats_no_effect_and_consumers_resume_at_the_right_offsets() {
    let raw = Raw::new().await;
    raw.take(bodies(33, 30)).await;
    let mut live = raw.database.connect().await.unwrap();
    let expected = state(&mut live).await.unwrap();
    for statement in DONE_OUTSIDE {
        execute(&mut live, statement).await;
    }
    let late: String = value(&mut live, "SELECT order_id FROM outbox").await;
    let number = value::<i64>(&mut live, "SELECT message_id FROM outbox").await;
    let (before, all_lines) = (carried(&mut live).await, lines(&mut live, "public").await);
    assert!(all_lines.is_some());
    // Damage that only the topics can repair, and an effect that is missing.
    let lost: String = value(
        &mut live,
        "UPDATE orders SET fired = (fired::jsonb - 'fulfillment.requested')::json
         WHERE order_id = (SELECT min(order_id) FROM effects WHERE kind = 'fulfillment.requested'
                           AND order_id <> (SELECT order_id FROM outbox)) RETURNING order_id",
    )
    .await;
    execute(
        &mut live,
        "UPDATE orders SET status = 'on_hold', accepted_at = NULL, complete_at = NULL, details = '{}', lines = '{}', version = 7",
    )
    .await;

    let kept = swap(&raw, SCHEMA).await;
    assert_eq!(kept.messages, 1);
    let mut live = raw.database.connect().await.unwrap();
    assert_eq!(state(&mut live).await.unwrap(), expected);
    assert_eq!(lines(&mut live, "public").await, all_lines, "the view shows the rebuilt orders");
    assert_eq!(lines(&mut live, &kept.schema).await, None, "the former view has no orders of the rebuilt tables");
    assert!(value::<bool>(&mut live, "SELECT bool_and(version = 8) FROM orders").await, "versions increase");
    assert_eq!(waiting(&mut live).await, [late, lost], "published messages stay published, waiting and new ones wait");
    assert!(
        value::<bool>(&mut live, format!("SELECT bool_and(message_id >= {number}) FROM outbox")).await,
        "new messages follow the existing ones"
    );
    for name in ["orders", "order_lines"] {
        let granted = format!("SELECT has_table_privilege('pg_monitor', '{name}', 'SELECT')");
        assert!(value::<bool>(&mut live, granted).await, "{name}");
    }
    execute(&mut live, "DELETE FROM outbox WHERE message_id = (SELECT max(message_id) FROM outbox)").await;
    assert_eq!(carried(&mut live).await, before);
    let unlogged: i64 = value(
        &mut live,
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relpersistence <> 'p'",
    )
    .await;
    assert_eq!(unlogged, 0);

    // Consumers resume. The kept tables can be restored: they catch up, and later effects are not repeated.
    let more = bodies(34, 10);
    raw.take(more).await;
    execute(&mut live, "DELETE FROM outbox").await;
    let (after, done) = (state(&mut live).await.unwrap(), carried(&mut live).await);
    let again = swap(&raw, &kept.schema).await;
    assert_ne!(again.schema, kept.schema);
    assert_eq!(again.messages, 0);
    let mut live = raw.database.connect().await.unwrap();
    assert_eq!(value::<i64>(&mut live, "SELECT count(*) FROM outbox").await, 0, "nothing is published again");
    assert_eq!(carried(&mut live).await, done);
    assert_ne!(state(&mut live).await.unwrap(), after, "the former tables are unchanged");
    let swaps: i64 = value(&mut live, "SELECT count(*) FROM rebuilds WHERE swapped_by = 'ada'").await;
    assert_eq!(swaps, 2);
    let report = compare(&open(&raw, SCHEMA).await.unwrap()).await;
    assert!(report.total > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_is_rebuilt_from_the_topics_alone() {
    let raw = Raw::new().await;
    raw.take(bodies(35, 30)).await;
    let expected = state(&mut raw.database.connect().await.unwrap()).await.unwrap();
    let empty = Raw { database: Database::create().await.unwrap(), ..raw };
    let kept = swap(&empty, SCHEMA).await;
    assert!(kept.messages > 0);
    assert_eq!(state(&mut empty.database.connect().await.unwrap()).await.unwrap(), expected);
}

struct Operator<'a> {
    world: &'a World,
}

impl Operator<'_> {
    async fn run(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(binary().unwrap());
        command.arg("--config").arg(&self.world.local.config_file).args(arguments).env("USER", "ada");
        let Output { status, stdout, stderr } = command.output().await.unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        (status.success(), text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_runs_during_live_traffic_and_a_swap_needs_stopped_services() {
    if !kafka_for_test("a_rebuild_runs_during_live_traffic_and_a_swap_needs_stopped_services") {
        return;
    }
    let mut world = World::start(36, 260, 15).await.unwrap();
    let playing = world.begin();
    let mut connection = world.local.config.postgres.connect().await.unwrap();
    while value::<i64>(&mut connection, "SELECT count(*) FROM event_records").await < 100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let operator = Operator { world: &world };
    let (ok, text) = operator.run(&["rebuild"]).await;
    assert!(ok && text.contains("rebuild: OK"), "{text}");
    assert!(!playing.is_finished(), "playing ended before the rebuild: the test showed nothing");

    // With a new version, because the processor may have the order in memory.
    execute(
        &mut connection,
        "UPDATE orders SET conflicted = true, version = version + 1 WHERE order_id = (SELECT min(order_id) FROM orders)",
    )
    .await;
    let damaged: String = value(&mut connection, "SELECT min(order_id) FROM orders").await;
    let (ok, text) = operator.run(&["rebuild"]).await;
    assert!(
        !ok && text.contains(&format!("orders {damaged}/false")) && text.contains("rebuild: 1 DIFFERENCES"),
        "{text}"
    );
    let (ok, text) = operator.run(&["refold", &damaged]).await;
    assert!(!ok && text.contains("orders.conflicted: stored true, refolded false"), "{text}");
    drop(connection);
    let swap = ["rebuild", "--apply", "--reason", "a bug was fixed"];
    let (ok, text) = operator.run(&swap).await;
    assert!(!ok && text.contains("services must be stopped"), "{text}");

    let published = |world: &World| {
        let postgres = world.local.config.postgres.clone();
        async move {
            let mut connection = postgres.connect().await.unwrap();
            value::<i64>(&mut connection, "SELECT (SELECT count(*) FROM effects) - count(*) FROM outbox").await
        }
    };
    for service in &world.local.services[1..] {
        service.stop().await.unwrap();
    }
    let before = published(&world).await;
    let (ok, text) = Operator { world: &world }.run(&swap).await;
    assert!(ok && text.contains("swapped") && text.contains("riverlock_before_"), "{text}");
    assert!(published(&world).await >= before);
    world.local.restart_ended().await.unwrap();
    let report = playing.await.unwrap().unwrap();
    world.settle_and_check(&report).await.unwrap();
    let messages = fulfillment_messages(&world).await;
    let outbox = published(&world).await;
    assert_eq!(i64::try_from(messages.len()).unwrap(), outbox, "every message is published");
    assert_eq!(messages.iter().collect::<BTreeSet<_>>().len(), messages.len(), "no message is published twice");

    delete_first_records(&world).await;
    let operator = Operator { world: &world };
    let (ok, text) = operator.run(&["refold", "--all"]).await;
    assert!(!ok && text.contains("Kafka no longer has"), "{text}");
    let (ok, text) = operator.run(&["rebuild", "--fresh"]).await;
    assert!(!ok && text.contains("the records before it were deleted"), "{text}");
    world.stop().await.unwrap();
}

/// The messages on the fulfillment topic.
async fn fulfillment_messages(world: &World) -> Vec<Vec<u8>> {
    use rdkafka::{
        Message as _,
        consumer::{BaseConsumer, Consumer as _},
    };
    let kafka = &world.local.config.kafka;
    let topic = kafka.topics().fulfillment();
    let consumer: BaseConsumer = kafka.consumer("looks").create().unwrap();
    let (mut list, mut expected) = (TopicPartitionList::new(), 0);
    for partition in 0..kafka.partitions {
        let (low, high) = consumer.fetch_watermarks(&topic, partition, Duration::from_secs(10)).unwrap();
        list.add_partition_offset(&topic, partition, Offset::Offset(low)).unwrap();
        expected += high - low;
    }
    consumer.assign(&list).unwrap();
    let mut messages = Vec::new();
    while i64::try_from(messages.len()).unwrap() < expected {
        let message = consumer.poll(Duration::from_secs(10)).expect("a message is there").unwrap();
        messages.push(message.payload().unwrap().to_vec());
    }
    messages
}

async fn delete_first_records(world: &World) {
    let kafka = &world.local.config.kafka;
    let admin: rdkafka::admin::AdminClient<_> = kafka.client().create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..kafka.partitions {
        list.add_partition_offset(&kafka.topics().raw("order.accepted"), partition, Offset::Offset(1)).unwrap();
    }
    admin.delete_records(&list, &AdminOptions::new()).await.unwrap();
}
