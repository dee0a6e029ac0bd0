//! Names of this crate's metrics.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use riverlock_schemas::Mode;

/// When the background job last compared everything, seconds since the epoch, by mode. 0 before the first time.
pub const LAST_SUCCESS: &str = "riverlock_reconcile_last_success_seconds";
/// Runs of the background job, by mode and result.
pub const RUNS: &str = "riverlock_reconcile_runs_total";
/// Events that never came, by mode.
pub const MISSING: &str = "riverlock_reconcile_missing_events_total";
/// Missing events that were written to the raw topics, by mode.
pub const WRITTEN: &str = "riverlock_reconcile_written_events_total";
/// How much time the last successful run covered, seconds, by mode.
pub const COVERED: &str = "riverlock_reconcile_covered_seconds";

/// Describes the metrics and makes them start at 0.
pub fn describe(modes: impl Iterator<Item = Mode>) {
    describe_gauge!(LAST_SUCCESS, "When everything was last compared with Digital River's events, by mode");
    describe_counter!(RUNS, "Comparisons with Digital River's events, by mode and result");
    describe_counter!(MISSING, "Events that Digital River has and that never came, by mode");
    describe_counter!(WRITTEN, "Missing events that were written to the raw topics, by mode");
    describe_gauge!(COVERED, "How much time the last comparison covered, seconds, by mode");
    for mode in modes {
        let mode = mode.as_str();
        gauge!(LAST_SUCCESS, "mode" => mode).set(0.0);
        gauge!(COVERED, "mode" => mode).set(0.0);
        for result in ["ok", "error"] {
            counter!(RUNS, "mode" => mode, "result" => result).increment(0);
        }
        counter!(MISSING, "mode" => mode).increment(0);
        counter!(WRITTEN, "mode" => mode).increment(0);
    }
}
