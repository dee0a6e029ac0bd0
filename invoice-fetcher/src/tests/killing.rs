//! A worker that dies at any moment loses nothing and doubles nothing.

use std::{future::Future, pin::pin, sync::Arc, task::Poll};

use object_store::local::LocalFileSystem;
use riverlock_runtime::Context;

use super::{fetching::Bench, files};
use crate::{Archive, archive::sweep, fetch::worker::Fetcher};

/// Small enough that every document but the first few is staged in several parts.
const PART_BYTES: usize = 64;

/// Deaths that are tried at most; an attempt has far fewer steps.
const DEATHS_MAX: u128 = 400;

/// Deaths that are tried at least: an attempt waits for the API twice, for the store, and for PostgreSQL. On a busy machine
/// several answers may be there when it is polled, so that it has fewer steps than it waits for things.
const DEATHS_MIN: u128 = 5;

/// Runs a future step by step and drops it after so many, as a death does. Returns whether it came to its end before.
async fn live_for(steps: u128, future: impl Future<Output = ()>) -> bool {
    let (mut future, mut left) = (pin!(future), steps);
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        future.as_mut().poll(context).map(|()| true)
    })
    .await
}

/// A worker of its own, with connections of its own, that stores small documents in one put or in parts.
fn worker(bench: &Bench, part_bytes: Option<usize>) -> Fetcher {
    let mut fetcher = Fetcher::new(bench.config.clone(), &bench.database.config, Context::new()).unwrap();
    if let Some(part_bytes) = part_bytes {
        let folder = LocalFileSystem::new_with_prefix(bench.folder.path()).unwrap().with_fsync(true);
        fetcher.archive = Archive::new(Arc::new(folder), part_bytes);
    }
    fetcher
}

async fn die_at_every_step(part_bytes: Option<usize>) {
    let bench = Bench::new().await;
    let mut deaths = 0;
    loop {
        bench.announce([deaths]).await;
        let fetcher = worker(&bench, part_bytes);
        let leased = fetcher.lease(1).await.unwrap().remove(0);
        let finished = live_for(deaths, Box::pin(fetcher.work(&leased))).await;
        drop(fetcher);
        // The dead worker's lease ends.
        sqlx::query("UPDATE invoices SET next_attempt_at = created_at WHERE state = 'due'")
            .execute(&bench.database.pool)
            .await
            .unwrap();
        deaths += 1;
        if finished {
            break;
        }
        assert!(deaths < DEATHS_MAX, "an attempt has no end");
        // The next worker finishes what this one left, whatever that is.
        let next = worker(&bench, part_bytes);
        let leased = next.lease(1).await.unwrap();
        for leased in &leased {
            next.work(leased).await;
        }
    }
    assert!(deaths >= DEATHS_MIN, "{deaths} deaths show nothing");
    bench.until("SELECT count(*) FROM invoices WHERE state <> 'stored'", 0).await;
    // What the dead left besides documents is swept.
    let archive = Archive::open(&bench.config).unwrap();
    sweep::sweep(&archive, chrono::DateTime::<chrono::Utc>::MAX_UTC).await.unwrap();
    assert_eq!(files(bench.folder.path()).len(), usize::try_from(deaths).unwrap());
    bench.check(0..deaths).await;
}

#[tokio::test]
async fn a_worker_that_dies_between_any_two_steps_of_a_small_document_loses_and_doubles_nothing() {
    die_at_every_step(None).await;
}

#[tokio::test]
async fn a_worker_that_dies_between_any_two_steps_of_a_document_in_parts_loses_and_doubles_nothing() {
    die_at_every_step(Some(PART_BYTES)).await;
}
