//! Reloads accounts and tokens while the process runs. Other changed settings need a restart and are logged.

use std::sync::Arc;

use riverlock_runtime::{Context, reload};

use crate::{InvoiceFetcherConfig, fetch::worker::Fetcher};

/// Reads the configuration section `[invoice_fetcher]`.
pub type Load = reload::Load<InvoiceFetcherConfig>;

/// Watches the configuration until shutdown. From then on SIGHUP reloads it instead of ending the process.
pub(crate) async fn run(fetcher: Arc<Fetcher>, load: Arc<Load>, context: Context) -> Result<(), std::io::Error> {
    let checked: Arc<Load> = Arc::new(move || {
        let config = load()?;
        config.validate()?;
        Ok(config)
    });
    reload::run("invoice-keys", checked, move |config| fetcher.reload(&config), context).await
}
