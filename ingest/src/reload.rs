//! Reloading of the configuration at run time: endpoints, their secrets and the certificate. Other changes need a restart,
//! which is logged. An invalid configuration is rejected, and the previous one stays in use.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use riverlock_runtime::{
    ConfigError,
    reload::{READ_MAX, Reading},
};

use crate::{
    config::IngestConfig,
    endpoints::Endpoints,
    hash::{Hash, hash},
    http::tls::Tls,
    metrics::{PROCESS, Reload},
    webhook::state::Ingest,
};

/// Longest time without a heartbeat of the task that reads the configuration.
pub(crate) fn silence_max(config: &IngestConfig) -> Duration {
    2 * (config.reload_interval + READ_MAX)
}

/// Reads the configuration from its source.
pub type Load = dyn Fn() -> Result<Configuration, ConfigError> + Send + Sync;

/// The configuration as it is read for a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    ingest: IngestConfig,
    /// Hashes of other sections by name: changes to them need a restart, which is logged.
    others: BTreeMap<&'static str, Hash>,
}

impl From<IngestConfig> for Configuration {
    fn from(ingest: IngestConfig) -> Self {
        Self { ingest, others: BTreeMap::new() }
    }
}

impl Configuration {
    /// Adds the text of a section that is used only at start.
    #[must_use]
    pub fn with_section(mut self, name: &'static str, text: &str) -> Self {
        self.others.insert(name, hash(text));
        self
    }
}

/// A valid configuration with the contents of its files.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LoadedConfig {
    pub(crate) config: IngestConfig,
    pub(crate) tls: Option<Tls>,
    others: BTreeMap<&'static str, Hash>,
}

impl LoadedConfig {
    /// Checks the configuration and reads the files that it names.
    pub(crate) fn new(configuration: Configuration) -> Result<Self, ConfigError> {
        let Configuration { ingest: config, others } = configuration;
        config.validate()?;
        let tls = config.tls.as_ref().map(Tls::load).transpose()?;
        Ok(Self { config, tls, others })
    }

    /// The configuration that the process is started with. Its other sections are read with `load`.
    pub(crate) fn at_start(config: IngestConfig, load: Option<&Load>) -> Result<Self, ConfigError> {
        let others = load.and_then(|load| load().ok()).map(|configuration| configuration.others);
        Self::new(Configuration { ingest: config, others: others.unwrap_or_default() })
    }
}

/// Applies each configuration that is read.
pub(crate) struct Applier {
    ingest: Arc<Ingest>,
    /// The configuration at start. Some of it stays in use until the process ends.
    started: LoadedConfig,
    /// Keys and sections whose values differ from those in use.
    pending: Vec<&'static str>,
    /// The configuration that was applied last.
    current: LoadedConfig,
}

impl Applier {
    /// `current` is the configuration that the process is started with.
    pub(crate) fn new(ingest: Arc<Ingest>, current: LoadedConfig) -> Self {
        Self { ingest, started: current.clone(), pending: Vec::new(), current }
    }

    /// Applies or rejects a result of reading.
    pub(crate) fn handle(&mut self, found: &Reading<LoadedConfig>) {
        match found {
            Ok(loaded) if *loaded == self.current => {
                PROCESS.reloaded(Reload::Unchanged);
                tracing::info!("the configuration of ingest was reloaded and is unchanged");
            }
            Ok(loaded) => {
                self.apply(loaded.clone());
                PROCESS.reloaded(Reload::Applied);
                let (endpoints, pending) = (self.current.config.endpoints.len(), self.pending.join(", "));
                if pending.is_empty() {
                    tracing::info!(endpoints, "the new configuration of ingest is in use");
                } else {
                    tracing::warn!(
                        endpoints,
                        pending,
                        "the new configuration of ingest is in use, except for changes that need a restart: {pending}"
                    );
                }
            }
            Err(reason) => {
                PROCESS.reloaded(Reload::Refused);
                tracing::error!("the new configuration of ingest is rejected, the previous one stays in use: {reason}");
            }
        }
    }

    fn apply(&mut self, loaded: LoadedConfig) {
        self.pending = self.started.config.fixed_changes(&loaded.config);
        let differs = |name: &&'static str| self.started.others.get(name) != loaded.others.get(name);
        self.pending.extend(loaded.others.keys().copied().filter(differs));
        // TLS can be enabled or disabled only at start.
        if let Some(tls) = loaded.tls.clone()
            && self.ingest.tls.load().is_some()
        {
            self.ingest.tls.store(Some(Arc::new(tls)));
        }
        let endpoints = Arc::new(Endpoints::new(&loaded.config, self.ingest.context.clock.now()));
        let old = self.ingest.endpoints.swap(Arc::clone(&endpoints));
        old.retire(&endpoints);
        self.current = loaded;
    }
}
