//! Metrics of this crate.

use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Reports by state.
pub const REPORTS: &str = "riverlock_shipment_reports";
/// Requests about reports, by operation and result.
pub const REQUESTS: &str = "riverlock_shipment_requests_total";

/// Records of the topic of shipments, by outcome.
pub const RECORDS: &str = "riverlock_shipment_records_total";
/// Records of the topic of shipments that were not read yet; reported by the process that reads them.
pub const RECORDS_WAITING: &str = "riverlock_shipment_records_waiting";

/// The outcomes of a record.
pub const OUTCOMES: [&str; 4] = ["stored", "repeated", "refused", "dead"];

/// The states in which reports are counted.
pub const STATES: [&str; 5] = ["waiting", "sending", "unknown", "refused", "unresolved"];

/// Describes the metrics and sets them to 0.
pub fn describe() {
    describe_gauge!(REPORTS, "Shipments that are not reported to Digital River yet, by state");
    describe_counter!(REQUESTS, "Requests to Digital River about shipments, by operation and result");
    for state in STATES {
        gauge!(REPORTS, "state" => state).set(0.0);
    }
    for operation in ["report", "read_back"] {
        for result in ["ok", "failed"] {
            counter!(REQUESTS, "operation" => operation, "result" => result).increment(0);
        }
    }
}

/// Describes the metrics of reading from Kafka and sets them to 0.
pub fn describe_intake() {
    describe_counter!(RECORDS, "Shipments read from Kafka, by outcome");
    describe_gauge!(RECORDS_WAITING, "Shipments in Kafka that were not read yet");
    for outcome in OUTCOMES {
        counter!(RECORDS, "outcome" => outcome).increment(0);
    }
    gauge!(RECORDS_WAITING).set(0.0);
}
