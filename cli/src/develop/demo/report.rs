//! The demo's final report.

use std::fmt::Display;

use riverlock_invoice_fetcher::queue::view as documents;
use riverlock_ledger::view;
use riverlock_processor::store;
use riverlock_reconcile::report::Report;
use riverlock_sandbox::PlayReport;
use sqlx::PgConnection;

use super::verify::Verification;
use crate::{develop::local::Local, terminal::out};

/// What was done at the account.
pub(super) struct AccountReport {
    /// The comparison with the list of events.
    pub(super) compared: Report,
    /// Number of orders that were shipped.
    pub(super) shipped: usize,
}

pub(super) async fn print(
    local: &Local,
    connection: &mut PgConnection,
    played: &PlayReport,
    verification: &Verification,
    account: &AccountReport,
) -> anyhow::Result<()> {
    let counts = &played.counts;
    out::line(&format!("\n{:-<78}", ""));
    row("events", format!("{} distinct, {} sent twice on purpose", counts.events_planned, counts.duplicates_sent));
    let refused: Vec<String> = counts.refused.iter().map(|(status, count)| format!("{count} x {status}")).collect();
    let refused = if refused.is_empty() { "none".to_owned() } else { refused.join(", ") };
    row(
        "requests",
        format!("{} sent, {} acknowledged, rejected: {refused}", counts.requests_sent, counts.acknowledged),
    );
    if counts.timeouts + counts.unreachable > 0 {
        row("", format!("{} without an answer in time, {} without a server", counts.timeouts, counts.unreachable));
    }
    let millis = |duration: std::time::Duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3);
    let (p50, p99, max) = (millis(played.latency_p50), millis(played.latency_p99), millis(played.latency_max));
    row("acknowledgement", format!("p50 {p50}, p99 {p99}, max {max}; {:.1} s in all", played.elapsed.as_secs_f64()));
    row("orders", list(store::count_by_status(connection).await?));
    row(
        "as played",
        format!("{} orders and {} events compared with their histories", verification.orders, verification.events),
    );
    let Report { listed, missing, written, .. } = &account.compared;
    row("never delivered", format!("{missing} of {listed} listed events, {written} fetched by reconcile"));
    row("shipped", format!("{} orders, each reported once and complete", account.shipped));
    row("outbox messages", view::outbox_counts(connection).await?.0);
    row("invoices", list(documents::count_by_state(connection).await?));
    row("as served", format!("{} invoices hashed, {} bytes", verification.invoices, verification.invoice_bytes));
    let memory: Vec<String> = local
        .services
        .iter()
        .filter_map(|service| Some(format!("{} {} MB", service.service.name(), service.peak_memory()? / 1_000_000)))
        .collect();
    row("peak memory", memory.join(", "));
    out::line(&format!("{:-<78}", ""));
    Ok(())
}

fn row(name: &str, value: impl Display) {
    out::line(&format!("{name:<16} {value}"));
}

fn list(counts: impl IntoIterator<Item = (String, u64)>) -> String {
    counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}
