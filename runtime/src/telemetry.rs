//! Logs and metrics.

use std::{
    io::{self, IsTerminal as _},
    sync::{LazyLock, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Log lines that were dropped because standard error was too slow.
pub const LOG_LINES_DROPPED: &str = "riverlock_log_lines_dropped_total";
/// Always 1; the label is the version.
pub const BUILD_INFO: &str = "riverlock_build_info";
/// Latency from an event's origin to its effects. `riverlock-ledger` records it; the buckets are set here.
pub const EVENT_LATENCY: &str = "riverlock_event_latency_seconds";

/// Most log lines that wait for standard error: a few megabytes. Further ones are dropped and counted, because a blocked
/// pipe must not block the threads that answer Digital River.
const LOG_LINES_WAITING_MAX: usize = 16_384;

/// Interval at which the recorder aggregates its samples and the process is measured. Without it, a histogram grows until the
/// next scrape.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Bucket bounds of every histogram of seconds. Digital River waits 3 s, so the range from 10 ms to 3 s is the finest.
const SECONDS_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.0, 2.5, 3.0, 10.0];

/// Bucket bounds of [`EVENT_LATENCY`]: from 1 ms to a week, because an event can wait in Kafka for days.
const LATENCY_BUCKETS: [f64; 19] = [
    0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0,
    259_200.0, 604_800.0,
];

/// Bucket bounds of every histogram of counts, such as records in a batch.
const COUNT_BUCKETS: [f64; 9] = [1.0, 5.0, 20.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 5_000.0];

/// Logs.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Which log lines are written: a level for all targets, and levels for single ones, as in `info,librdkafka=warn`.
    pub log_filter: String,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log_format: LogFormat::Text, log_filter: "info,librdkafka=warn".to_owned() }
    }
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

impl TelemetryConfig {
    /// Checks the filter.
    ///
    /// # Errors
    /// When the filter is invalid.
    pub fn validate(&self) -> Result<(), crate::ConfigError> {
        self.filter().map(drop)
    }

    fn filter(&self) -> Result<Targets, crate::ConfigError> {
        let refused =
            |error: &dyn std::fmt::Display| crate::ConfigError::refused("telemetry.log_filter", error.to_string());
        self.log_filter.parse().map_err(|error| refused(&error))
    }
}

/// Counts dropped lines; set once logs are written by a separate thread.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();
/// Dropping it writes the remaining lines.
static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Sends a service's logs to standard error from a separate thread. A second call in the same process does nothing.
///
/// # Errors
/// When the filter is invalid.
pub fn init_logs(config: &TelemetryConfig) -> Result<(), crate::ConfigError> {
    let registry = tracing_subscriber::registry().with(config.filter()?);
    let colours = io::stderr().is_terminal();
    let (writer, guard) = non_blocking(io::stderr());
    // Write errors are not logged, because that would go to standard error too, and panic.
    let layer = fmt::layer().with_writer(writer.clone()).log_internal_errors(false);
    let result = match config.log_format {
        LogFormat::Text => registry.with(layer.with_ansi(colours)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    // An error means that a subscriber is already installed, which is sufficient.
    if result.is_ok() {
        let _ = DROPPED.set(writer.error_counter());
        *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    }
    Ok(())
}

/// Sends a command's logs to standard error: warnings and errors, with `verbosity` 1 also information, from 2 on also
/// debugging output.
pub fn init_command_logs(verbosity: u8) {
    let filter = match verbosity {
        0 => "warn",
        1 => "info,librdkafka=warn",
        _ => "debug,hyper=info,rustls=info",
    };
    let filter: Targets = filter.parse().unwrap_or_default();
    let layer = fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).log_internal_errors(false);
    // An error means that a subscriber is already installed.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
}

/// Writes the remaining log lines, for at most a second. Call it last, before the process ends.
pub fn flush_logs() {
    drop(WRITER.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// A writer that never blocks on `output`, and the guard of the thread that writes to it.
fn non_blocking(output: impl io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_LINES_WAITING_MAX)
        .lossy(true)
        .thread_name("logs")
        .finish(output)
}

/// CPU time, memory, threads and open files of the process.
static PROCESS: LazyLock<Collector> = LazyLock::new(Collector::default);

/// Installs the process's metrics recorder, once, and returns the handle that renders its page.
///
/// # Errors
/// When another recorder is already installed.
pub fn metrics() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(EVENT_LATENCY.to_owned()), &LATENCY_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_records".to_owned()), &COUNT_BUCKETS)?
        .install_recorder()?;
    describe_counter!(LOG_LINES_DROPPED, "Log lines that were dropped because standard error was too slow");
    counter!(LOG_LINES_DROPPED).absolute(0);
    describe_gauge!(BUILD_INFO, "Always 1; the label is the version of the running program");
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1);
    crate::health::describe();
    PROCESS.describe();
    PROCESS.collect();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Bounds the recorder's memory for as long as the process runs, measures the process, and logs dropped log lines.
pub async fn upkeep(handle: PrometheusHandle) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    let mut reported = 0;
    loop {
        interval.tick().await;
        handle.run_upkeep();
        PROCESS.collect();
        let dropped = DROPPED.get().map_or(0, ErrorCounter::dropped_lines) as u64;
        counter!(LOG_LINES_DROPPED).absolute(dropped);
        if dropped > reported {
            tracing::warn!("{} log lines were dropped because standard error was too slow", dropped - reported);
            reported = dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        sync::{Arc, mpsc},
        time::Instant,
    };

    use super::*;

    /// A pipe that blocks until it is opened.
    struct Blocked {
        opened: mpsc::Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
        is_open: bool,
    }

    impl io::Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.is_open {
                let _ = self.opened.recv();
                self.is_open = true;
            }
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_blocked_pipe_does_not_block_writers_and_dropped_lines_are_counted() {
        let (open, opened) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut writer, guard) = non_blocking(Blocked { opened, written: Arc::clone(&written), is_open: false });
        let begun = Instant::now();
        for _ in 0..LOG_LINES_WAITING_MAX + 1_000 {
            writer.write_all(b"line\n").unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "writing blocked on the pipe");
        // The thread may have taken one line off the queue before it was blocked.
        let dropped = writer.error_counter().dropped_lines();
        assert!((990..=1_000).contains(&dropped), "{dropped} lines were dropped");

        open.send(()).unwrap();
        drop(guard);
        let lines = written.lock().unwrap().len() / b"line\n".len();
        assert_eq!(lines, LOG_LINES_WAITING_MAX + 1_000 - dropped, "all other lines are written before the end");
    }

    #[test]
    fn the_page_has_the_memory_and_the_open_files_of_the_process() {
        let page = metrics().unwrap().render();
        for name in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"] {
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            assert!(value.is_some_and(|value| value > 0.0), "{name} in {page}");
        }
        assert!(page.contains("\nprocess_cpu_seconds_total "), "{page}");
    }

    #[test]
    fn an_invalid_filter_is_rejected() {
        let config = TelemetryConfig { log_filter: "riverlock=loud".to_owned(), ..TelemetryConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("telemetry.log_filter"));
        TelemetryConfig::default().validate().unwrap();
    }
}
