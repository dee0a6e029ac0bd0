//! Metrics of this crate.

use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Reports by state.
pub const REPORTS: &str = "riverlock_shipment_reports";
/// Requests about reports, by operation and result.
pub const REQUESTS: &str = "riverlock_shipment_requests_total";

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
