//! Reloading of the configuration at run time: on SIGHUP, and when its files change.
//!
//! The configuration is read every few seconds and compared as a whole, including secrets from files. That detects every
//! kind of change (an editor, a Kubernetes volume whose symbolic link moves, a file on a network), which watching files
//! does not. An invalid configuration is rejected, and the previous one stays in use.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use riverlock_runtime::{Component, ConfigError};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::{MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::IngestConfig,
    endpoints::Endpoints,
    hash::{Hash, hash},
    http::tls::Tls,
    metrics::{PROCESS, Reload},
    webhook::state::Ingest,
};

/// How long reading the configuration may take: a file may be on a network.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time without a heartbeat of the reloader.
pub(crate) fn silence_max(config: &IngestConfig) -> Duration {
    2 * (config.reload_interval + READ_TIMEOUT)
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

/// Result of reading the configuration; an error as text, so that two results can be compared.
type LoadResult = Result<LoadedConfig, String>;

/// Why the configuration is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Timer,
    Signal,
}

pub(crate) struct Reloader {
    load: Arc<Load>,
    ingest: Arc<Ingest>,
    sighups: Signal,
    component: Component,
    /// A read that is not complete yet.
    reading: Option<JoinHandle<LoadResult>>,
    /// The configuration at start. Some of it stays in use until the process ends.
    started: LoadedConfig,
    /// Keys and sections whose values differ from those in use.
    pending: Vec<&'static str>,
    /// The configuration that was applied last.
    current: LoadedConfig,
    /// Result of the last read.
    last_read: LoadResult,
    /// Result that was last applied or rejected, so that the same one is not rejected every few seconds.
    last_handled: LoadResult,
}

impl Reloader {
    /// Installs a handler for SIGHUP, which then no longer ends the process. `component` gets a heartbeat while the
    /// reloader runs.
    pub(crate) fn new(
        load: Arc<Load>,
        ingest: Arc<Ingest>,
        current: LoadedConfig,
        component: Component,
    ) -> std::io::Result<Self> {
        let sighups = signal(SignalKind::hangup())?;
        component.ready();
        let (last_read, last_handled, started) = (Ok(current.clone()), Ok(current.clone()), current.clone());
        Ok(Self {
            load,
            ingest,
            sighups,
            component,
            reading: None,
            started,
            pending: Vec::new(),
            last_read,
            last_handled,
            current,
        })
    }

    /// Reloads the configuration until shutdown.
    pub(crate) async fn run(mut self, soft: CancellationToken) {
        let mut interval = tokio::time::interval(self.current.config.reload_interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.component.beat();
            tokio::select! {
                () = soft.cancelled() => return,
                Some(()) = self.sighups.recv() => self.check(Cause::Signal).await,
                _ = interval.tick() => self.check(Cause::Timer).await,
            }
        }
    }

    async fn check(&mut self, cause: Cause) {
        let load = Arc::clone(&self.load);
        let read = move || load().and_then(LoadedConfig::new).map_err(|error| chain(&error));
        // A read that hangs, for example on a network file, occupies a thread. At most one is started: more would use up
        // the threads that all other blocking operations need.
        let reading = self.reading.get_or_insert_with(|| tokio::task::spawn_blocking(read));
        let found = match timeout(READ_TIMEOUT, reading).await {
            Ok(found) => {
                self.reading = None;
                found.unwrap_or_else(|error| Err(format!("reading it panicked: {error}")))
            }
            Err(_) => Err(format!("it could not be read within {} s", READ_TIMEOUT.as_secs())),
        };
        let is_stable = self.last_read == found;
        self.last_read.clone_from(&found);
        if cause == Cause::Timer && (!is_stable || self.last_handled == found) {
            return;
        }
        self.handle(&found);
        self.last_handled = found;
    }

    fn handle(&mut self, found: &LoadResult) {
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

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
