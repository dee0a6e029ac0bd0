//! Metrics of this crate.

use metrics::{counter, describe_counter, describe_histogram};
use riverlock_schemas::Mode;

/// Requests, by mode, operation and result.
pub const REQUESTS: &str = "riverlock_digital_river_requests_total";

/// Seconds from sending a request to the end of its answer, by operation.
pub const DURATION: &str = "riverlock_digital_river_request_duration_seconds";

/// Values of the label `result`.
pub const RESULTS: [&str; 6] = ["ok", "refused", "unauthorized", "throttled", "server_error", "no_answer"];

/// Values of the label `operation`.
pub const OPERATIONS: [&str; 10] = [
    "webhooks_list",
    "webhooks_get",
    "webhooks_create",
    "webhooks_update",
    "webhooks_delete",
    "events_list",
    "fulfillments_create",
    "fulfillments_list",
    "orders_list",
    "files_list",
];

/// Describes the metrics and initializes the counters to 0.
pub fn describe() {
    describe_counter!(REQUESTS, "Requests to Digital River's API, by mode, operation and result");
    describe_histogram!(
        DURATION,
        metrics::Unit::Seconds,
        "Time from sending a request to the end of its answer, by operation"
    );
    for mode in [Mode::Live, Mode::Test] {
        for operation in OPERATIONS {
            for result in RESULTS {
                counter!(REQUESTS, "mode" => mode.to_string(), "operation" => operation, "result" => result)
                    .increment(0);
            }
        }
    }
}
