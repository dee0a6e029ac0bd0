//! Names of this crate's metrics.

use metrics::{counter, describe_counter, describe_histogram};
use riverlock_schemas::Mode;

/// Requests, by mode, operation and result.
pub const REQUESTS: &str = "riverlock_digital_river_requests_total";

/// Seconds from sending a request to the end of its answer, by operation.
pub const DURATION: &str = "riverlock_digital_river_request_seconds";

/// The results that requests are counted by.
pub const RESULTS: [&str; 6] = ["ok", "refused", "unauthorized", "throttled", "server_error", "no_answer"];

/// The operations that requests are counted by.
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

/// Describes the metrics and makes the counters start at 0.
pub fn describe() {
    describe_counter!(REQUESTS, "Requests to Digital River's API, by mode, operation and result");
    describe_histogram!(
        DURATION,
        metrics::Unit::Seconds,
        "From sending a request to the end of its answer, by operation"
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
