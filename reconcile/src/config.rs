//! `[reconcile]` of the configuration.

use std::time::Duration;

use riverlock_runtime::{ConfigError, config::DurationText};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest duration that may be configured: as far back as Digital River lists events.
const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// How events that never arrived are found.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReconcileConfig {
    /// Event types that are compared; `order.*` stands for a group. Empty: those of the configured webhooks.
    pub types: Vec<String>,
    /// Time that one list covers.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub window: Duration,
    /// Time by which two lists overlap.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub overlap: Duration,
    /// How old an event must be to be compared: younger ones may still be on their way.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub settle: Duration,
    /// How long to wait until the consumers have read what Kafka has.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub catch_up: Duration,
    /// How often the background job in the processor compares. Without one, the job is off.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "Option<DurationText>")]
    pub interval: Option<Duration>,
    /// How far back the background job compares each time.
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
    /// Checks what goes together.
    ///
    /// # Errors
    /// When a duration or a type is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refused = |key: &str, reason: &str| Err(ConfigError::refused(format!("reconcile.{key}"), reason));
        if self.window < Duration::from_secs(60) || self.window > DURATION_MAX {
            return refused("window", "must be from 1m to 30d");
        }
        if self.overlap >= self.window {
            return refused("overlap", "must be shorter than window");
        }
        for (key, duration) in [
            ("settle", self.settle),
            ("catch_up", self.catch_up),
            ("lookback", self.lookback),
            ("overlap", self.overlap),
        ] {
            if duration > DURATION_MAX {
                return refused(key, "must be at most 30d");
            }
        }
        if self.interval.is_some_and(|interval| interval < Duration::from_secs(60)) {
            return refused("interval", "must be at least 1m");
        }
        let is_type =
            |name: &String| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._*".contains(c));
        if !self.types.iter().all(is_type) {
            return refused("types", "must be event types such as order.accepted or order.*");
        }
        Ok(())
    }
}
