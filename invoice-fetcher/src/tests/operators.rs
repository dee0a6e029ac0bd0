//! Lists, retries and missing invoices with PostgreSQL.

use std::time::Duration;

use chrono::TimeDelta;
use riverlock_schemas::Mode;

use super::{
    config,
    database::Database,
    file,
    queueing::{announce, announced, document_end, lease, noon},
};
use crate::{
    InvoiceFetcherConfig,
    queue::{
        End, Queue, missing,
        retry::{self, Request, Run},
        view::{self, Filter},
    },
};

const SIX_HOURS: Duration = Duration::from_secs(6 * 3600);

fn fetcher_config() -> InvoiceFetcherConfig {
    config(&"http://127.0.0.1:9".parse().unwrap(), std::path::Path::new("/"))
}

/// Three documents: 1 is stored, 2 is discarded, 3 is due.
async fn three(database: &Database) -> Queue {
    announce(database, (1..=3).map(announced), noon()).await;
    let queue = database.queue();
    for leased in lease(&queue, 3).await {
        let (wait, error) = (SIX_HOURS, "not_found: not there yet".to_owned());
        let end = match leased.file_id {
            id if id == file(1) => document_end(),
            id if id == file(2) => End::Discarded { error: "gone: away".to_owned() },
            _ => End::RetryAfter { wait, attempts: 9, error },
        };
        queue.end(&leased, &end, noon()).await.unwrap();
    }
    queue
}

#[tokio::test]
async fn a_list_contains_the_documents_that_match_its_filter() {
    let database = Database::create().await;
    three(&database).await;
    let mut connection = database.pool.acquire().await.unwrap();
    let text = |text: &str| Some(text.to_owned());
    for (filter, expected) in [
        (Filter::default(), vec![1, 2, 3]),
        (Filter { state: text("stored"), ..Filter::default() }, vec![1]),
        (Filter { order_id: text("order-2"), ..Filter::default() }, vec![2]),
        (Filter { reason: text("not_found"), ..Filter::default() }, vec![3]),
        (Filter { reason: text("\0"), ..Filter::default() }, vec![]),
        (Filter { file_id: Some(file(3)), state: text("stored"), ..Filter::default() }, vec![]),
        (Filter { queued_before: Some(noon()), ..Filter::default() }, vec![]),
        (Filter { queued_before: Some(noon() + TimeDelta::seconds(1)), ..Filter::default() }, vec![1, 2, 3]),
    ] {
        let found = view::list(&mut connection, &filter, None, 10).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|row| row.file_id).collect();
        assert_eq!(found, expected.into_iter().map(file).collect::<Vec<_>>(), "{filter:?}");
    }
    assert_eq!(view::list(&mut connection, &Filter::default(), None, 2).await.unwrap().len(), 2);
    assert_eq!(view::find(&mut connection, file(2)).await.unwrap().unwrap().order_id, "order-2");
    assert!(view::find(&mut connection, file(9)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_retry_resets_and_records_but_skips_stored_and_leased_documents() {
    let database = Database::create().await;
    let queue = three(&database).await;
    let mut connection = database.pool.acquire().await.unwrap();
    let request = Request { by: "ada".to_owned(), reason: "the file is there now".to_owned() };
    for _ in 0..2 {
        let dry = retry::run(&mut connection, &Filter::default(), 10, &request, Run::Dry).await.unwrap();
        assert_eq!(dry.iter().map(|row| row.file_id).collect::<Vec<_>>(), [file(2), file(3)]);
    }
    assert_eq!(lease(&queue, 9).await, [], "the dry run changed nothing");

    let done = retry::run(&mut connection, &Filter::default(), 10, &request, Run::Apply).await.unwrap();
    assert_eq!((done[0].state.as_str(), done[1].state.as_str(), done[1].attempts), ("discarded", "due", 9));
    let leased = lease(&queue, 9).await;
    assert_eq!(leased.len(), 2);
    assert!(leased.iter().all(|row| row.attempts == 1 && row.age < SIX_HOURS), "{leased:?}");

    let again = retry::run(&mut connection, &Filter::default(), 10, &request, Run::Apply).await.unwrap();
    assert_eq!(again, [], "they are leased");
    let noted = view::retries(&mut connection, file(2)).await.unwrap();
    assert_eq!((noted.len(), noted[0].retried_by.as_str(), noted[0].state.as_str()), (1, "ada", "discarded"));
    assert_eq!(noted[0].last_error.as_deref(), Some("gone: away"));
}

#[tokio::test]
async fn documents_that_a_key_could_not_download_are_due_after_it_changes() {
    let database = Database::create().await;
    announce(&database, (1..=2).map(announced), noon()).await;
    let queue = database.queue();
    for leased in lease(&queue, 2).await {
        let error = if leased.file_id == file(1) { "forbidden: 403" } else { "not_found: 404" }.to_owned();
        let end = End::RetryAfter { wait: SIX_HOURS, attempts: 1, error };
        queue.end(&leased, &end, noon()).await.unwrap();
    }
    assert_eq!(queue.wake_rejected(Mode::Live).await.unwrap(), 0);
    assert_eq!(queue.wake_rejected(Mode::Test).await.unwrap(), 1);
    assert_eq!(lease(&queue, 9).await[0].file_id, file(1));
}

/// Inserts an order that was completed `complete_hours` before noon; `None` is not complete.
async fn order(database: &Database, number: u128, live: bool, details: &str, complete_hours: Option<i64>) {
    let complete_at = complete_hours.map(|hours| noon() - TimeDelta::hours(hours));
    let status = if complete_at.is_some() { "complete" } else { "ready" };
    sqlx::query(
        "INSERT INTO orders (order_id, live_mode, version, status, seen, accepted_at, complete_at, unknown_states, conflicted,
                             snapshot_event_id, details, lines)
         VALUES ($1, $2, 1, $3, '{}', $4, $5, '{}', false, 'e', $6::jsonb, '{}')",
    )
    .bind(format!("order-{number}"))
    .bind(live)
    .bind(status)
    .bind(noon())
    .bind(complete_at)
    .bind(serde_json::from_str::<serde_json::Value>(details).unwrap())
    .execute(&database.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn complete_orders_without_an_expected_invoice_are_listed() {
    let database = Database::create().await;
    three(&database).await;
    let paid = r#"{"totalAmount": "27.10", "sellingEntityId": "IE", "currency": "EUR"}"#;
    for number in 1..=4 {
        order(&database, number, false, paid, Some(30)).await;
    }
    order(&database, 5, false, r#"{"totalAmount": "0.00", "sellingEntityId": "IE"}"#, Some(30)).await;
    order(&database, 6, false, paid, Some(23)).await;
    order(&database, 7, false, paid, None).await;
    order(&database, 8, true, paid, Some(30)).await;
    order(&database, 9, false, r#"{"totalAmount": "1", "sellingEntityId": "US"}"#, Some(31)).await;
    order(&database, 10, false, "{}", Some(29)).await;

    let mut connection = database.pool.acquire().await.unwrap();
    for (entities, expected) in [
        // Order 8 is live, and there is no live account.
        (vec![], vec!["order-9", "order-2", "order-3", "order-4", "order-8", "order-10"]),
        (vec!["IE".to_owned(), "XX".to_owned()], vec!["order-2", "order-3", "order-4", "order-8"]),
        (vec!["XX".to_owned()], vec![]),
    ] {
        let mut config = fetcher_config();
        config.missing.selling_entities = entities;
        let found = missing::list(&mut connection, &config.missing, noon(), None, 10).await.unwrap();
        assert_eq!(found.iter().map(|row| row.order_id.as_str()).collect::<Vec<_>>(), expected);
        let count = missing::count(&mut connection, &config.missing, noon()).await.unwrap();
        let live = expected.iter().filter(|order| **order == "order-8").count();
        let expected = [(Mode::Live, live), (Mode::Test, expected.len() - live)];
        assert_eq!(count.map(|(mode, orders)| (mode, usize::try_from(orders).unwrap())), expected);
        assert!(found.iter().all(|row| row.announced == i64::from(["order-2", "order-3"].contains(&&*row.order_id))));
    }
}
