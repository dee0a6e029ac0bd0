//! `[ingest.quarantine]`: limits of what is kept of unauthenticated events.

use riverlock_runtime::ConfigError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Events that fail authentication are answered `401` and kept within these limits, so that they can be released after a
/// mistake in the configuration was corrected. `[kafka]` limits their age and size in Kafka.
///
/// The limits apply separately to known addresses (Digital River's, and those from which authenticated requests were
/// received recently) and to all others. Behind a proxy that is not in `trusted_proxies`, all senders share its address and
/// one limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QuarantineConfig {
    /// Whether such events are kept.
    pub enabled: bool,
    /// Most events that are kept per second, and most at once.
    pub events_per_second: u32,
    /// Most bytes of bodies that are kept per second, and most at once.
    pub bytes_per_second: u32,
    /// Longest body that is kept.
    pub event_bytes_max: u32,
}

impl Default for QuarantineConfig {
    fn default() -> Self {
        Self { enabled: true, events_per_second: 20, bytes_per_second: 512 * 1024, event_bytes_max: 256 * 1024 }
    }
}

impl QuarantineConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let (bytes, event) = (self.bytes_per_second, self.event_bytes_max);
        for (name, value, range) in [
            ("events_per_second", self.events_per_second, 1..=1_000),
            ("event_bytes_max", event, 1..=1024 * 1024),
            ("bytes_per_second", bytes, event..=64 * 1024 * 1024),
        ] {
            if !range.contains(&value) {
                let reason = format!("is {value}, must be from {} to {}", range.start(), range.end());
                return Err(ConfigError::refused(format!("ingest.quarantine.{name}"), reason));
            }
        }
        Ok(())
    }
}
