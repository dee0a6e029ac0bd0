//! Shows the queue's depth and the missing invoices as metrics.

use std::{convert::Infallible, time::Duration, time::Instant};

use metrics::gauge;
use riverlock_ledger::Error;
use riverlock_runtime::Context;

use crate::{
    InvoiceFetcherConfig, metrics as names, missing,
    queue::{AGES, Queue},
};

/// How often the queue is counted, at most.
const INTERVAL: Duration = Duration::from_secs(5);

/// How many times longer than the counting the pause after it is at least: a large table is counted more rarely.
const PAUSE_FACTOR: u32 = 50;

/// Counts until the shutdown. Errors are logged and waited out.
pub(crate) async fn run(queue: Queue, config: InvoiceFetcherConfig, context: Context) -> Result<(), Infallible> {
    let soft = context.shutdown.soft().clone();
    let (mut slow_after, mut slow_pause) = (Instant::now(), Duration::ZERO);
    while !soft.is_cancelled() {
        let mut result = show_waiting(&queue, &context).await;
        if result.is_ok() && slow_after.elapsed() >= slow_pause {
            let begun = Instant::now();
            result = show_all(&queue, &config, &context).await;
            (slow_after, slow_pause) = (Instant::now(), begun.elapsed() * PAUSE_FACTOR);
        }
        if let Err(error) = result {
            tracing::debug!(%error, "the invoice queue could not be counted: {error}");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = soft.cancelled() => {}
        }
    }
    Ok(())
}

async fn show_waiting(queue: &Queue, context: &Context) -> Result<(), Error> {
    let now = context.clock.now();
    let waiting = queue.waiting(now).await?;
    let age = waiting.since.and_then(|since| (now - since).to_std().ok()).unwrap_or_default();
    gauge!(names::DOCUMENTS, "state" => "due").set(waiting.due.iter().sum::<i64>() as f64);
    for (age, due) in AGES.into_iter().zip(waiting.due) {
        gauge!(names::DUE_DOCUMENTS, "age" => age).set(due as f64);
    }
    gauge!(names::OLDEST_DUE).set(age.as_secs_f64());
    Ok(())
}

/// What reads whole tables.
async fn show_all(queue: &Queue, config: &InvoiceFetcherConfig, context: &Context) -> Result<(), Error> {
    let ended = queue.ended().await?;
    gauge!(names::DOCUMENTS, "state" => "stored").set(ended.stored as f64);
    gauge!(names::DOCUMENTS, "state" => "discarded").set(ended.discarded as f64);
    let missing = missing::count(&mut *queue.connection().await?, config, context.clock.now()).await?;
    gauge!(names::MISSING_ORDERS).set(missing as f64);
    Ok(())
}
