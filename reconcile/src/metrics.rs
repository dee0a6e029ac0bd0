//! Metrics of this crate.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use riverlock_schemas::Mode;

/// Time of the background job's last complete comparison, in seconds since 1970, by mode; 0 before the first.
pub const LAST_SUCCESS: &str = "riverlock_reconcile_last_success_timestamp_seconds";
/// Runs of the background job, by mode and result.
pub const RUNS: &str = "riverlock_reconcile_runs_total";
/// Events that were never delivered, by mode.
pub const MISSING: &str = "riverlock_reconcile_missing_events_total";
/// Missing events that were written to the raw topics, by mode.
pub const WRITTEN: &str = "riverlock_reconcile_written_events_total";
/// Time range of the last successful run, in seconds, by mode.
pub const COVERED: &str = "riverlock_reconcile_covered_seconds";

/// Describes the metrics and sets them to 0.
pub fn describe(modes: impl Iterator<Item = Mode>) {
    describe_gauge!(LAST_SUCCESS, "Time of the last complete comparison with Digital River's events, by mode");
    describe_counter!(RUNS, "Comparisons with Digital River's events, by mode and result");
    describe_counter!(MISSING, "Events that Digital River has and that were never delivered, by mode");
    describe_counter!(WRITTEN, "Missing events that were written to the raw topics, by mode");
    describe_gauge!(COVERED, "Time range of the last comparison in seconds, by mode");
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
