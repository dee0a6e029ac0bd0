//! Settings of batches.

use std::time::Duration;

use riverlock_runtime::config::DurationText;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How records are grouped into transactions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// Most records in one transaction.
    pub records_max: usize,
    /// Most bytes of records in one transaction, approximately.
    pub bytes_max: usize,
    /// How long a record waits for others to form a batch.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub linger: Duration,
    /// Concurrent transactions, each on its own connection. More workers than partitions have no effect.
    pub workers: usize,
    /// Time without a poll after which `/livez` fails.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub stuck_after: Duration,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            // Reached by a consumer that is behind; otherwise a batch has what arrives within `linger`. The more of an
            // order's events are in one batch, the fewer rows are written.
            records_max: 4_000,
            bytes_max: 12 * 1024 * 1024,
            linger: Duration::from_millis(20),
            // The default number of partitions of a topic: with one less, one worker would have two partitions, and the
            // others would wait for it.
            workers: 3,
            stuck_after: Duration::from_secs(60),
        }
    }
}

impl BatchConfig {
    /// Checks the limits. `section` is the name of the configuration section.
    ///
    /// # Errors
    /// When a limit is zero or out of range.
    pub fn validate(&self, section: &str) -> Result<(), riverlock_runtime::ConfigError> {
        let invalid =
            |key: &str, reason: &str| Err(riverlock_runtime::ConfigError::refused(format!("{section}.{key}"), reason));
        match self {
            Self { records_max: 0 | 10_001.., .. } => invalid("records_max", "must be from 1 to 10000"),
            Self { bytes_max: 0, .. } => invalid("bytes_max", "must be at least 1"),
            Self { workers: 0 | 65.., .. } => invalid("workers", "must be from 1 to 64"),
            Self { stuck_after: Duration::ZERO, .. } => invalid("stuck_after", "must be more than 0"),
            _ => Ok(()),
        }
    }
}
