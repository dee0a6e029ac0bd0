//! The queue with PostgreSQL.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use riverlock_ledger::{NewEvent, Projection};
use riverlock_runtime::{Clock as _, SystemClock};
use riverlock_schemas::{
    EventId, Mode, OrderId,
    events::file_event::{FileEvent, Purpose},
    hash::Sha256Hash,
};

use super::{config, database::Database, file};
use crate::{
    InvoiceQueue,
    queue::{ClosedCounts, Document, End, LeaseRoom, LeasedDocument, Queue, WriteResult},
};

/// Duration of a lease in these tests.
const LEASE: Duration = Duration::from_secs(120);

/// A time in the past.
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

/// Applies events with the projection as if they had been queued at this time.
pub(super) async fn announce(database: &Database, events: impl IntoIterator<Item = FileEvent>, at: DateTime<Utc>) {
    let config = config(&"http://127.0.0.1:9".parse().unwrap(), std::path::Path::new("/"));
    let fresh = events.into_iter().map(|event| NewEvent { event, conflict: false }).collect();
    let mut transaction = database.pool.begin().await.unwrap();
    InvoiceQueue::new(&config).apply(&mut transaction, fresh, at).await.unwrap();
    // The queue uses PostgreSQL's clock.
    let moved = sqlx::query("UPDATE invoices SET created_at = $1, next_attempt_at = $1 WHERE created_at = now()");
    moved.bind(at).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
}

/// Moves the times of all queued documents back, as if `seconds` had passed.
pub(super) async fn pass(database: &Database, seconds: i64) {
    let moved = sqlx::query(
        "UPDATE invoices SET created_at = created_at - $1, retried_at = retried_at - $1,
                             next_attempt_at = next_attempt_at - $1",
    );
    moved.bind(TimeDelta::seconds(seconds)).execute(&database.pool).await.unwrap();
}

/// The result of a stored document.
pub(super) fn document_end() -> End {
    let (object_key, sha256) = ("invoices/test/x.pdf".to_owned(), Sha256Hash::of(b"x"));
    End::Stored(Document { object_key, sha256, size_bytes: 1 })
}

pub(super) async fn lease(queue: &Queue, documents: usize) -> Vec<LeasedDocument> {
    queue.lease(Mode::Test, LeaseRoom { documents, repeated: documents }, LEASE).await.unwrap()
}

async fn messages(database: &Database) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&database.pool).await.unwrap()
}

#[tokio::test]
async fn a_file_announced_repeatedly_is_queued_once() {
    let database = Database::create().await;
    let otherwise = FileEvent { order_id: OrderId::parse("another").unwrap(), ..announced(1) };
    announce(&database, [announced(2), announced(1), announced(1)], noon()).await;
    announce(&database, [announced(1), otherwise, announced(3)], noon()).await;
    let queue = database.queue();
    let leased = lease(&queue, 10).await;
    let mut found: Vec<_> = leased.iter().map(|row| (row.file_id, row.order_id.to_string(), row.attempts)).collect();
    found.sort();
    let expected: Vec<_> = (1..=3).map(|number| (file(number), format!("order-{number}"), 1)).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_leased_document_belongs_to_one_worker_until_the_lease_ends() {
    let database = Database::create().await;
    announce(&database, [announced(1)], SystemClock.now() + TimeDelta::seconds(600)).await;
    let queue = database.queue();
    assert_eq!(lease(&queue, 10).await, [], "not due yet");
    pass(&database, 600).await;
    let room = LeaseRoom { documents: 10, repeated: 10 };
    assert_eq!(queue.lease(Mode::Live, room, LEASE).await.unwrap(), [], "another mode");

    let first = lease(&queue, 10).await.remove(0);
    pass(&database, 100).await;
    assert_eq!(lease(&queue, 10).await, []);
    pass(&database, 20).await;
    let second = lease(&queue, 10).await.remove(0);
    assert_eq!((first.attempts, second.attempts), (1, 2));

    // The first worker is too late with any result.
    let (wait, error) = (Duration::ZERO, || "x".to_owned());
    for end in
        [document_end(), End::RetryAfter { wait, attempts: 9, error: error() }, End::Discarded { error: error() }]
    {
        assert_eq!(queue.end(&first, &end, noon()).await.unwrap(), WriteResult::LeaseLost);
    }
    assert_eq!(
        (messages(&database).await, queue.ended().await.unwrap()),
        (0, ClosedCounts { stored: 0, discarded: 0 })
    );
    assert_eq!(queue.end(&second, &document_end(), noon()).await.unwrap(), WriteResult::Yes);
    assert_eq!(queue.end(&second, &document_end(), noon()).await.unwrap(), WriteResult::LeaseLost);
    assert_eq!(
        (messages(&database).await, queue.ended().await.unwrap()),
        (1, ClosedCounts { stored: 1, discarded: 0 })
    );
}

#[tokio::test]
async fn repeated_documents_are_limited_to_their_share() {
    let database = Database::create().await;
    announce(&database, (0..20).map(announced), noon()).await;
    let queue = database.queue();
    assert_eq!(lease(&queue, 10).await.len(), 10);
    // Their leases have ended: ten are due again, and more overdue than the other ten.
    sqlx::query("UPDATE invoices SET next_attempt_at = $1 WHERE attempts = 1")
        .bind(noon() - TimeDelta::hours(1))
        .execute(&database.pool)
        .await
        .unwrap();
    let count = |leased: &[LeasedDocument]| (leased.len(), leased.iter().filter(|leased| leased.is_repeated()).count());
    let room = |documents, repeated| queue.lease(Mode::Test, LeaseRoom { documents, repeated }, LEASE);
    assert_eq!(count(&room(8, 2).await.unwrap()), (8, 2));
    assert_eq!(count(&room(3, 3).await.unwrap()), (3, 3), "the most overdue come first");
    assert_eq!(count(&room(20, 0).await.unwrap()), (4, 0));
    assert_eq!(count(&room(20, 20).await.unwrap()), (5, 5));
}

#[tokio::test]
async fn concurrent_workers_never_lease_the_same_document() {
    let database = Database::create().await;
    announce(&database, (0..200).map(announced), noon()).await;
    let queue = database.queue();
    let leases = (0..40).map(|_| lease(&queue, 7));
    let mut leased: Vec<_> =
        futures::future::join_all(leases).await.into_iter().flatten().map(|row| row.file_id).collect();
    leased.extend(lease(&queue, 200).await.into_iter().map(|row| row.file_id));
    leased.sort();
    assert_eq!(leased, (0..200).map(file).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_most_overdue_document_is_first_and_a_retry_waits() {
    let database = Database::create().await;
    let (queue, start) = (database.queue(), SystemClock.now());
    for number in [2, 1, 3] {
        announce(&database, [announced(number)], start + TimeDelta::seconds(i64::try_from(number).unwrap())).await;
    }
    // Half a minute is more than this test takes.
    for (more, due) in [
        (31, [3, 0, 0, 0, 0]),
        (60, [0, 3, 0, 0, 0]),
        (7_200, [0, 0, 3, 0, 0]),
        (100_000, [0, 0, 0, 3, 0]),
        (300_000, [0, 0, 0, 0, 3]),
    ] {
        pass(&database, more).await;
        let [live, test] = queue.waiting().await.unwrap();
        assert_eq!((live.documents(), test.due), (0, due), "{more}");
        assert!(test.overdue.as_secs() >= u64::try_from(more - 3).unwrap());
    }
    let first = lease(&queue, 1).await.remove(0);
    assert_eq!((first.file_id, first.was_throttled), (file(1), false));
    assert!(first.age > Duration::from_secs(407_000), "{:?}", first.age);
    let (wait, error) = (Duration::from_secs(3600), format!("bad\0 {}", "x".repeat(1_000)));
    queue.end(&first, &End::RetryAfter { wait, attempts: 0, error }, noon()).await.unwrap();
    let others: Vec<_> = lease(&queue, 9).await.into_iter().map(|row| row.file_id).collect();
    assert_eq!((others.contains(&file(1)), others.len()), (false, 2));
    pass(&database, 3600).await;
    let again = lease(&queue, 9).await.into_iter().find(|row| row.file_id == file(1)).unwrap();
    assert_eq!(again.attempts, 1, "the attempt that did not count");
    let error: String = sqlx::query_scalar("SELECT last_error FROM invoices WHERE file_id = $1")
        .bind(file(1).as_uuid())
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert!(error.starts_with("bad\u{fffd} xxx") && error.chars().count() == 500, "{error}");
}

#[tokio::test]
async fn a_discarded_document_has_its_reason_and_is_not_retried() {
    let database = Database::create().await;
    let queue = database.queue();
    announce(&database, [announced(1)], noon()).await;
    let leased = lease(&queue, 1).await.remove(0);
    queue.end(&leased, &End::Discarded { error: "gone: away".to_owned() }, noon()).await.unwrap();
    pass(&database, 1_000 * 24 * 3600).await;
    assert_eq!(lease(&queue, 1).await, []);
    let row: (String, String, bool) = sqlx::query_as("SELECT state, last_error, ended_at > $1 FROM invoices")
        .bind(noon())
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!(row, ("discarded".to_owned(), "gone: away".to_owned(), true));
    assert_eq!(messages(&database).await, 0);
}
