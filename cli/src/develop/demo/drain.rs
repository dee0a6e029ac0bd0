//! Waits until everything that was sent has had its effect.

use std::time::{Duration, Instant};

use anyhow::bail;
use riverlock_invoice_fetcher::queue::view as documents;
use riverlock_ledger::view;
use riverlock_recovery::audit;

use super::{LOOK_INTERVAL, mend};
use crate::{develop::local::Local, terminal::out};

/// How long nothing may move before the wait is given up.
const STALL_MAX: Duration = Duration::from_secs(120);
/// How often the state of the wait is told.
const TELL_INTERVAL: Duration = Duration::from_secs(5);

/// What is still to be done.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Left {
    records: u64,
    invoices: u64,
    messages: u64,
}

/// Waits until the consumers have read everything, all invoices are stored and all messages published.
///
/// # Errors
/// When nothing moves any more, or a server does not answer.
pub async fn wait(local: &mut Local) -> anyhow::Result<()> {
    out::line("waiting until every event, invoice and message is dealt with");
    let consumers = local.config.consumers();
    let (mut last, mut moved, mut told) = (None, Instant::now(), Instant::now());
    loop {
        let mut connection = local.config.postgres.connect().await?;
        let left = Left {
            records: audit::pending(&local.config.kafka, &mut connection, &consumers).await?,
            invoices: documents::count_by_state(&mut connection).await?.get("due").copied().unwrap_or_default(),
            messages: view::outbox_counts(&mut connection).await?.1,
        };
        if left == (Left { records: 0, invoices: 0, messages: 0 }) {
            return Ok(());
        }
        if last != Some(left) {
            (last, moved) = (Some(left), Instant::now());
        }
        let Left { records, invoices, messages } = left;
        let text = format!("{records} records, {invoices} invoices and {messages} messages are left");
        if moved.elapsed() > STALL_MAX {
            bail!("nothing has moved for {} s: {text}", STALL_MAX.as_secs());
        }
        if told.elapsed() > TELL_INTERVAL {
            out::line(&format!("  {text}"));
            told = Instant::now();
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        mend(local).await?;
    }
}
