//! Takes accounts and tokens of a changed configuration while the process runs: on SIGHUP, and when the configuration or a
//! file that it names changes.
//!
//! The configuration is read again every few seconds, which sees every way of changing it: an editor, a Kubernetes volume
//! whose symbolic link moves, a file on a network. What else has changed takes a restart, and is told.

use std::{sync::Arc, time::Duration};

use riverlock_runtime::{ConfigError, Context};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};

use crate::{InvoiceFetcherConfig, worker::Fetcher};

/// How often the configuration is read again.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long reading may take before that is told: a file may be on a network that is away.
const READ_MAX: Duration = Duration::from_secs(30);

/// How long this task may stand still before the process counts as stuck.
const BEAT_AGE_MAX: Duration = Duration::from_secs(180);

/// Reads `[invoice_fetcher]` of the configuration, from wherever it is.
pub type Load = dyn Fn() -> Result<InvoiceFetcherConfig, ConfigError> + Send + Sync;

/// Looks after the configuration until the shutdown. From here on SIGHUP does not end the process.
pub(crate) async fn run(fetcher: Arc<Fetcher>, load: Arc<Load>, context: Context) -> Result<(), std::io::Error> {
    let mut hangups = signal(SignalKind::hangup())?;
    let soft = context.shutdown.soft().clone();
    let component = context.health.register_beating("invoice-keys", BEAT_AGE_MAX);
    component.ready();
    let (mut reader, mut refused) = (Reader::new(load), None);
    loop {
        component.beat();
        tokio::select! {
            () = soft.cancelled() => return Ok(()),
            Some(()) = hangups.recv() => refused = None,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let error = look(&fetcher, &mut reader).await.err();
        if let Some(reason) = error.as_ref().filter(|_| error != refused) {
            tracing::error!("the configuration was read again and is refused, the former one stays: {reason}");
        }
        refused = error;
    }
}

/// Reads the configuration and takes what can be taken of it. The error is a text, so that two can be compared.
pub(crate) async fn look(fetcher: &Fetcher, reader: &mut Reader) -> Result<(), String> {
    let config = reader.read().await?;
    fetcher.reload(&config).map_err(|error| error.to_string())
}

/// Reads the configuration on a thread, one after the other: reading that hangs must not take up thread after thread.
pub(crate) struct Reader {
    load: Arc<Load>,
    pending: Option<JoinHandle<Result<InvoiceFetcherConfig, ConfigError>>>,
}

impl Reader {
    pub(crate) fn new(load: Arc<Load>) -> Self {
        Self { load, pending: None }
    }

    async fn read(&mut self) -> Result<InvoiceFetcherConfig, String> {
        let load = Arc::clone(&self.load);
        let pending = self.pending.get_or_insert_with(|| {
            tokio::task::spawn_blocking(move || {
                let config = load()?;
                config.validate()?;
                Ok(config)
            })
        });
        let Ok(read) = timeout(READ_MAX, pending).await else {
            return Err(format!("it cannot be read within {} s", READ_MAX.as_secs()));
        };
        self.pending = None;
        read.map_err(|error| error.to_string())?.map_err(|error: ConfigError| error.to_string())
    }
}
