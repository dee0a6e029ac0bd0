//! Names of this crate's metrics.

use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Reports by state.
pub const REPORTS: &str = "riverlock_shipment_reports";
/// Requests about reports, by operation and result.
pub const REQUESTS: &str = "riverlock_shipment_requests_total";

/// The states that reports are counted by.
pub const STATES: [&str; 5] = ["waiting", "sending", "unknown", "refused", "unresolved"];

/// Describes the metrics and makes them start at 0.
pub fn describe() {
    describe_gauge!(REPORTS, "Shipments that are not reported to Digital River, by state");
    describe_counter!(REQUESTS, "Requests about shipments to Digital River, by operation and result");
    for state in STATES {
        gauge!(REPORTS, "state" => state).set(0.0);
    }
    for operation in ["report", "read_back"] {
        for result in ["ok", "failed"] {
            counter!(REQUESTS, "operation" => operation, "result" => result).increment(0);
        }
    }
}
