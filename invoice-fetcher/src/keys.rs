//! Takes new API keys while the process runs: on SIGHUP, and when the configuration or a file that it names changes.
//!
//! The configuration is read again every few seconds, which sees every way of changing it: an editor, a Kubernetes volume
//! whose symbolic link moves, a file on a network. Only keys are taken over; everything else takes a restart.

use std::{sync::Arc, time::Duration};

use riverlock_runtime::{ConfigError, Context};
use tokio::signal::unix::{SignalKind, signal};

use crate::{InvoiceFetcherConfig, worker::Fetcher};

/// How often the configuration is read again.
const INTERVAL: Duration = Duration::from_secs(5);

/// Reads `[invoice_fetcher]` of the configuration, from wherever it is.
pub type Load = dyn Fn() -> Result<InvoiceFetcherConfig, ConfigError> + Send + Sync;

/// Looks after the keys until the shutdown. From here on SIGHUP does not end the process.
pub(crate) async fn run(fetcher: Arc<Fetcher>, load: Arc<Load>, context: Context) -> Result<(), std::io::Error> {
    let mut hangups = signal(SignalKind::hangup())?;
    let soft = context.shutdown.soft().clone();
    let mut refused = None;
    loop {
        tokio::select! {
            () = soft.cancelled() => return Ok(()),
            Some(()) = hangups.recv() => refused = None,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let error = look(&fetcher, &load).await.err();
        if let Some(reason) = error.as_ref().filter(|_| error != refused) {
            tracing::error!(
                "the configuration was read again for new API keys and is refused, the keys stay: {reason}"
            );
        }
        refused = error;
    }
}

/// Reads the configuration and takes its keys. The error is a text, so that two can be compared.
pub(crate) async fn look(fetcher: &Fetcher, load: &Arc<Load>) -> Result<(), String> {
    let load = Arc::clone(load);
    let read = move || {
        let config = load()?;
        config.validate()?;
        Ok::<_, ConfigError>(config)
    };
    // A file may be far away.
    let config = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?;
    let config = config.map_err(|error| error.to_string())?;
    fetcher.take_keys(&config).await.map_err(|error| error.to_string())
}
