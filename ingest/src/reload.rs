//! Takes a new configuration while the process runs: on SIGHUP, and when the files that it comes from change.
//!
//! The configuration is read again every few seconds and compared as a whole, secrets from files included. That sees every
//! way of changing it (an editor, a Kubernetes volume whose symbolic link moves, a file on a network), which watching files
//! does not. What is wrong is refused, and what was there before stays in use.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use riverlock_runtime::{Component, ConfigError};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::{MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::credentials::{Hash, hash},
    config::IngestConfig,
    endpoints::Endpoints,
    http::tls::Tls,
    metrics::{PROCESS, Reload},
    webhook::state::Ingest,
};

/// How long reading the configuration may take: a file may be far away.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the reloader may make no step.
pub(crate) fn silence_max(config: &IngestConfig) -> Duration {
    2 * (config.reload_interval + READ_TIMEOUT)
}

/// Reads the configuration, from wherever it is.
pub type Load = dyn Fn() -> Result<Configuration, ConfigError> + Send + Sync;

/// What is read again while the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    ingest: IngestConfig,
    /// Hashes of other sections, by their names: their changes take a restart, which has to be told.
    others: BTreeMap<&'static str, Hash>,
}

impl From<IngestConfig> for Configuration {
    fn from(ingest: IngestConfig) -> Self {
        Self { ingest, others: BTreeMap::new() }
    }
}

impl Configuration {
    /// Adds a section that counts only at start, as it is written.
    #[must_use]
    pub fn with_section(mut self, name: &'static str, text: &str) -> Self {
        self.others.insert(name, hash(text));
        self
    }
}

/// A configuration that is right, with what its files hold.
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

    /// The configuration that the process is started with. What other sections it has, `load` knows.
    pub(crate) fn at_start(config: IngestConfig, load: Option<&Load>) -> Result<Self, ConfigError> {
        let others = load.and_then(|load| load().ok()).map(|configuration| configuration.others);
        Self::new(Configuration { ingest: config, others: others.unwrap_or_default() })
    }
}

/// What a look at the configuration found; an error as text, so that two can be compared.
type LoadResult = Result<LoadedConfig, String>;

/// Who wants to know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Timer,
    Signal,
}

pub(crate) struct Reloader {
    load: Arc<Load>,
    ingest: Arc<Ingest>,
    hangups: Signal,
    component: Component,
    /// A read that has not come to its end.
    reading: Option<JoinHandle<LoadResult>>,
    /// What the process was started with. Some of it is in use until it ends.
    started: LoadedConfig,
    /// The keys and sections that have other values now than those in use.
    pending: Vec<&'static str>,
    /// What was taken last.
    current: LoadedConfig,
    /// What the last look found.
    seen: LoadResult,
    /// What was last taken or refused, so that the same is not refused every few seconds.
    judged: LoadResult,
}

impl Reloader {
    /// From here on SIGHUP no longer ends the process. The component moves as long as the configuration is looked after.
    pub(crate) fn new(
        load: Arc<Load>,
        ingest: Arc<Ingest>,
        current: LoadedConfig,
        component: Component,
    ) -> std::io::Result<Self> {
        let hangups = signal(SignalKind::hangup())?;
        component.ready();
        let (seen, judged, started) = (Ok(current.clone()), Ok(current.clone()), current.clone());
        Ok(Self {
            load,
            ingest,
            hangups,
            component,
            reading: None,
            started,
            pending: Vec::new(),
            seen,
            judged,
            current,
        })
    }

    /// Looks after the configuration until the process is asked to end.
    pub(crate) async fn run(mut self, soft: CancellationToken) {
        let mut interval = tokio::time::interval(self.current.config.reload_interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.component.beat();
            tokio::select! {
                () = soft.cancelled() => return,
                Some(()) = self.hangups.recv() => self.look(Cause::Signal).await,
                _ = interval.tick() => self.look(Cause::Timer).await,
            }
        }
    }

    async fn look(&mut self, cause: Cause) {
        let load = Arc::clone(&self.load);
        let read = move || load().and_then(LoadedConfig::new).map_err(|error| chain(&error));
        // A read that hangs, for example on a file that is far away, holds a thread. One is enough: more of them would use up
        // the threads that everything else that blocks needs.
        let reading = self.reading.get_or_insert_with(|| tokio::task::spawn_blocking(read));
        let found = match timeout(READ_TIMEOUT, reading).await {
            Ok(found) => {
                self.reading = None;
                found.unwrap_or_else(|error| Err(format!("reading it panicked: {error}")))
            }
            Err(_) => Err(format!("it cannot be read within {} s", READ_TIMEOUT.as_secs())),
        };
        let settled = self.seen == found;
        self.seen.clone_from(&found);
        if cause == Cause::Timer && (!settled || self.judged == found) {
            return;
        }
        self.judge(&found);
        self.judged = found;
    }

    fn judge(&mut self, found: &LoadResult) {
        match found {
            Ok(loaded) if *loaded == self.current => {
                PROCESS.reloaded(Reload::Unchanged);
                tracing::info!("the configuration of ingest was read again and is as before");
            }
            Ok(loaded) => {
                self.take(loaded.clone());
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
                tracing::error!("the new configuration of ingest is refused, the one before it stays: {reason}");
            }
        }
    }

    fn take(&mut self, loaded: LoadedConfig) {
        self.pending = self.started.config.fixed_changes(&loaded.config);
        let differs = |name: &&'static str| self.started.others.get(name) != loaded.others.get(name);
        self.pending.extend(loaded.others.keys().copied().filter(differs));
        // A listener without TLS does not get it in the middle of its life.
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

/// An error with everything that caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
