//! Frequent look-ups use an index.

use std::path::Path;

use riverlock_tests::Database;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::tidy::code::{read, root};

/// A statement from `.sqlx/`.
struct Statement {
    sql: String,
    parameters: usize,
}

/// The statements that look up records by event id.
fn by_event_id() -> Vec<Statement> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(root().join(".sqlx")).unwrap() {
        let statement: serde_json::Value = serde_json::from_str(&read(Path::new(&file.unwrap().path()))).unwrap();
        let sql = statement["query"].as_str().unwrap().to_owned();
        let reads_events = ["FROM events", "JOIN events"].iter().any(|table| sql.contains(table));
        if reads_events && sql.contains("event_id = ") {
            let parameters = statement["describe"]["parameters"]["Left"].as_array().map_or(0, Vec::len);
            found.push(Statement { sql, parameters });
        }
    }
    found
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
    plan.lines().any(|line| {
        line.contains("Seq Scan on events")
            || line.contains("Index Scan using events_pkey on events") && !plan.contains("Index Cond")
    })
}

#[tokio::test]
async fn records_are_found_by_event_id_through_an_index() {
    let database = Database::create().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    // Neither index on event ids covers all outcomes, so this query has to read all records.
    let careless =
        Statement { sql: "SELECT topic_id FROM events WHERE event_id = ANY($1::text[])".to_owned(), parameters: 1 };
    let found = plan(&mut connection, &careless).await;
    assert!(reads_all_events(&found), "the test showed nothing: {found}");

    let statements = by_event_id();
    assert!(statements.len() >= 6, "only {} statements were found: the test showed nothing", statements.len());
    for statement in statements {
        let found = plan(&mut connection, &statement).await;
        assert!(!reads_all_events(&found), "{}\n{found}", statement.sql);
    }
}
