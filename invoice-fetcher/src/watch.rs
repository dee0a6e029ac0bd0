//! Shows the queue's depth as metrics.

use std::{convert::Infallible, time::Duration, time::Instant};

use metrics::gauge;
use riverlock_ledger::Error;
use riverlock_runtime::Context;

use crate::{metrics as names, queue::Queue};

/// How often the queue is counted, at most.
const INTERVAL: Duration = Duration::from_secs(5);

/// How many times longer than the counting the pause after it is at least: a large table is counted more rarely.
const PAUSE_FACTOR: u32 = 50;

/// Counts until the shutdown. Errors are logged and waited out.
pub(crate) async fn run(queue: Queue, context: Context) -> Result<(), Infallible> {
    let soft = context.shutdown.soft().clone();
    let (mut ended_after, mut ended_pause) = (Instant::now(), Duration::ZERO);
    while !soft.is_cancelled() {
        let result = show_waiting(&queue, &context).await;
        let result = match result {
            Ok(()) if ended_after.elapsed() >= ended_pause => {
                let begun = Instant::now();
                let result = show_ended(&queue).await;
                (ended_after, ended_pause) = (Instant::now(), begun.elapsed() * PAUSE_FACTOR);
                result
            }
            other => other,
        };
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
    let waiting = queue.waiting().await?;
    let age = waiting.since.and_then(|since| (context.clock.now() - since).to_std().ok()).unwrap_or_default();
    gauge!(names::DOCUMENTS, "state" => "due").set(waiting.due as f64);
    gauge!(names::OLDEST_DUE).set(age.as_secs_f64());
    Ok(())
}

async fn show_ended(queue: &Queue) -> Result<(), Error> {
    let ended = queue.ended().await?;
    gauge!(names::DOCUMENTS, "state" => "stored").set(ended.stored as f64);
    gauge!(names::DOCUMENTS, "state" => "discarded").set(ended.discarded as f64);
    Ok(())
}
