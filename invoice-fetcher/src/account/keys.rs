//! Takes accounts and tokens of a changed configuration while the process runs. What else has changed takes a restart, and is
//! told.

use std::sync::Arc;

use riverlock_runtime::{Context, reload};

use crate::{InvoiceFetcherConfig, fetch::worker::Fetcher};

/// Reads `[invoice_fetcher]` of the configuration, from wherever it is.
pub type Load = reload::Load<InvoiceFetcherConfig>;

/// Looks after the configuration until the shutdown. From here on SIGHUP does not end the process.
pub(crate) async fn run(fetcher: Arc<Fetcher>, load: Arc<Load>, context: Context) -> Result<(), std::io::Error> {
    let checked: Arc<Load> = Arc::new(move || {
        let config = load()?;
        config.validate()?;
        Ok(config)
    });
    reload::run("invoice-keys", checked, move |config| fetcher.reload(&config), context).await
}
