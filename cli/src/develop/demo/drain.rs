//! Waits until everything that was sent is processed.

use std::time::{Duration, Instant};

use anyhow::bail;
use riverlock_invoice_fetcher::queue::view as documents;
use riverlock_ledger::view;
use riverlock_recovery::audit;

use super::restart::{CHECK_INTERVAL, restart_ended};
use crate::{develop::local::Local, terminal::out};

/// How long the backlog may stay the same before the wait fails.
const STALL_MAX: Duration = Duration::from_secs(120);
/// How often the backlog is printed.
const PRINT_INTERVAL: Duration = Duration::from_secs(5);

/// What is not processed yet.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Backlog {
    records: u64,
    invoices: u64,
    messages: u64,
}

/// Waits until the consumers have read everything, all invoices are stored and all messages published.
///
/// # Errors
/// When the backlog stays the same for too long, or a server does not answer.
pub async fn wait(local: &mut Local) -> anyhow::Result<()> {
    out::line("waiting until every event, invoice and message is processed");
    let consumers = local.config.consumers();
    let (mut last, mut changed_at, mut printed_at) = (None, Instant::now(), Instant::now());
    loop {
        let mut connection = local.config.postgres.connect().await?;
        let backlog = Backlog {
            records: audit::pending(&local.config.kafka, &mut connection, &consumers).await?,
            invoices: documents::count_by_state(&mut connection).await?.get("due").copied().unwrap_or_default(),
            messages: view::outbox_counts(&mut connection).await?.1,
        };
        if backlog == (Backlog { records: 0, invoices: 0, messages: 0 }) {
            return Ok(());
        }
        if last != Some(backlog) {
            (last, changed_at) = (Some(backlog), Instant::now());
        }
        let Backlog { records, invoices, messages } = backlog;
        let text = format!("{records} records, {invoices} invoices and {messages} messages are left");
        if changed_at.elapsed() > STALL_MAX {
            bail!("no progress for {} s: {text}", STALL_MAX.as_secs());
        }
        if printed_at.elapsed() > PRINT_INTERVAL {
            out::line(&format!("  {text}"));
            printed_at = Instant::now();
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
        restart_ended(local).await?;
    }
}
