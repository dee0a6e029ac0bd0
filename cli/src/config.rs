//! The whole configuration, section by section.

use std::path::Path;

use riverlock_ingest::IngestConfig;
use riverlock_invoice_fetcher::InvoiceFetcherConfig;
use riverlock_ledger::{PostgresConfig, audit::running::AuditConfig};
use riverlock_processor::ProcessorConfig;
use riverlock_runtime::{ConfigError, admin::AdminConfig, kafka::KafkaConfig, telemetry::TelemetryConfig};
use riverlock_sandbox::SandboxConfig;
use serde::Deserialize;

/// `riverlock.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[telemetry]`: logs.
    pub telemetry: TelemetryConfig,
    /// `[admin]`: where operators look.
    pub admin: AdminConfig,
    /// `[kafka]`: brokers and topics.
    pub kafka: KafkaConfig,
    /// `[postgres]`: the database.
    pub postgres: PostgresConfig,
    /// `[audit]`: the audit that runs beside the processor.
    pub audit: AuditConfig,
    /// `[ingest]`: endpoints and limits.
    pub ingest: IngestConfig,
    /// `[processor]`: modes and batches.
    pub processor: ProcessorConfig,
    /// `[invoice_fetcher]`: Digital River's API and the archive.
    pub invoice_fetcher: InvoiceFetcherConfig,
    /// `[sandbox]`: the pretend Digital River.
    pub sandbox: SandboxConfig,
}

impl Config {
    /// Reads the file and the environment, and checks what every command needs.
    ///
    /// # Errors
    /// When the file cannot be read, or a value is missing, unknown or wrong.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let config: Self = riverlock_runtime::config::load(file)?;
        config.kafka.validate()?;
        config.postgres.validate()?;
        config.audit.validate()?;
        Ok(config)
    }

    /// The consumers, with the topics that each reads.
    #[must_use]
    pub fn consumers(&self) -> [(&'static str, Vec<String>); 2] {
        let topics = self.kafka.topics();
        [(riverlock_processor::CONSUMER, topics.orders()), (riverlock_invoice_fetcher::NAME, topics.files())]
    }
}
