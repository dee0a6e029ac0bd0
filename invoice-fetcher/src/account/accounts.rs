//! The accounts by now: they may come, change and go while the process runs.

use std::sync::{Arc, PoisonError, RwLock};

use riverlock_runtime::ConfigError;
use riverlock_schemas::Mode;

use crate::{InvoiceFetcherConfig, account::Account, metrics as names};

/// At most one account of each mode.
pub(crate) struct Accounts(RwLock<Vec<Arc<Account>>>);

impl Accounts {
    pub(crate) fn new(config: &InvoiceFetcherConfig) -> Result<Self, ConfigError> {
        let accounts = config.accounts().map(|(mode, account)| Account::new(mode, account).map(Arc::new));
        Ok(Self(RwLock::new(accounts.collect::<Result<_, _>>()?)))
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Account>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The account for a mode's data.
    pub(crate) fn of(&self, mode: Mode) -> Option<Arc<Account>> {
        self.all().into_iter().find(|account| account.mode() == mode)
    }

    /// Takes the accounts of another configuration: new keys and rates, accounts that were added, and none that is gone.
    ///
    /// # Errors
    /// When a key does not fit. Accounts before it may have been taken.
    pub(crate) fn take(&self, config: &InvoiceFetcherConfig) -> Result<(), ConfigError> {
        let mut accounts = Vec::new();
        for (mode, new) in config.accounts() {
            let account = match self.of(mode) {
                Some(account) => {
                    if account.renew(new)? {
                        tracing::info!("the new API key for {mode} data is in use");
                    }
                    account
                }
                None => {
                    tracing::info!("an account for {mode} data was added: its documents are fetched from now on");
                    Arc::new(Account::new(mode, new)?)
                }
            };
            accounts.push(account);
        }
        let gone = self.all().into_iter().filter(|old| accounts.iter().all(|account| account.mode() != old.mode()));
        for mode in gone.map(|account| account.mode()) {
            tracing::warn!("the account for {mode} data was removed: its documents wait until there is one again");
            names::paused(mode, None);
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = accounts;
        Ok(())
    }
}
