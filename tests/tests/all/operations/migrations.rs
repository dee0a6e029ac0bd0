//! Migrations of a database with orders.

use riverlock_ledger::{batch, postgres};
use riverlock_tests::{Database, events, hostile, lives, now, record, state};
use sqlx::{Connection as _, PgConnection};

use crate::harness::raw::{event, execute, orders, value};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../ledger/migrations");

/// The schema with the former tables.
const FORMER: &str = "former";
/// The last migration with the table `order_lines`.
const WITH_LINES: i64 = 9;

/// An order with lines that its newest snapshot lacks, and one without lines.
fn odd() -> Vec<Vec<u8>> {
    let line = |id: &str, times: &str| format!(r#"{{"id":"{id}","quantity":2,"stateTransitions":{{{times}}}}}"#);
    let a = line("a", r#""created":"2026-01-01T00:00:00.100000Z","paid":"2026-01-01T00:00:00.000100Z""#);
    let b = line("b", r#""created":"0001-01-01T00:00:00Z","returned":"9999-12-31T23:59:59.999999Z""#);
    vec![
        event("odd-1", "order.accepted", &format!(r#"{{"id":"odd","items":[{a},{b}]}}"#)),
        event(
            "odd-2",
            "order.fulfilled",
            &format!(r#"{{"id":"odd","updatedTime":"2026-01-02T00:00:00Z","items":[{a}]}}"#),
        ),
        event("none", "order.accepted", r#"{"id":"none","updatedTime":"2026-01-01T00:00:00Z"}"#),
    ]
}

async fn apply(connection: &mut PgConnection, bodies: &[Vec<u8>], partition: i32) {
    let records: Vec<_> = bodies.iter().zip(0..).map(|(body, offset)| record(partition, offset, body)).collect();
    batch::apply(connection, &orders(), &records, None, now()).await.unwrap();
}

/// Copies the current rows into the former tables.
async fn copy_as_they_were(connection: &mut PgConnection) {
    MIGRATIONS.run_to(WITH_LINES, &mut *connection).await.unwrap();
    for table in ["orders", "order_lines", "charge_operations", "shipments", "outbox"] {
        let columns: String = value(
            connection,
            format!(
                "SELECT string_agg(attname, ', ' ORDER BY f.attnum)
                 FROM pg_attribute f JOIN pg_attribute t USING (attname)
                 WHERE f.attrelid = '{FORMER}.{table}'::regclass AND f.attnum > 0 AND f.attidentity = ''
                   AND t.attrelid = 'public.{table}'::regclass AND NOT t.attisdropped"
            ),
        )
        .await;
        execute(connection, format!("INSERT INTO {FORMER}.{table} ({columns}) SELECT {columns} FROM public.{table}"))
            .await;
    }
}

/// Every line, and the columns of the view.
async fn lines(connection: &mut PgConnection) -> (String, String) {
    let rows = value(
        connection,
        "SELECT jsonb_agg(to_jsonb(l) ORDER BY order_id, live_mode, line_id)::text FROM order_lines l",
    );
    let rows = rows.await;
    let columns = value(
        connection,
        "SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attcollation::regcollation), ', '
                           ORDER BY attnum)
         FROM pg_attribute WHERE attrelid = 'order_lines'::regclass AND attnum > 0",
    );
    (rows, columns.await)
}

#[tokio::test]
async fn lines_are_moved_into_their_orders_and_a_view_shows_them_unchanged() {
    let bodies: Vec<Vec<u8>> = events(&lives(51, 40)).map(|event| event.body.to_vec()).collect();
    let (early, late) = bodies.split_at(bodies.len() / 2);
    let hostile = hostile::corpus().into_iter().filter(|hostile| hostile.outcome == "applied");
    let early: Vec<Vec<u8>> = early.iter().cloned().chain(odd()).chain(hostile.map(|hostile| hostile.body)).collect();

    let database = Database::create().await.unwrap();
    let mut plain = database.connect().await.unwrap();
    apply(&mut plain, &early, 0).await;
    execute(&mut plain, format!("CREATE SCHEMA {FORMER}")).await;
    let mut former = database.config.in_schema(FORMER).connect().await.unwrap();
    copy_as_they_were(&mut former).await;
    execute(&mut former, "GRANT SELECT ON order_lines TO pg_monitor").await;
    // Times are written in UTC, whatever the session's time zone is.
    execute(&mut former, "SET TIME ZONE 'Asia/Kathmandu'").await;
    let before = lines(&mut former).await;

    postgres::migrate(&mut former).await.unwrap();
    let after = lines(&mut former).await;
    assert_eq!(after, before);
    let is_view = "SELECT relkind = 'v' FROM pg_class WHERE oid = 'order_lines'::regclass";
    assert!(value::<bool>(&mut former, is_view).await);
    let granted = "SELECT has_table_privilege('pg_monitor', 'order_lines', 'SELECT')";
    assert!(value::<bool>(&mut former, granted).await, "read privileges on the lines are kept");
    execute(&mut former, "SET TIME ZONE 'UTC'").await;
    assert_eq!(
        state(&mut former).await.unwrap(),
        state(&mut plain).await.unwrap(),
        "the tables are those that the processor writes"
    );
    let stamps: Vec<bool> = sqlx::query_scalar(
        "SELECT lines::jsonb->'a' ? 'snapshot' OR NOT lines::jsonb->'b' ? 'snapshot' FROM orders WHERE order_id = 'odd'",
    )
    .fetch_all(&mut former)
    .await
    .unwrap();
    assert_eq!(stamps, [false], "a stamp is kept only if it differs from the order's");

    apply(&mut former, late, 1).await;
    apply(&mut plain, late, 1).await;
    assert_eq!(
        state(&mut former).await.unwrap(),
        state(&mut plain).await.unwrap(),
        "the processor continues with the migrated tables"
    );
}

/// The last migration whose effects have keys that can collide.
const WITH_FORMER_KEYS: i64 = 11;

#[tokio::test]
async fn effects_are_not_repeated_after_their_keys_changed() {
    let charge = |id: &str, minute: u32, event_type: &str, object: &str| {
        let body = event(id, event_type, object);
        let created = format!("2026-01-01T00:{minute:02}:00Z");
        String::from_utf8(body).unwrap().replace("2026-01-01T00:00:00Z", &created).into_bytes()
    };
    let (captures, reauths) = ("order.charge.capture.failed", "order.charge.reauth.failed");
    let named = r#"{"id":"c","orderId":"o1","captures":[{"id":"7","state":"failed"}]}"#;
    let odd = r#"{"id":"a:b","orderId":"o2","captures":[{"id":"50%:c","state":"failed"}]}"#;
    let bodies = [
        charge("usual", 1, captures, named),
        charge("odd", 2, captures, odd),
        charge("one:capture", 3, captures, r#"{"id":"c","orderId":"o3"}"#),
        charge("of-another", 4, captures, r#"{"id":"d","orderId":"o3"}"#),
        charge("reauth", 5, reauths, r#"{"id":"c","orderId":"o3"}"#),
    ];
    let database = Database::create().await.unwrap();
    let mut plain = database.connect().await.unwrap();
    apply(&mut plain, &bodies, 0).await;
    let expected = state(&mut plain).await.unwrap();
    for key in ["capture:c:7", "capture:a%3Ab:50%25%3Ac", "capture:c:@one%3Acapture", "reauthorization:c:@reauth"] {
        assert!(expected.contains(key), "{key} is missing in {expected}");
    }

    execute(&mut plain, format!("CREATE SCHEMA {FORMER}")).await;
    let mut former = database.config.in_schema(FORMER).connect().await.unwrap();
    MIGRATIONS.run_to(WITH_FORMER_KEYS, &mut former).await.unwrap();
    for table in ["events", "orders", "charge_operations", "outbox"] {
        let columns: String = value(
            &mut former,
            format!(
                "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
                 WHERE attrelid = '{FORMER}.{table}'::regclass AND attnum > 0 AND attidentity = '' AND NOT attisdropped"
            ),
        )
        .await;
        let from = if table == "events" { "event_records" } else { table };
        execute(&mut former, format!("INSERT INTO {FORMER}.{table} ({columns}) SELECT {columns} FROM public.{from}"))
            .await;
    }
    // The rows as the former version wrote them.
    execute(
        &mut former,
        "UPDATE outbox SET effect_key = concat_ws(':', d->>'operation', d->>'chargeId', d->>'captureId')
         FROM (SELECT message_id AS id, convert_from(payload, 'UTF8')::json->'data' AS d FROM outbox) m WHERE id = message_id",
    )
    .await;
    execute(&mut former, "UPDATE charge_operations SET operation_id = '' WHERE operation_id LIKE '@%'").await;
    assert_eq!(value::<i64>(&mut former, "SELECT count(*) FROM outbox WHERE effect_key LIKE '%@%'").await, 0);

    postgres::migrate(&mut former).await.unwrap();
    assert_eq!(state(&mut former).await.unwrap(), expected, "no effect would be repeated");
}

/// The last migration with the former, wide rows of records.
const WITH_WIDE_RECORDS: i64 = 32;
/// The migration after which no record has been moved.
const BEFORE_MOVE: i64 = 40;
/// More records than the move puts into one transaction.
const MANY_RECORDS: i64 = 25_000;

/// The columns that both kinds of rows have, except when the row was stored.
async fn records(connection: &mut PgConnection, partition: i32) -> String {
    let rows = format!(
        "SELECT jsonb_agg(jsonb_build_array(topic_id, partition, record_offset, event_id, event_type, live_mode, order_id,
                                            created_at, received_at, body_sha256, outcome, reason)
                          ORDER BY record_offset)::text
         FROM event_records WHERE partition = {partition}"
    );
    value(connection, rows).await
}

#[tokio::test]
async fn records_are_moved_into_narrow_rows_and_an_interrupted_move_is_continued() {
    let mut bodies: Vec<Vec<u8>> = events(&lives(52, 20)).map(|event| event.body.to_vec()).collect();
    bodies.extend(hostile::corpus().into_iter().map(|hostile| hostile.body));
    bodies.extend(odd());
    bodies.extend(odd());
    let database = Database::create().await.unwrap();
    let mut plain = database.connect().await.unwrap();
    apply(&mut plain, &bodies, 0).await;
    let dead = value::<i64>(&mut plain, "SELECT count(*) FROM dead_letters").await;
    assert!(dead > 0, "the test showed nothing");

    execute(&mut plain, format!("CREATE SCHEMA {FORMER}")).await;
    let mut former = database.config.in_schema(FORMER).connect().await.unwrap();
    MIGRATIONS.run_to(WITH_WIDE_RECORDS, &mut former).await.unwrap();
    execute(&mut former, "GRANT SELECT ON events TO pg_monitor").await;
    let columns =
        "topic_id, partition, record_offset, event_id, event_type, live_mode, order_id, created_at, received_at,
                   recorded_at, body_sha256, outcome, reason";
    execute(&mut former, format!("INSERT INTO events ({columns}) SELECT {columns} FROM public.event_records")).await;
    execute(
        &mut former,
        format!(
            "INSERT INTO events ({columns})
             SELECT 1, 1, n, n::text, 'many', true, 'o', now(), now(), now(), sha256(n::text::bytea), 'applied', NULL
             FROM generate_series(1, {MANY_RECORDS}) n"
        ),
    )
    .await;
    let columns =
        "topic_id, partition, record_offset, reason, detail, record_key, header_names, header_values, payload";
    let letters = format!("INSERT INTO dead_letters ({columns}) SELECT {columns} FROM public.dead_letters");
    execute(&mut former, letters).await;

    MIGRATIONS.run_to(BEFORE_MOVE, &mut former).await.unwrap();
    for statement in [
        "CREATE FUNCTION interrupt() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'interrupted'; END $$",
        "CREATE TRIGGER interrupt BEFORE INSERT ON events FOR EACH ROW WHEN (new.record_offset = 24000)
         EXECUTE FUNCTION interrupt()",
    ] {
        execute(&mut former, statement).await;
    }
    assert!(postgres::migrate(&mut former).await.is_err());
    let moved = value::<i64>(&mut former, "SELECT count(*) FROM events").await;
    assert!(moved > 0 && moved < MANY_RECORDS, "{moved}");
    execute(&mut former, "DROP FUNCTION interrupt CASCADE").await;
    postgres::migrate(&mut former).await.unwrap();

    let many =
        value::<i64>(&mut former, "SELECT count(*) FROM event_records WHERE partition = 1 AND event_type = 'many'");
    assert_eq!(many.await, MANY_RECORDS);
    assert_eq!(records(&mut former, 0).await, records(&mut plain, 0).await);
    let found = "SELECT count(*) FROM dead_letters JOIN events USING (event_key, topic_id, partition, record_offset)";
    assert_eq!(value::<i64>(&mut former, found).await, dead, "dead letters are found with their records");
    let granted = "SELECT has_table_privilege('pg_monitor', 'event_records', 'SELECT')";
    assert!(value::<bool>(&mut former, granted).await, "read privileges are kept");

    let before = records(&mut former, 0).await;
    apply(&mut former, &bodies, 0).await;
    assert_eq!(records(&mut former, 0).await, before, "records that are read again are known");
}

#[tokio::test]
async fn connections_of_services_are_detected_before_tables_change() {
    let database = Database::create().await.unwrap();
    let mut own = database.connect().await.unwrap();
    // The connection that ran the migrations.
    until_alone(&mut own).await;
    let other = database.connect().await.unwrap();
    assert_eq!(postgres::other_connections(&mut own).await.unwrap(), 1);
    other.close().await.unwrap();
    until_alone(&mut own).await;
}

/// Waits until no other session is left: a server process ends shortly after its connection.
async fn until_alone(connection: &mut PgConnection) {
    for _ in 0..500 {
        if postgres::other_connections(connection).await.unwrap() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("a connection that was closed still counts");
}

/// The last migration that may build an index in a way that blocks writers of a table with rows.
const WITH_LOCKING_INDEXES: i64 = 14;

/// The first statement about an index that blocks writers, if any.
fn what_stops_writers(sql: &str, description: &str, no_tx: bool) -> Option<&'static str> {
    let statements: String =
        sql.lines().map(|line| line.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    let words: Vec<&str> = statements.split_whitespace().collect();
    let made: Vec<&str> = words.windows(3).filter(|w| w[..2] == ["CREATE", "TABLE"]).map(|w| w[2]).collect();
    let mut builds = false;
    for (at, _) in words.iter().enumerate().filter(|(_, word)| **word == "INDEX") {
        let is_created = at > 0 && matches!(words[at - 1], "CREATE" | "UNIQUE");
        let table = words[at..].iter().skip_while(|word| **word != "ON").nth(1).copied().unwrap_or_default();
        if !is_created || made.contains(&table) {
            continue;
        }
        builds = true;
        if words.get(at + 1..at + 5) != Some(&["CONCURRENTLY", "IF", "NOT", "EXISTS"]) {
            return Some("an index on a table with rows is built CONCURRENTLY IF NOT EXISTS");
        }
        if words[at - 1] == "UNIQUE" {
            return Some(
                "services of the former version must be able to write while the index exists: it must not be unique",
            );
        }
    }
    if !builds {
        return None;
    }
    if !no_tx || !sql.starts_with("-- no-transaction") {
        return Some("such a file begins with `-- no-transaction`");
    }
    if statements.split(';').filter(|statement| !statement.trim().is_empty()).count() != 1 {
        return Some("such a file has one statement");
    }
    (!description.starts_with("index ")).then_some("such a file is called NNNN_index_….sql")
}

#[test]
fn new_migrations_build_indexes_without_stopping_writers() {
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > WITH_LOCKING_INDEXES) {
        let stops = what_stops_writers(migration.sql.as_str(), &migration.description, migration.no_tx);
        assert_eq!(stops, None, "migration {} {}", migration.version, migration.description);
    }
    let good = "-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON events (a);";
    assert_eq!(what_stops_writers(good, "index events", true), None);
    assert_eq!(what_stops_writers("CREATE TABLE t (a integer);\nCREATE INDEX i ON t (a);", "a table", false), None);
    for (bad, description, no_tx) in [
        ("CREATE INDEX i ON events (a);", "index events", false),
        ("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON events (a);", "index events", true),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON events (a);", "index events", true),
        (good, "events", true),
        ("-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON events (a); SELECT 1;", "index events", true),
    ] {
        assert!(what_stops_writers(bad, description, no_tx).is_some(), "{bad}");
    }
}
