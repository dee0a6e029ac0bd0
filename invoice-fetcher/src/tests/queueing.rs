//! The queue against PostgreSQL.

use chrono::{DateTime, TimeDelta, Utc};
use riverlock_ledger::{Fresh, Projection};
use riverlock_schemas::{
    EventId, Mode, OrderId,
    file_event::{FileEvent, Purpose},
    hash::Sha256Hash,
};

use super::{config, database::Database, file};
use crate::{
    InvoiceQueue,
    queue::{Document, End, Ended, Leased, Queue, Waiting, Written},
};

/// The time of day at which these tests play.
pub(super) fn noon() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

/// An event that announces a file of test data.
pub(super) fn announced(number: u128) -> FileEvent {
    FileEvent {
        event_id: EventId::parse(format!("event-{number}")).unwrap(),
        created_time: Some(noon()),
        order_id: OrderId::parse(format!("order-{number}")).unwrap(),
        mode: Mode::Test,
        file_id: file(number),
        purpose: Purpose::Invoice,
        announced_url: None,
    }
}

/// Puts events through the projection.
pub(super) async fn announce(database: &Database, events: impl IntoIterator<Item = FileEvent>, now: DateTime<Utc>) {
    let config = config(&"http://127.0.0.1:9".parse().unwrap(), std::path::Path::new("/"));
    let fresh = events.into_iter().map(|event| Fresh { event, conflict: false }).collect();
    let mut transaction = database.pool.begin().await.unwrap();
    InvoiceQueue::new(&config).apply(&mut transaction, fresh, now).await.unwrap();
    transaction.commit().await.unwrap();
}

/// A document that is stored.
pub(super) fn document_end() -> End {
    let (object_key, sha256) = ("invoices/test/x.pdf".to_owned(), Sha256Hash::of(b"x"));
    End::Stored(Document { object_key, sha256, size_bytes: 1 })
}

pub(super) async fn lease(queue: &Queue, limit: usize, now: DateTime<Utc>) -> Vec<Leased> {
    queue.lease(Mode::Test, limit, now, now + TimeDelta::minutes(2)).await.unwrap()
}

async fn messages(database: &Database) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&database.pool).await.unwrap()
}

#[tokio::test]
async fn a_file_is_queued_once_however_often_it_is_announced() {
    let database = Database::create().await;
    let otherwise = FileEvent { order_id: OrderId::parse("another").unwrap(), ..announced(1) };
    announce(&database, [announced(2), announced(1), announced(1)], noon()).await;
    announce(&database, [announced(1), otherwise, announced(3)], noon()).await;
    let queue = Queue::new(database.pool.clone());
    let leased = lease(&queue, 10, noon()).await;
    let mut found: Vec<_> = leased.iter().map(|row| (row.file_id, row.order_id.to_string(), row.attempts)).collect();
    found.sort();
    let expected: Vec<_> = (1..=3).map(|number| (file(number), format!("order-{number}"), 1)).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_leased_row_is_nobody_elses_until_the_lease_ends() {
    let database = Database::create().await;
    announce(&database, [announced(1)], noon()).await;
    let queue = Queue::new(database.pool.clone());
    let early = lease(&queue, 10, noon() - TimeDelta::seconds(1)).await;
    assert_eq!(early, [], "not due yet");
    assert_eq!(queue.lease(Mode::Live, 10, noon(), noon()).await.unwrap(), [], "another mode");

    let first = lease(&queue, 10, noon()).await.remove(0);
    assert_eq!(lease(&queue, 10, noon() + TimeDelta::seconds(119)).await, []);
    let second = lease(&queue, 10, noon() + TimeDelta::seconds(120)).await.remove(0);
    assert_eq!((first.attempts, second.attempts), (1, 2));

    // The first worker comes back too late, whatever it brings.
    let error = || "x".to_owned();
    for end in
        [document_end(), End::RetryAt { at: noon(), attempts: 9, error: error() }, End::Discarded { error: error() }]
    {
        assert_eq!(queue.end(&first, &end, noon()).await.unwrap(), Written::LeaseLost);
    }
    assert_eq!((messages(&database).await, queue.ended().await.unwrap()), (0, Ended { stored: 0, discarded: 0 }));
    assert_eq!(queue.end(&second, &document_end(), noon()).await.unwrap(), Written::Yes);
    assert_eq!(queue.end(&second, &document_end(), noon()).await.unwrap(), Written::LeaseLost);
    assert_eq!((messages(&database).await, queue.ended().await.unwrap()), (1, Ended { stored: 1, discarded: 0 }));
}

#[tokio::test]
async fn workers_that_lease_at_the_same_time_never_get_the_same_row() {
    let database = Database::create().await;
    announce(&database, (0..200).map(announced), noon()).await;
    let queue = Queue::new(database.pool.clone());
    let leases = (0..40).map(|_| lease(&queue, 7, noon()));
    let mut leased: Vec<_> =
        futures::future::join_all(leases).await.into_iter().flatten().map(|row| row.file_id).collect();
    leased.extend(lease(&queue, 200, noon()).await.into_iter().map(|row| row.file_id));
    leased.sort();
    assert_eq!(leased, (0..200).map(file).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_most_overdue_row_comes_first_and_a_retry_waits_for_its_time() {
    let database = Database::create().await;
    let queue = Queue::new(database.pool.clone());
    for number in [2, 1, 3] {
        announce(&database, [announced(number)], noon() + TimeDelta::seconds(i64::try_from(number).unwrap())).await;
    }
    let later = noon() + TimeDelta::minutes(1);
    for (age, due) in
        [(1, [0, 0, 0, 0, 3]), (62, [0, 0, 0, 1, 2]), (7_200, [0, 0, 3, 0, 0]), (300_000, [3, 0, 0, 0, 0])]
    {
        let waiting = Waiting { due, since: Some(noon() + TimeDelta::seconds(1)) };
        assert_eq!(queue.waiting(noon() + TimeDelta::seconds(age)).await.unwrap(), waiting, "{age}");
    }
    let first = lease(&queue, 1, later).await.remove(0);
    assert_eq!((first.file_id, first.queued_at), (file(1), noon() + TimeDelta::seconds(1)));
    let (at, error) = (later + TimeDelta::hours(1), format!("bad\0 {}", "x".repeat(1_000)));
    queue.end(&first, &End::RetryAt { at, attempts: 0, error }, later).await.unwrap();
    let others: Vec<_> = lease(&queue, 9, later).await.into_iter().map(|row| row.file_id).collect();
    assert_eq!((others.contains(&file(1)), others.len()), (false, 2));
    let again = lease(&queue, 9, at).await.into_iter().find(|row| row.file_id == file(1)).unwrap();
    assert_eq!(again.attempts, 1, "the attempt that did not count");
    let error: String = sqlx::query_scalar("SELECT last_error FROM invoices WHERE file_id = $1")
        .bind(file(1).as_uuid())
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert!(error.starts_with("bad\u{fffd} xxx") && error.chars().count() == 500, "{error}");
}

#[tokio::test]
async fn a_discarded_row_is_visible_with_its_reason_and_is_not_tried_again() {
    let database = Database::create().await;
    let queue = Queue::new(database.pool.clone());
    announce(&database, [announced(1)], noon()).await;
    let leased = lease(&queue, 1, noon()).await.remove(0);
    queue.end(&leased, &End::Discarded { error: "gone: away".to_owned() }, noon()).await.unwrap();
    assert_eq!(lease(&queue, 1, noon() + TimeDelta::days(1_000)).await, []);
    let row: (String, String, DateTime<Utc>) =
        sqlx::query_as("SELECT state, last_error, ended_at FROM invoices").fetch_one(&database.pool).await.unwrap();
    assert_eq!(row, ("discarded".to_owned(), "gone: away".to_owned(), noon()));
    assert_eq!(messages(&database).await, 0);
}
