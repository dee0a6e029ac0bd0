//! Names of the invoice-fetcher's metrics. Ids and addresses are never labels.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use riverlock_schemas::Mode;

use crate::{account::gate::PauseReason, problem::Problem, queue::AGES};

/// Documents by state.
pub const DOCUMENTS: &str = "riverlock_invoice_documents";
/// Documents that wait and have an account, by how long ago they were queued.
pub const DUE_DOCUMENTS: &str = "riverlock_invoice_due_documents";
/// Documents of a mode without an account, which wait until there is one, by mode.
pub const WAITING_ACCOUNT: &str = "riverlock_invoice_waiting_account_documents";
/// When the queue was counted last, seconds since 1970.
pub const COUNTED: &str = "riverlock_invoice_queue_counted_timestamp_seconds";
/// How long the document that is most overdue waits, seconds.
pub const OLDEST_DUE: &str = "riverlock_invoice_oldest_due_age_seconds";
/// Attempts by outcome and reason.
pub const ATTEMPTS: &str = "riverlock_invoice_attempts_total";
/// Time of an attempt.
pub const ATTEMPT_SECONDS: &str = "riverlock_invoice_attempt_duration_seconds";
/// Documents that were in the archive already when they were to be fetched.
pub const ADOPTED: &str = "riverlock_invoice_adopted_total";
/// Bytes of the documents that this process stored.
pub const STORED_BYTES: &str = "riverlock_invoice_stored_bytes_total";
/// Time that a request waited for the rate limit.
pub const LIMITER_WAIT: &str = "riverlock_invoice_limiter_wait_seconds";
/// Oddities that people should look at, by kind.
pub const ANOMALIES: &str = "riverlock_invoice_anomalies_total";
/// Whether nothing is fetched at the moment, by mode and reason. `key_refused` is an alarm.
pub const PAUSED: &str = "riverlock_invoice_fetching_paused";
/// Attempts whose result was thrown away because the lease had passed to another worker.
pub const LEASES_LOST: &str = "riverlock_invoice_leases_lost_total";
/// Complete orders that should have a stored invoice by now and have none, by mode.
pub const MISSING_ORDERS: &str = "riverlock_invoice_missing_orders";
/// Leftovers of dead attempts that were removed from the archive's folder or staging area.
pub const LEFTOVERS: &str = "riverlock_invoice_orphaned_uploads_removed_total";
/// Requests to the API for documents, by outcome.
pub const API_REQUESTS: &str = "riverlock_invoice_api_requests_total";

/// [`API_REQUESTS`]: outcomes.
pub(crate) const API_OUTCOMES: [&str; 6] = ["ok", "unauthorized", "not_found", "lost", "busy", "failed"];

/// [`ATTEMPTS`]: the document is stored.
pub(crate) const STORED: &str = "stored";
/// [`ATTEMPTS`]: the document is tried again.
pub(crate) const RETRY: &str = "retry";
/// [`ATTEMPTS`]: the document is given up.
pub(crate) const DISCARDED: &str = "discarded";

/// The states of a document, as in the database.
pub(crate) const STATES: [&str; 3] = ["due", "stored", "discarded"];

/// [`ANOMALIES`]: an event has another address for a file than the configuration.
pub(crate) const ANOMALY_URL: &str = "announced_url";
/// [`ANOMALIES`]: a file is announced again with another order, mode or purpose.
pub(crate) const ANOMALY_ANNOUNCED: &str = "announced_otherwise";
/// [`ANOMALIES`]: Digital River's file has another purpose than the event said.
pub(crate) const ANOMALY_PURPOSE: &str = "purpose";
/// [`ANOMALIES`]: something else lay under the file's key than what came. A document that was there stays and counts;
/// otherwise what came got another key. Nothing is overwritten, and no document is given up for it.
pub(crate) const ANOMALY_CONFLICT: &str = "conflict";
/// [`ANOMALIES`]: a document that was fetched again has other bytes than what was stored before.
pub(crate) const ANOMALY_RERENDERED: &str = "rerendered";
/// [`ANOMALIES`]: a stored document is not in the archive as it was stored.
pub(crate) const ANOMALY_ARCHIVE: &str = "archive";

/// Describes the metrics and sets them to 0, so that a dashboard shows 0 and not "no data".
pub(crate) fn describe() {
    describe_gauge!(DOCUMENTS, "Announced documents by state");
    describe_gauge!(DUE_DOCUMENTS, "Documents that wait to be fetched, by how long ago they were queued");
    describe_gauge!(WAITING_ACCOUNT, "Documents that wait until an account for their mode is configured");
    describe_gauge!(COUNTED, Unit::Seconds, "When the queue was counted last, in Unix time; 0 before the first time");
    gauge!(COUNTED).set(0);
    describe_gauge!(OLDEST_DUE, Unit::Seconds, "How long the document that is most overdue waits");
    describe_counter!(ATTEMPTS, "Attempts to fetch a document, by outcome and reason");
    describe_histogram!(ATTEMPT_SECONDS, Unit::Seconds, "Time of one attempt, waiting for the rate limit included");
    describe_counter!(STORED_BYTES, Unit::Bytes, "Bytes of the documents that this process stored");
    describe_histogram!(LIMITER_WAIT, Unit::Seconds, "Time that a request waited for the rate limit");
    describe_counter!(ANOMALIES, "Oddities that people should look at");
    describe_gauge!(PAUSED, "1 while nothing is fetched for this reason; key_refused needs a new API key");
    describe_counter!(LEASES_LOST, "Attempts whose result was thrown away because the lease had passed on");
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
    describe_counter!(ADOPTED, "Documents that were in the archive already when they were to be fetched");
    counter!(ADOPTED).increment(0);
    for kind in [ANOMALY_URL, ANOMALY_ANNOUNCED, ANOMALY_PURPOSE, ANOMALY_CONFLICT, ANOMALY_RERENDERED, ANOMALY_ARCHIVE]
    {
        counter!(ANOMALIES, "kind" => kind).increment(0);
    }
    describe_gauge!(MISSING_ORDERS, "Complete orders that should have a stored invoice by now and have none");
    describe_counter!(LEFTOVERS, "Leftovers of dead attempts that were removed");
    counter!(LEFTOVERS).increment(0);
    describe_counter!(API_REQUESTS, "Requests to the API for documents, by outcome");
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

/// Shows why nothing is fetched for a mode, if so.
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
    fn every_series_is_there_before_anything_happens_and_a_refused_key_raises_the_alarm() {
        let page = riverlock_runtime::telemetry::metrics().unwrap();
        describe();
        // A mode that no other test of this process uses.
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
