//! A worker that is interrupted at any await point loses no document and duplicates none.

use std::{future::Future, pin::pin, sync::Arc, task::Poll};

use object_store::local::LocalFileSystem;
use riverlock_runtime::Context;

use super::{fetching::Bench, files};
use crate::{Archive, archive::sweep, fetch::worker::Fetcher};

/// Part size, bytes: so small that every document except the first few is staged in several parts.
const PART_BYTES: usize = 64;

/// Maximum number of interruptions; an attempt has far fewer steps.
const INTERRUPTIONS_MAX: u128 = 400;

/// Minimum number of interruptions: an attempt waits for the API twice, for the store, and for PostgreSQL. On a busy machine
/// several responses may be ready when it is polled, so that it has fewer steps than await points.
const INTERRUPTIONS_MIN: u128 = 5;

/// Polls a future up to `steps` times and drops it, like a crash. Returns whether it completed before.
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

/// A worker with its own connections that stores documents in one put or in parts.
fn worker(bench: &Bench, part_bytes: Option<usize>) -> Fetcher {
    let mut fetcher = Fetcher::new(bench.config.clone(), &bench.database.config, Context::new()).unwrap();
    if let Some(part_bytes) = part_bytes {
        let folder = LocalFileSystem::new_with_prefix(bench.folder.path()).unwrap().with_fsync(true);
        fetcher.archive = Archive::new(Arc::new(folder), part_bytes);
    }
    fetcher
}

async fn interrupt_at_every_step(part_bytes: Option<usize>) {
    let bench = Bench::new().await;
    let mut interruptions = 0;
    loop {
        bench.announce([interruptions]).await;
        let fetcher = worker(&bench, part_bytes);
        let leased = fetcher.lease(1).await.unwrap().remove(0);
        let finished = live_for(interruptions, Box::pin(fetcher.work(&leased))).await;
        drop(fetcher);
        // The lease of the interrupted worker ends.
        sqlx::query("UPDATE invoices SET next_attempt_at = created_at WHERE state = 'due'")
            .execute(&bench.database.pool)
            .await
            .unwrap();
        interruptions += 1;
        if finished {
            break;
        }
        assert!(interruptions < INTERRUPTIONS_MAX, "an attempt does not complete");
        // The next worker finishes the document.
        let next = worker(&bench, part_bytes);
        let leased = next.lease(1).await.unwrap();
        for leased in &leased {
            next.work(leased).await;
        }
    }
    assert!(interruptions >= INTERRUPTIONS_MIN, "{interruptions} interruptions show nothing");
    bench.until("SELECT count(*) FROM invoices WHERE state <> 'stored'", 0).await;
    // The leftovers of interrupted workers are removed.
    let archive = Archive::open(&bench.config).unwrap();
    sweep::sweep(&archive, chrono::DateTime::<chrono::Utc>::MAX_UTC).await.unwrap();
    assert_eq!(files(bench.folder.path()).len(), usize::try_from(interruptions).unwrap());
    bench.check(0..interruptions).await;
}

#[tokio::test]
async fn interrupting_a_small_document_at_any_step_loses_and_duplicates_nothing() {
    interrupt_at_every_step(None).await;
}

#[tokio::test]
async fn interrupting_a_document_in_parts_at_any_step_loses_and_duplicates_nothing() {
    interrupt_at_every_step(Some(PART_BYTES)).await;
}
