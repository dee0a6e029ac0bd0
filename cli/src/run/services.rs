//! The services, which run until the process is stopped.

use std::{path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use futures::TryFutureExt as _;
use riverlock_ingest::IngestConfig;
use riverlock_ledger::postgres::{self, bounded, cluster};
use riverlock_recovery::{audit::running::Auditor, dead_letters, size};
use riverlock_runtime::{
    ConfigError, Context, Secret, admin,
    config::{FILE_PREFIX, Source},
    kafka::topics,
    shutdown::GRACE,
    telemetry,
};
use sqlx::PgConnection;

use crate::{
    config::{self, Config},
    repair::reconcile,
};

/// A service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Receives webhooks.
    Ingest,
    /// Computes orders.
    Processor,
    /// Fetches documents.
    InvoiceFetcher,
}

impl Service {
    /// All services, in the order in which an event passes them.
    pub const ALL: [Self; 3] = [Self::Ingest, Self::Processor, Self::InvoiceFetcher];

    /// The service's command.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Processor => "processor",
            Self::InvoiceFetcher => "invoice-fetcher",
        }
    }
}

pub(crate) async fn run(file: Option<&Path>, services: &[Service]) -> anyhow::Result<ExitCode> {
    let mut config = Config::load_with_kafka(file)?;
    let has = |service| services.contains(&service);
    // Everything is checked before anything starts.
    if has(Service::Ingest) {
        config.ingest.validate()?;
    }
    if has(Service::Processor) {
        config.processor.validate()?;
        config.reconcile.validate()?;
        if config.digital_river.accounts().next().is_some() {
            config.digital_river.validate()?;
        }
    }
    if has(Service::InvoiceFetcher) {
        config.invoice_fetcher.validate()?;
    }
    telemetry::init_logs(&config.telemetry)?;
    let names: Vec<_> = services.iter().map(|service| service.name()).collect();
    tracing::info!("riverlock {} starts: {}", env!("CARGO_PKG_VERSION"), names.join(", "));
    tracing::info!("configuration: {}", redacted(&config, services));

    let metrics = telemetry::metrics()?;
    let context = Context::new();
    context.shutdown.on_signals()?;
    // Without a registered task, the process would count as ready.
    let starting = context.health.register("start");
    let address = admin::start(&config.admin, metrics, &context).await?;
    tracing::info!("metrics and health checks are at http://{address}/metrics, /livez and /readyz");

    if let Err(error) = start(file, &mut config, services, &context).await {
        // Tasks that have started are stopped in the usual way.
        context.shutdown.fail();
        context.shutdown.wait(GRACE).await;
        return Err(error);
    }
    starting.ready();
    let clean = context.shutdown.wait(GRACE).await;
    tracing::info!("riverlock ended");
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The sections that the services use, as JSON without secrets.
fn redacted(config: &Config, services: &[Service]) -> serde_json::Value {
    let mut shown = serde_json::json!({ "admin": config.admin, "kafka": config.kafka });
    for service in services {
        match service {
            Service::Ingest => shown["ingest"] = serde_json::json!(config.ingest),
            Service::Processor => {
                shown["processor"] = serde_json::json!(config.processor);
                shown["audit"] = serde_json::json!(config.audit);
                shown["digital_river"] = serde_json::json!(config.digital_river());
                shown["webhooks"] = serde_json::json!(config.webhooks);
                shown["reconcile"] = serde_json::json!(config.reconcile);
            }
            Service::InvoiceFetcher => shown["invoice_fetcher"] = serde_json::json!(config.invoice_fetcher),
        }
        if *service != Service::Ingest {
            shown["postgres"] = serde_json::json!(config.postgres);
        }
    }
    shown
}

async fn start(
    file: Option<&Path>,
    config: &mut Config,
    services: &[Service],
    context: &Context,
) -> anyhow::Result<()> {
    if services.contains(&Service::Ingest) {
        // First, and without waiting: it answers 503 until Kafka is available.
        let file = file.map(Path::to_path_buf);
        let load = Arc::new(move || reloaded(file.as_deref()));
        let server = riverlock_ingest::start_reloading(config.ingest.clone(), load, &config.kafka, context).await?;
        tracing::info!("webhooks are received at http://{}", server.address);
    }
    if services.iter().all(|service| *service == Service::Ingest) {
        return Ok(());
    }
    until_stopped(context, check(config)).await?;
    if services.contains(&Service::Processor) {
        if let Some(api) = &config.processor.api {
            let file = file.map(Path::to_path_buf);
            let load = Arc::new(move || {
                let processor: riverlock_processor::ProcessorConfig = config::section(file.as_deref(), "processor")?;
                Ok(processor.api)
            });
            let address = riverlock_processor::api::start_reloading(api, load, &config.postgres, context).await?;
            tracing::info!("orders are at http://{address}/v1/orders");
        }
        riverlock_processor::start(config.processor.clone(), &config.kafka, &config.postgres, context);
        watch(config, context);
        super::webhooks::watch::start(config, context)?;
        reconcile::job::start(config, context)?;
        super::shipments::start(config, context)?;
    }
    if services.contains(&Service::InvoiceFetcher) {
        let (fetcher, kafka, postgres) =
            (config.invoice_fetcher.clone(), config.kafka.clone(), config.postgres.clone());
        let (task, file) = (context.clone(), file.map(Path::to_path_buf));
        let load = Arc::new(move || config::section(file.as_deref(), "invoice_fetcher"));
        let run = async move { riverlock_invoice_fetcher::run(fetcher, load, &kafka, &postgres, &task).await };
        context.shutdown.spawn("invoice-fetcher", run.map_err(anyhow::Error::from));
    }
    Ok(())
}

/// What ingest compares when it reloads the configuration: its own section, and sections whose changes require a restart.
fn reloaded(file: Option<&Path>) -> Result<riverlock_ingest::Configuration, ConfigError> {
    let source = Source::read(file)?;
    let ingest: IngestConfig = source.section("ingest")?;
    ["kafka", "admin", "telemetry"].into_iter().try_fold(ingest.into(), |configuration, name| {
        // Unparsed: a mistake in these sections must not prevent a new secret from being used.
        let mut section: serde_json::Value = source.section(name)?;
        read_secrets(&mut section);
        Ok(riverlock_ingest::Configuration::with_section(configuration, name, &section.to_string()))
    })
}

/// Adds the contents of the files that a section names as secrets: a password that changes in its file is a change as well.
fn read_secrets(section: &mut serde_json::Value) {
    match section {
        serde_json::Value::String(text) => {
            if let Some(path) = text.strip_prefix(FILE_PREFIX) {
                let secret = Secret::from_file(path);
                let content = secret.read(text).map_or_else(|error| error.to_string(), str::to_owned);
                *text = format!("{text}\n{content}");
            }
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(read_secrets),
        serde_json::Value::Object(values) => values.values_mut().for_each(read_secrets),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}

/// Starts the tasks that watch all consumers: dead letters, conflicts, and the audit.
fn watch(config: &Config, context: &Context) {
    context.shutdown.spawn("dead-letters", dead_letters::watch(config.postgres.clone(), context.clone()));
    context.shutdown.spawn("sizes", size::run(config.postgres.clone(), context.clone()));
    if config.audit.enabled {
        let auditor = Auditor {
            config: config.audit.clone(),
            kafka: config.kafka.clone(),
            postgres: config.postgres.clone(),
            consumers: config.consumers().to_vec(),
        };
        context.shutdown.spawn("audit", auditor.run(context.clone()));
    }
}

/// Checks that topics, tables and the Kafka cluster are those of this version and configuration, and looks up the topics of
/// earlier versions.
async fn check(config: &mut Config) -> anyhow::Result<()> {
    topics::check(&config.kafka).await?;
    topics::find_former(&mut config.kafka).await?;
    if !config.kafka.former_topics.is_empty() {
        tracing::info!("topics of earlier versions are read as well: {}", config.kafka.former_topics.join(", "));
    }
    let mut connection = config.postgres.connect().await.context("PostgreSQL does not take a connection")?;
    bounded(config.postgres.answer_limit(), check_tables(&mut connection)).await?;
    Ok(cluster::ensure_current(&config.kafka, &mut connection).await?)
}

async fn check_tables(connection: &mut PgConnection) -> anyhow::Result<()> {
    let missing = postgres::migrations_missing(connection).await?;
    anyhow::ensure!(missing == 0, "the database lacks {missing} migrations; `riverlock setup` runs them");
    let unknown = postgres::migrations_unknown(connection).await?;
    anyhow::ensure!(
        unknown == 0,
        "a newer version has changed the tables ({unknown} migrations are unknown to this one); start that version"
    );
    let current = cluster::current(connection).await?;
    anyhow::ensure!(current.is_some(), "no Kafka cluster is recorded in the database; `riverlock setup` records it");
    Ok(())
}

async fn until_stopped(context: &Context, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::select! {
        result = work => result,
        () = context.shutdown.soft().cancelled() => anyhow::bail!("stopped while starting"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_section_that_ingest_reads_at_start_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (file, password) = (folder.path().join("riverlock.toml"), folder.path().join("password"));
        let secret = format!("\"file:{}\"", password.display());
        let text = |partitions: u32, admin: u16, format: &str| {
            format!(
                "[kafka]\npartitions = {partitions}\nproperties = {{ \"sasl.password\" = {secret} }}\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n[telemetry]\nformat = \"{format}\"\n"
            )
        };
        let read = |password_text: &str, text: String| {
            std::fs::write(&password, password_text).unwrap();
            std::fs::write(&file, text).unwrap();
            reloaded(Some(&file)).unwrap()
        };
        let first = read("one", text(4, 9464, "json"));
        assert!(read("one", text(4, 9464, "json")) == first);
        for (password, text) in [
            ("one", text(5, 9464, "json")),
            ("one", text(4, 9465, "json")),
            ("one", text(4, 9464, "text")),
            ("two", text(4, 9464, "json")),
        ] {
            assert!(read(password, text.clone()) != first, "{password} {text}");
        }
        assert!(!format!("{:?}", read("two", text(4, 9464, "json"))).contains("two"), "secrets are not shown");
    }
}
