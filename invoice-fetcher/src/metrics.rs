//! Metrics of the invoice-fetcher. Ids and URLs are never used as labels.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use riverlock_schemas::Mode;

use crate::{account::pause::PauseReason, problem::Problem, queue::AGES};

/// Documents by state.
pub const DOCUMENTS: &str = "riverlock_invoice_documents";
/// Due documents with an account, by time since they were queued.
pub const DUE_DOCUMENTS: &str = "riverlock_invoice_due_documents";
/// Due documents of modes without an account, by mode.
pub const WAITING_ACCOUNT: &str = "riverlock_invoice_waiting_account_documents";
/// Time of the last count of the queue, seconds since 1970.
pub const COUNTED: &str = "riverlock_invoice_queue_counted_timestamp_seconds";
/// How long the most overdue document has been due, seconds.
pub const OLDEST_DUE: &str = "riverlock_invoice_oldest_due_age_seconds";
/// Attempts by outcome and reason.
pub const ATTEMPTS: &str = "riverlock_invoice_attempts_total";
/// Duration of attempts, seconds.
pub const ATTEMPT_SECONDS: &str = "riverlock_invoice_attempt_duration_seconds";
/// Documents that were already in the archive when they were due.
pub const ADOPTED: &str = "riverlock_invoice_adopted_total";
/// Bytes of documents that this process stored.
pub const STORED_BYTES: &str = "riverlock_invoice_stored_bytes_total";
/// Time that requests waited for the rate limit, seconds.
pub const LIMITER_WAIT: &str = "riverlock_invoice_limiter_wait_seconds";
/// Anomalies that operators should examine, by kind.
pub const ANOMALIES: &str = "riverlock_invoice_anomalies_total";
/// Whether downloads are paused, by mode and reason. An alert fires for `key_refused`.
pub const PAUSED: &str = "riverlock_invoice_fetching_paused";
/// Attempts whose result was discarded because their lease was lost.
pub const LEASES_LOST: &str = "riverlock_invoice_leases_lost_total";
/// Complete orders without a stored invoice after the configured time, by mode.
pub const MISSING_ORDERS: &str = "riverlock_invoice_missing_orders";
/// Leftovers of interrupted attempts that were removed from the archive.
pub const LEFTOVERS: &str = "riverlock_invoice_orphaned_uploads_removed_total";
/// Requests for documents to the invoice API, by outcome.
pub const API_REQUESTS: &str = "riverlock_invoice_api_requests_total";

/// [`API_REQUESTS`]: outcomes.
pub(crate) const API_OUTCOMES: [&str; 6] = ["ok", "unauthorized", "not_found", "lost", "busy", "failed"];

/// [`ATTEMPTS`]: the document is stored.
pub(crate) const STORED: &str = "stored";
/// [`ATTEMPTS`]: the document is retried.
pub(crate) const RETRY: &str = "retry";
/// [`ATTEMPTS`]: the document is discarded.
pub(crate) const DISCARDED: &str = "discarded";

/// The states of a document, as in the database.
pub(crate) const STATES: [&str; 3] = ["due", "stored", "discarded"];

/// [`ANOMALIES`]: an event's URL for a file differs from the configuration.
pub(crate) const ANOMALY_URL: &str = "announced_url";
/// [`ANOMALIES`]: a file was announced again with another order, mode or purpose.
pub(crate) const ANOMALY_ANNOUNCED: &str = "announced_otherwise";
/// [`ANOMALIES`]: the purpose in a file's metadata differs from the event's.
pub(crate) const ANOMALY_PURPOSE: &str = "purpose";
/// [`ANOMALIES`]: another object was stored under the document's key. If it is a document, it counts as this one; otherwise the
/// received document is stored under another key. Nothing is overwritten, and no document is discarded for it.
pub(crate) const ANOMALY_CONFLICT: &str = "conflict";
/// [`ANOMALIES`]: a document that was downloaded again has other bytes than the previously stored one.
pub(crate) const ANOMALY_RERENDERED: &str = "rerendered";
/// [`ANOMALIES`]: a stored document is lost or changed in the archive.
pub(crate) const ANOMALY_ARCHIVE: &str = "archive";

/// Describes the metrics and sets them to 0, so that a dashboard shows 0 and not "no data".
pub(crate) fn describe() {
    describe_gauge!(DOCUMENTS, "Announced documents by state");
    describe_gauge!(DUE_DOCUMENTS, "Due documents by time since they were queued");
    describe_gauge!(WAITING_ACCOUNT, "Due documents of modes without an account");
    describe_gauge!(
        COUNTED,
        Unit::Seconds,
        "Time of the last count of the queue in Unix time; 0 before the first count"
    );
    gauge!(COUNTED).set(0);
    describe_gauge!(OLDEST_DUE, Unit::Seconds, "How long the most overdue document has been due");
    describe_counter!(ATTEMPTS, "Attempts to download a document, by outcome and reason");
    describe_histogram!(
        ATTEMPT_SECONDS,
        Unit::Seconds,
        "Duration of an attempt, including the wait for the rate limit"
    );
    describe_counter!(STORED_BYTES, Unit::Bytes, "Bytes of documents that this process stored");
    describe_histogram!(LIMITER_WAIT, Unit::Seconds, "Time that a request waited for the rate limit");
    describe_counter!(ANOMALIES, "Anomalies that operators should examine, by kind");
    describe_gauge!(PAUSED, "1 while downloads are paused for this reason; key_refused needs a new API key");
    describe_counter!(LEASES_LOST, "Attempts whose result was discarded because their lease was lost");
    for state in STATES {
        gauge!(DOCUMENTS, "state" => state).set(0);
    }
    for age in AGES {
        gauge!(DUE_DOCUMENTS, "age" => age).set(0);
    }
    gauge!(OLDEST_DUE).set(0);
    counter!(ATTEMPTS, "outcome" => STORED, "reason" => "").increment(0);
    for reason in Problem::REASONS {
        for outcome in [RETRY, DISCARDED] {
            counter!(ATTEMPTS, "outcome" => outcome, "reason" => reason).increment(0);
        }
    }
    counter!(STORED_BYTES).increment(0);
    describe_counter!(ADOPTED, "Documents that were already in the archive when they were due");
    counter!(ADOPTED).increment(0);
    for kind in [ANOMALY_URL, ANOMALY_ANNOUNCED, ANOMALY_PURPOSE, ANOMALY_CONFLICT, ANOMALY_RERENDERED, ANOMALY_ARCHIVE]
    {
        counter!(ANOMALIES, "kind" => kind).increment(0);
    }
    describe_gauge!(MISSING_ORDERS, "Complete orders without a stored invoice after the configured time");
    describe_counter!(LEFTOVERS, "Leftovers of interrupted attempts that were removed from the archive");
    counter!(LEFTOVERS).increment(0);
    describe_counter!(API_REQUESTS, "Requests for documents to the invoice API, by outcome");
    for outcome in API_OUTCOMES {
        counter!(API_REQUESTS, "outcome" => outcome).increment(0);
    }
    for mode in [Mode::Live, Mode::Test] {
        paused(mode, None);
        gauge!(WAITING_ACCOUNT, "mode" => mode.as_str()).set(0);
        gauge!(MISSING_ORDERS, "mode" => mode.as_str()).set(0);
    }
    counter!(LEASES_LOST).increment(0);
}

/// Sets the gauges of a mode's pause.
pub(crate) fn paused(mode: Mode, trouble: Option<PauseReason>) {
    for why in PauseReason::ALL {
        let value = f64::from(u8::from(trouble == Some(why)));
        gauge!(PAUSED, "mode" => mode.as_str(), "reason" => why.as_str()).set(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_exists_at_the_start_and_a_rejected_key_sets_the_gauge() {
        let page = riverlock_runtime::telemetry::metrics().unwrap();
        describe();
        // No other test in this process uses this mode.
        paused(Mode::Live, Some(PauseReason::KeyRefused));
        let text = page.render();
        for series in [
            "riverlock_invoice_documents{state=\"due\"}",
            "riverlock_invoice_due_documents{age=\"under_1m\"}",
            "riverlock_invoice_due_documents{age=\"over_3d\"}",
            "riverlock_invoice_oldest_due_age_seconds",
            "riverlock_invoice_attempts_total{outcome=\"stored\",reason=\"\"}",
            "riverlock_invoice_attempts_total{outcome=\"retry\",reason=\"not_found\"}",
            "riverlock_invoice_attempts_total{outcome=\"discarded\",reason=\"too_large\"}",
            "riverlock_invoice_stored_bytes_total",
            "riverlock_invoice_anomalies_total{kind=\"announced_url\"}",
            "riverlock_invoice_leases_lost_total",
            "riverlock_invoice_fetching_paused{mode=\"live\",reason=\"key_refused\"} 1",
            "riverlock_invoice_fetching_paused{mode=\"live\",reason=\"down\"} 0",
        ] {
            assert!(text.contains(series), "{series} is missing in\n{text}");
        }
    }
}
