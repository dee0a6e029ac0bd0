//! The commands `riverlock outbox`.

use std::process::Output;

use riverlock_tests::{Database, binary};
use serde_json::Value;
use sqlx::PgConnection;
use tokio::process::Command;

/// A database with waiting and parked messages, and a parked dead letter.
struct Desk {
    database: Database,
    connection: PgConnection,
}

impl Desk {
    async fn new() -> Self {
        let database = Database::create().await.unwrap();
        let mut connection = database.connect().await.unwrap();
        sqlx::raw_sql(
            "INSERT INTO outbox (order_id, live_mode, kind, effect_key, payload)
             SELECT CASE WHEN i < 3 THEN 'stuck' ELSE 'order-' || i END, false, 'fulfillment.requested', i::text, 'body'
             FROM generate_series(1, 6) i;
             WITH stuck AS (DELETE FROM outbox WHERE order_id = 'stuck' RETURNING *)
             INSERT INTO outbox_parked (message_id, order_id, live_mode, kind, effect_key, payload, created_at, reason, behind)
             SELECT message_id, order_id, live_mode, kind, effect_key, payload, created_at, 'too large', nullif(1, message_id)
             FROM stuck;
             INSERT INTO topics (name) VALUES ('riverlock.raw.other');
             INSERT INTO dead_letters (topic_id, partition, record_offset, reason, detail, header_names, header_values,
                                       payload, parked_at, parked_reason, event_key)
             VALUES (1, 0, 7, 'shape', '', '{}', '{}', 'body', now(), 'too large', event_key_of('e'))",
        )
        .execute(&mut connection)
        .await
        .unwrap();
        Self { database, connection }
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary().unwrap());
        command.arg("outbox").args(arguments).env("RIVERLOCK__POSTGRES__URL", self.database.config.url.expose());
        command.env("USER", "ada").output().await.unwrap()
    }

    /// Runs a command that must end with this exit code; returns its output.
    async fn text(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments).await;
        let (text, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}{error}");
        text
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(arguments, 0).await).unwrap()
    }

    async fn count(&mut self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.connection).await.unwrap()
    }
}

const PARKED: &str = "SELECT (SELECT count(*) FROM outbox_parked)
                          + (SELECT count(*) FROM dead_letters WHERE parked_at IS NOT NULL)";

#[tokio::test]
async fn unpublished_messages_are_listed_in_pages() {
    let desk = Desk::new().await;
    let text = desk.text(&["list", "--parked"], 0).await;
    for expected in ["1\t", "\tstuck\ttest\t", "too large", "riverlock.raw.other[0]@7\t"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let ids = |page: &Value| -> Vec<i64> {
        let items = page["items"].as_array().unwrap();
        items.iter().filter_map(|item| item["messageId"].as_i64()).collect()
    };
    let first = desk.json(&["list", "--limit", "4", "--json"]).await;
    assert_eq!(ids(&first), [1, 2, 3, 4]);
    assert_eq!((&first["items"][0]["reason"], &first["items"][1]["behind"]), (&"too large".into(), &1.into()));
    assert_eq!(first["next"], "4");
    let second = desk.json(&["list", "--limit", "2", "--after", "4", "--json"]).await;
    assert_eq!((ids(&second), &second["next"]), (vec![5, 6], &"6".into()));
    let third = desk.json(&["list", "--limit", "2", "--after", "6", "--json"]).await;
    assert_eq!((&third["items"][0]["position"], &third["next"]), (&"riverlock.raw.other[0]@7".into(), &Value::Null));
    assert_eq!(third["items"][0]["source"], "dead_letters");
    let last = desk.json(&["list", "--after", "riverlock.raw.other[0]@7", "--json"]).await;
    assert_eq!(last["items"], serde_json::json!([]));
    assert_eq!(ids(&desk.json(&["list", "--parked", "--json"]).await), [1, 2]);
}

#[tokio::test]
async fn parked_messages_are_retried_only_with_apply_and_the_retry_is_recorded() {
    let mut desk = Desk::new().await;
    let why = ["--reason", "the limit was raised"];
    let retry = |more: &[&'static str]| [&["retry"][..], more, &why].concat();
    let text = desk.text(&retry(&["--all-parked"]), 0).await;
    assert!(
        text.contains("2 messages and 1 dead letter would be published again") && text.contains("--apply"),
        "{text}"
    );
    assert_eq!(desk.count(PARKED).await, 3);

    let text = desk.text(&retry(&["5", "riverlock.raw.other[0]@8", "--apply"]), 1).await;
    assert!(text.contains("5: nothing with this name is parked") && text.contains("0 messages and 0 dead"), "{text}");
    let retried = desk.text(&retry(&["2", "--apply", "--json"]), 0).await;
    let retried: Value = serde_json::from_str(&retried).unwrap();
    assert_eq!((&retried["messages"], &retried["applied"]), (&serde_json::json!([1, 2]), &true.into()));
    assert_eq!(desk.count("SELECT count(*) FROM outbox").await, 6);
    desk.text(&retry(&["--all-parked", "--apply"]), 0).await;
    assert_eq!(desk.count(PARKED).await, 0);
    let kept = "SELECT count(*) FROM outbox_retries WHERE retried_by = 'ada' AND why = 'the limit was raised'";
    assert_eq!(desk.count(kept).await, 3);
}

#[tokio::test]
async fn invalid_commands_and_failed_checks_have_their_own_exit_codes() {
    let desk = Desk::new().await;
    desk.text(&["retry"], 2).await;
    desk.text(&["retry", "one", "--reason", "x"], 2).await;
    desk.text(&["retry", "1", "--apply"], 2).await;
    let mut command = Command::new(binary().unwrap());
    let nowhere = "postgres://riverlock@127.0.0.1:1/riverlock";
    let output = command.args(["outbox", "list"]).env("RIVERLOCK__POSTGRES__URL", nowhere).output().await.unwrap();
    assert_eq!(output.status.code(), Some(3));
}
