//! Settings of `[reconcile]`.

use std::time::Duration;

use riverlock_runtime::{ConfigError, config::DurationText};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest duration that can be configured: Digital River lists events for 30 days.
const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// How events that were never delivered are found.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReconcileConfig {
    /// Event types to compare; `order.*` stands for a group. If empty, those of the configured webhooks.
    pub types: Vec<String>,
    /// Length of the time window of one list.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub window: Duration,
    /// Overlap of two windows.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub overlap: Duration,
    /// Minimum age of an event to be compared; younger events may still be delivered.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub settle: Duration,
    /// How long to wait for the consumers to read all records in Kafka.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub catch_up: Duration,
    /// Interval at which the background job in the processor compares. If it is not set, the job is off.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<DurationText>")]
    pub interval: Option<Duration>,
    /// Length of the time range that the background job compares each time.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub lookback: Duration,
    /// Whether the background job writes missing events to the raw topics, or only counts them.
    pub apply: bool,
}

impl Default for ReconcileConfig {
    fn default() -> Self {
        Self {
            types: Vec::new(),
            window: Duration::from_secs(3_600),
            overlap: Duration::from_secs(300),
            settle: Duration::from_secs(600),
            catch_up: Duration::from_secs(120),
            interval: None,
            lookback: Duration::from_secs(24 * 3_600),
            apply: true,
        }
    }
}

impl ReconcileConfig {
    /// Checks the durations and types.
    ///
    /// # Errors
    /// When a duration or a type is invalid.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |key: &str, reason: &str| Err(ConfigError::refused(format!("reconcile.{key}"), reason));
        if self.window < Duration::from_secs(60) || self.window > DURATION_MAX {
            return invalid("window", "must be from 1m to 30d");
        }
        if self.overlap >= self.window {
            return invalid("overlap", "must be shorter than window");
        }
        for (key, duration) in [
            ("settle", self.settle),
            ("catch_up", self.catch_up),
            ("lookback", self.lookback),
            ("overlap", self.overlap),
        ] {
            if duration > DURATION_MAX {
                return invalid(key, "must be at most 30d");
            }
        }
        if self.interval.is_some_and(|interval| interval < Duration::from_secs(60)) {
            return invalid("interval", "must be at least 1m");
        }
        let is_type =
            |name: &String| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._*".contains(c));
        if !self.types.iter().all(is_type) {
            return invalid("types", "must be event types such as order.accepted or order.*");
        }
        Ok(())
    }
}
