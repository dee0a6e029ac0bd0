//! How a consumer reads.

use std::time::Duration;

use riverlock_runtime::config::DurationText;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How records are grouped into transactions.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// Most records in one transaction.
    pub records_max: usize,
    /// Most bytes of records in one transaction, approximately.
    pub bytes_max: usize,
    /// How long a record waits for others.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub linger: Duration,
    /// Transactions at the same time, each on its own connection. More of them than there are partitions have
    /// no effect.
    pub workers: usize,
    /// How long polling may stand still before `/livez` fails.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub stuck_after: Duration,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            // Reached by a consumer that is behind; one that keeps up has what comes in `linger`. The more of an order's events
            // meet in a batch, the fewer rows it writes.
            records_max: 4_000,
            bytes_max: 12 * 1024 * 1024,
            linger: Duration::from_millis(20),
            // As many as a topic has partitions by default: with one less, one of them has two, and the others wait for it.
            workers: 3,
            stuck_after: Duration::from_secs(60),
        }
    }
}

impl BatchConfig {
    /// Checks the limits; `section` is where they stand in the configuration.
    ///
    /// # Errors
    /// When a limit is zero or out of range.
    pub fn validate(&self, section: &str) -> Result<(), riverlock_runtime::ConfigError> {
        let refused =
            |key: &str, reason: &str| Err(riverlock_runtime::ConfigError::refused(format!("{section}.{key}"), reason));
        match self {
            Self { records_max: 0 | 10_001.., .. } => refused("records_max", "must be from 1 to 10000"),
            Self { bytes_max: 0, .. } => refused("bytes_max", "must be at least 1"),
            Self { workers: 0 | 65.., .. } => refused("workers", "must be from 1 to 64"),
            Self { stuck_after: Duration::ZERO, .. } => refused("stuck_after", "must be more than 0"),
            _ => Ok(()),
        }
    }
}
