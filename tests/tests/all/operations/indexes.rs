//! Frequent look-ups use an index.

use std::path::Path;

use riverlock_tests::Database;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::{
    harness::raw::{execute, value},
    tidy::code::{read, root},
};

/// Records of the tests.
const RECORDS: i64 = 100_000;
/// Most bytes of a record in `events`, with all indexes.
const RECORD_BYTES_MAX: i64 = 225;

/// A statement from `.sqlx/`.
struct Statement {
    sql: String,
    parameters: usize,
}

/// The statements that look up records by a column.
fn that_have(condition: &str) -> Vec<Statement> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(root().join(".sqlx")).unwrap() {
        let statement: serde_json::Value = serde_json::from_str(&read(Path::new(&file.unwrap().path()))).unwrap();
        let sql = statement["query"].as_str().unwrap().to_owned();
        let reads_events = ["FROM event", "JOIN event"].iter().any(|table| sql.contains(table));
        if reads_events && sql.contains(condition) {
            let parameters = statement["describe"]["parameters"]["Left"].as_array().map_or(0, Vec::len);
            found.push(Statement { sql, parameters });
        }
    }
    found
}

/// A database with enough records for plans to matter: of ten, one is a duplicate, and a few are conflicts.
async fn filled() -> (Database, PgConnection) {
    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    let statement = format!(
        r#"INSERT INTO events (event_key, record_offset, received_at, created_at, partition, type_id, recorded_after, topic_id,
                               reason_id, outcome_code, mode_code, body_sha256, order_id, content)
           SELECT CASE WHEN n % 10 = 7 THEN event_key_of((n - 5)::text) ELSE event_key_of(n::text) END, n / 12, now(), now(),
                  n % 3, 1, 0, n / 3 % 4, 0, (CASE WHEN n % 1000 = 7 THEN 'c' WHEN n % 10 = 7 THEN 'd' ELSE 'a' END)::"char",
                  't', sha256(n::text::bytea), (100000000000 + n / 7)::text,
                  CASE WHEN n % 10 <> 7 THEN substr(sha256(n::text::bytea), 1, 22) END
           FROM generate_series(1, {RECORDS}) n"#
    );
    execute(&mut connection, statement).await;
    execute(&mut connection, "VACUUM ANALYZE events").await;
    (database, connection)
}

/// The generic plan of a statement, with sequential scans disabled where an alternative exists.
async fn plan(connection: &mut PgConnection, Statement { sql, parameters }: &Statement) -> String {
    let execute = match vec!["NULL"; *parameters].join(", ") {
        values if values.is_empty() => "EXECUTE looked".to_owned(),
        values => format!("EXECUTE looked ({values})"),
    };
    for statement in [
        "SET enable_seqscan = off".to_owned(),
        "SET plan_cache_mode = force_generic_plan".to_owned(),
        format!("PREPARE looked AS {sql}"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut *connection)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    let rows = sqlx::raw_sql(AssertSqlSafe(format!("EXPLAIN {execute}"))).fetch_all(&mut *connection).await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
    sqlx::raw_sql("DEALLOCATE looked").execute(connection).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}

fn reads_all_events(plan: &str) -> bool {
    plan.contains("Seq Scan on events") || !plan.contains("Index Cond")
}

#[tokio::test]
async fn records_are_found_by_event_key_through_an_index() {
    let (_database, mut connection) = filled().await;
    // Neither index on event keys covers all outcomes, so this query has to read all records.
    let careless =
        Statement { sql: "SELECT topic_id FROM events WHERE event_key = ANY($1::uuid[])".to_owned(), parameters: 1 };
    let found = plan(&mut connection, &careless).await;
    assert!(reads_all_events(&found), "the test showed nothing: {found}");

    let statements = that_have("event_key = ");
    assert!(statements.len() >= 6, "only {} statements were found: the test showed nothing", statements.len());
    for statement in statements {
        let found = plan(&mut connection, &statement).await;
        assert!(!reads_all_events(&found), "{}\n{found}", statement.sql);
    }
}

#[tokio::test]
async fn ranges_of_offsets_are_found_through_an_index() {
    let (_database, mut connection) = filled().await;
    let statements = that_have("record_offset >= $");
    assert!(statements.len() >= 4, "only {} statements were found: the test showed nothing", statements.len());
    for statement in statements {
        let found = plan(&mut connection, &statement).await;
        assert!(!reads_all_events(&found) && found.contains("events_by_offset"), "{}\n{found}", statement.sql);
    }
}

#[tokio::test]
async fn a_record_takes_few_bytes() {
    let (_database, mut connection) = filled().await;
    let bytes: i64 = value(&mut connection, "SELECT pg_total_relation_size('events')").await;
    assert!(bytes / RECORDS <= RECORD_BYTES_MAX, "{} bytes per record", bytes / RECORDS);
}
