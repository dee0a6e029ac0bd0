//! The whole configuration, section by section.

use std::{collections::BTreeMap, path::Path};

use riverlock_digital_river::{AccountConfig, DigitalRiverConfig, webhooks::WebhookConfig};
use riverlock_ingest::IngestConfig;
use riverlock_invoice_fetcher::InvoiceFetcherConfig;
use riverlock_ledger::PostgresConfig;
use riverlock_processor::ProcessorConfig;
use riverlock_reconcile::ReconcileConfig;
use riverlock_recovery::audit::running::AuditConfig;
use riverlock_runtime::{
    ConfigError,
    admin::AdminConfig,
    config::{ENV_PREFIX, Source},
    kafka::{KafkaConfig, topics},
    telemetry::TelemetryConfig,
    with_causes,
};
use riverlock_sandbox::SandboxConfig;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

/// The names of all sections.
pub const SECTIONS: [&str; 12] = [
    "telemetry",
    "admin",
    "kafka",
    "postgres",
    "audit",
    "ingest",
    "processor",
    "invoice_fetcher",
    "digital_river",
    "webhooks",
    "reconcile",
    "sandbox",
];

/// `riverlock.toml`.
#[derive(Debug, Default, JsonSchema)]
pub struct Config {
    /// `[telemetry]`: logs.
    pub telemetry: TelemetryConfig,
    /// `[admin]`: metrics and health checks.
    pub admin: AdminConfig,
    /// `[kafka]`: brokers and topics.
    pub kafka: KafkaConfig,
    /// `[postgres]`: the database.
    pub postgres: PostgresConfig,
    /// `[audit]`: the background audit of the processor.
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
    /// `[reconcile]`: how events that were never delivered are found.
    pub reconcile: ReconcileConfig,
    /// `[sandbox]`: the imitation of Digital River.
    pub sandbox: SandboxConfig,
}

impl Config {
    /// Reads the file and the environment, and validates the sections that every command uses. No secret is read: each user
    /// of a section reads its secrets.
    ///
    /// # Errors
    /// When the file cannot be read, or a value is missing, unknown or invalid.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let source = Source::read(file)?;
        if let Some(unknown) = source.sections()?.iter().find(|name| !SECTIONS.contains(&name.as_str())) {
            let reason = format!("is not a section; expected one of {}", SECTIONS.join(", "));
            return Err(ConfigError::refused(unknown.as_str(), reason));
        }
        let config = Self {
            telemetry: source.section("telemetry")?,
            admin: source.section("admin")?,
            kafka: source.section("kafka")?,
            postgres: source.section("postgres")?,
            audit: source.section("audit")?,
            ingest: source.section("ingest")?,
            processor: source.section("processor")?,
            invoice_fetcher: source.section("invoice_fetcher")?,
            digital_river: source.section("digital_river")?,
            webhooks: source.section("webhooks")?,
            reconcile: source.section("reconcile")?,
            sandbox: source.section("sandbox")?,
        };
        config.kafka.validate()?;
        config.postgres.validate()?;
        config.audit.validate()?;
        Ok(config)
    }

    /// Like [`Config::load`], for commands that connect to Kafka: reads its secrets too.
    ///
    /// # Errors
    /// Like [`Config::load`], and when a file named by a property of Kafka cannot be read.
    pub fn load_with_kafka(file: Option<&Path>) -> Result<Self, ConfigError> {
        let config = Self::load(file)?;
        config.kafka.read_secrets()?;
        Ok(config)
    }

    /// Like [`Config::load_with_kafka`], for commands that read the raw topics: those of earlier versions are looked up too.
    ///
    /// # Errors
    /// Like [`Config::load_with_kafka`], and when Kafka cannot be reached.
    pub async fn load_with_topics(file: Option<&Path>) -> anyhow::Result<Self> {
        let mut config = Self::load_with_kafka(file)?;
        config.find_topics().await?;
        Ok(config)
    }

    /// Looks up the raw topics of earlier versions, after everything that needs no connection has been checked.
    ///
    /// # Errors
    /// When Kafka cannot be reached.
    pub async fn find_topics(&mut self) -> anyhow::Result<()> {
        Ok(topics::find_former(&mut self.kafka).await?)
    }

    /// The settings of Digital River's API: `[digital_river]`, or the address and the keys of `[invoice_fetcher]` if it has no key.
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

    /// Validates `[[webhooks]]`, and reads its secrets.
    ///
    /// # Errors
    /// When an entry is invalid, or names an endpoint that is not configured.
    pub fn validate_webhooks(&self) -> Result<(), ConfigError> {
        validate_webhooks(&self.webhooks, Some(&self.ingest))
    }

    /// The consumers and their topics.
    #[must_use]
    pub fn consumers(&self) -> [(&'static str, Vec<String>); 2] {
        let topics = self.kafka.topics();
        [(riverlock_processor::CONSUMER, topics.orders()), (riverlock_invoice_fetcher::NAME, topics.documents())]
    }

    /// The servers that a command connects to, without credentials.
    #[must_use]
    pub fn servers(&self) -> String {
        let postgres = self.postgres.options().map_or_else(
            |_| "an invalid address".to_owned(),
            |options| {
                format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or("-"))
            },
        );
        format!("Kafka at {}, PostgreSQL at {postgres}", self.kafka.brokers)
    }
}

/// Validates `[[webhooks]]`, and with a readable `[ingest]` also that the named endpoints exist.
fn validate_webhooks(webhooks: &[WebhookConfig], ingest: Option<&IngestConfig>) -> Result<(), ConfigError> {
    riverlock_digital_river::webhooks::config::validate(webhooks)?;
    let Some(ingest) = ingest else { return Ok(()) };
    for (number, webhook) in webhooks.iter().enumerate() {
        if ingest.endpoints.iter().all(|endpoint| endpoint.name != webhook.endpoint) {
            let reason = format!("`{}` is not the name of one of [[ingest.endpoints]]", webhook.endpoint);
            return Err(ConfigError::refused(format!("webhooks[{number}].endpoint"), reason));
        }
    }
    Ok(())
}

/// One section, even if others are invalid; for services that reload theirs.
///
/// # Errors
/// When the file cannot be read, or a value of the section is missing, unknown or invalid.
pub fn section<T: DeserializeOwned + Default>(file: Option<&Path>, name: &str) -> Result<T, ConfigError> {
    Source::read(file)?.section(name)
}

/// Whether there is no configuration, so that every setting has its default.
#[must_use]
pub fn is_absent(file: Option<&Path>) -> bool {
    file.is_none() && !std::env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with(ENV_PREFIX))
}

/// The problem of each section, including its secrets; `None` for a valid section.
///
/// # Errors
/// When the file itself cannot be read.
pub fn check(file: Option<&Path>) -> Result<BTreeMap<String, Option<String>>, ConfigError> {
    let source = Source::read(file)?;
    let mut found = BTreeMap::new();
    let mut add = |name: &str, result: Result<(), ConfigError>| {
        found.insert(name.to_owned(), result.err().map(|error| error.to_string()));
    };
    let sections = source.sections()?;
    let is_present = |name: &str| sections.iter().any(|section| section == name);
    add("telemetry", source.section::<TelemetryConfig>("telemetry").and_then(|config| config.validate()));
    add("admin", source.section::<AdminConfig>("admin").map(drop));
    add(
        "kafka",
        source
            .section::<KafkaConfig>("kafka")
            .and_then(|config| config.validate().and_then(|()| config.read_secrets())),
    );
    add(
        "postgres",
        source
            .section::<PostgresConfig>("postgres")
            .and_then(|config| config.validate().and_then(|()| config.options().map(drop))),
    );
    add("audit", source.section::<AuditConfig>("audit").and_then(|config| config.validate()));
    // These are invalid when they are empty, but other services do not need them.
    if is_present("ingest") {
        add("ingest", source.section::<IngestConfig>("ingest").and_then(|config| config.validate()));
    }
    if is_present("invoice_fetcher") {
        let fetcher = source.section::<InvoiceFetcherConfig>("invoice_fetcher");
        add("invoice_fetcher", fetcher.and_then(|config| config.validate()));
    }
    let digital_river = source.section::<DigitalRiverConfig>("digital_river");
    add("digital_river", digital_river.and_then(|config| config.validate()));
    let webhooks = source.section::<Vec<WebhookConfig>>("webhooks");
    add("webhooks", webhooks.and_then(|webhooks| validate_webhooks(&webhooks, source.section("ingest").ok().as_ref())));
    add("reconcile", source.section::<ReconcileConfig>("reconcile").and_then(|config| config.validate()));
    add("processor", source.section::<ProcessorConfig>("processor").and_then(|config| config.validate()));
    let sandbox = source.section::<SandboxConfig>("sandbox");
    let refused = |error: anyhow::Error| ConfigError::refused("sandbox", with_causes(error.as_ref()));
    add("sandbox", sandbox.and_then(|mut config| config.read_secrets().map_err(refused)));
    for unknown in sections.iter().filter(|name| !SECTIONS.contains(&name.as_str())) {
        add(unknown, Err(ConfigError::refused(unknown.as_str(), "is not a section")));
    }
    Ok(found)
}
