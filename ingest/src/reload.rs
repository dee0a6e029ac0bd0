//! Takes a new configuration while the process runs: on SIGHUP, and when the files that it comes from change.
//!
//! The configuration is read again every few seconds and compared as a whole, secrets from files included. That sees every
//! way of changing it (an editor, a Kubernetes volume whose symbolic link moves, a file on a network), which watching files
//! does not. What is wrong is refused, and what was there before stays in use.

use std::sync::Arc;

use riverlock_runtime::ConfigError;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::IngestConfig,
    endpoints::Endpoints,
    handler::Ingest,
    metrics::{PROCESS, Reload},
    tls::Tls,
};

/// Reads `[ingest]` of the configuration, from wherever it is.
pub type Load = dyn Fn() -> Result<IngestConfig, ConfigError> + Send + Sync;

/// A configuration that is right, with what its files hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Loaded {
    pub(crate) config: IngestConfig,
    pub(crate) tls: Option<Tls>,
}

impl Loaded {
    /// Checks the configuration and reads the files that it names.
    pub(crate) fn new(config: IngestConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let tls = config.tls.as_ref().map(Tls::load).transpose()?;
        Ok(Self { config, tls })
    }
}

/// What a look at the configuration found; an error as text, so that two can be compared.
type Found = Result<Loaded, String>;

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
    /// What is in use.
    current: Loaded,
    /// What the last look found.
    seen: Found,
    /// What was last taken or refused, so that the same is not refused every few seconds.
    judged: Found,
}

impl Reloader {
    /// From here on SIGHUP no longer ends the process.
    pub(crate) fn new(load: Arc<Load>, ingest: Arc<Ingest>, current: Loaded) -> std::io::Result<Self> {
        let hangups = signal(SignalKind::hangup())?;
        Ok(Self { load, ingest, hangups, seen: Ok(current.clone()), judged: Ok(current.clone()), current })
    }

    /// Looks after the configuration until the process is asked to end.
    pub(crate) async fn run(mut self, soft: CancellationToken) {
        let mut interval = tokio::time::interval(self.current.config.reload_interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = soft.cancelled() => return,
                Some(()) = self.hangups.recv() => self.look(Cause::Signal).await,
                _ = interval.tick() => self.look(Cause::Timer).await,
            }
        }
    }

    async fn look(&mut self, cause: Cause) {
        let load = Arc::clone(&self.load);
        let read = move || load().and_then(Loaded::new).map_err(|error| chain(&error));
        // A file may be far away.
        let found =
            tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(format!("it panicked: {error}")));
        let settled = self.seen == found;
        self.seen.clone_from(&found);
        if cause == Cause::Timer && (!settled || self.judged == found) {
            return;
        }
        self.judge(&found);
        self.judged = found;
    }

    fn judge(&mut self, found: &Found) {
        match found {
            Ok(loaded) if *loaded == self.current => {
                PROCESS.reloaded(Reload::Unchanged);
                tracing::info!("the configuration of ingest was read again and is as before");
            }
            Ok(loaded) => {
                self.take(loaded.clone());
                PROCESS.reloaded(Reload::Applied);
                tracing::info!(
                    endpoints = self.current.config.endpoints.len(),
                    "the new configuration of ingest is in use"
                );
            }
            Err(reason) => {
                PROCESS.reloaded(Reload::Refused);
                tracing::error!("the new configuration of ingest is refused, the one before it stays: {reason}");
            }
        }
    }

    fn take(&mut self, loaded: Loaded) {
        for name in self.current.config.fixed_changes(&loaded.config) {
            tracing::warn!("ingest.{name} has changed, which takes a restart: the old value stays until then");
        }
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
