//! The whole configuration, section by section.

use std::path::Path;

use riverlock_digital_river::{AccountConfig, DigitalRiverConfig, webhooks::WebhookConfig};
use riverlock_ingest::IngestConfig;
use riverlock_invoice_fetcher::InvoiceFetcherConfig;
use riverlock_ledger::{PostgresConfig, audit::running::AuditConfig};
use riverlock_processor::ProcessorConfig;
use riverlock_reconcile::ReconcileConfig;
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
    /// `[digital_river]`: Digital River's API for webhooks, events and shipments.
    pub digital_river: DigitalRiverConfig,
    /// `[[webhooks]]`: what should be registered at Digital River.
    pub webhooks: Vec<WebhookConfig>,
    /// `[reconcile]`: how events that never came are found.
    pub reconcile: ReconcileConfig,
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

    /// How Digital River's API is used: `[digital_river]`, or the address and the keys of `[invoice_fetcher]` where it has none.
    #[must_use]
    pub fn digital_river(&self) -> DigitalRiverConfig {
        let mut config = self.digital_river.clone();
        if config.accounts().next().is_some() {
            return config;
        }
        let fetcher = &self.invoice_fetcher;
        let account = |account: &riverlock_invoice_fetcher::AccountConfig| AccountConfig {
            requests_per_second: account.requests_per_second,
            ..AccountConfig::new(account.api_key.clone())
        };
        config.live = fetcher.live.as_ref().map(account);
        config.test = fetcher.test.as_ref().map(account);
        config.api_base_url = fetcher.api_base_url.clone();
        config.private_networks.clone_from(&fetcher.private_networks);
        config.proxy.clone_from(&fetcher.proxy);
        config
    }

    /// Checks `[[webhooks]]`.
    ///
    /// # Errors
    /// When an entry is wrong, or names an endpoint that is not configured.
    pub fn validate_webhooks(&self) -> Result<(), ConfigError> {
        riverlock_digital_river::webhooks::config::validate(&self.webhooks)?;
        for (number, webhook) in self.webhooks.iter().enumerate() {
            if self.ingest.endpoints.iter().all(|endpoint| endpoint.name != webhook.endpoint) {
                let reason = format!("`{}` is not the name of one of [[ingest.endpoints]]", webhook.endpoint);
                return Err(ConfigError::refused(format!("webhooks[{number}].endpoint"), reason));
            }
        }
        Ok(())
    }

    /// The consumers, with the topics that each reads.
    #[must_use]
    pub fn consumers(&self) -> [(&'static str, Vec<String>); 2] {
        let topics = self.kafka.topics();
        [(riverlock_processor::CONSUMER, topics.orders()), (riverlock_invoice_fetcher::NAME, topics.files())]
    }
}
