//! The current accounts, which a reload of the configuration can add, change and remove.

use std::sync::{Arc, PoisonError, RwLock};

use riverlock_runtime::ConfigError;
use riverlock_schemas::Mode;

use crate::{InvoiceFetcherConfig, account::Account, metrics as names};

/// At most one account of each mode.
pub(crate) struct Accounts(RwLock<Vec<Arc<Account>>>);

impl Accounts {
    pub(crate) fn new(config: &InvoiceFetcherConfig) -> Result<Self, ConfigError> {
        let accounts =
            config.accounts().map(|(mode, account)| Account::new(mode, &config.api_base_url, account).map(Arc::new));
        Ok(Self(RwLock::new(accounts.collect::<Result<_, _>>()?)))
    }

    /// All accounts.
    pub(crate) fn all(&self) -> Vec<Arc<Account>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The account of a mode.
    pub(crate) fn of(&self, mode: Mode) -> Option<Arc<Account>> {
        self.all().into_iter().find(|account| account.mode() == mode)
    }

    /// Replaces the accounts by those of another configuration: keys and rates change, accounts are added and removed.
    ///
    /// # Errors
    /// When a key is invalid. Other accounts may have been replaced already.
    pub(crate) fn take(&self, config: &InvoiceFetcherConfig) -> Result<(), ConfigError> {
        let mut accounts = Vec::new();
        for (mode, new) in config.accounts() {
            let account = match self.of(mode) {
                Some(account) => {
                    if account.replace_key(new)? {
                        tracing::info!("the {mode} account uses the new API key");
                    }
                    account
                }
                None => {
                    tracing::info!("the {mode} account was added: its documents are downloaded");
                    Arc::new(Account::new(mode, &config.api_base_url, new)?)
                }
            };
            accounts.push(account);
        }
        let gone = self.all().into_iter().filter(|old| accounts.iter().all(|account| account.mode() != old.mode()));
        for mode in gone.map(|account| account.mode()) {
            tracing::warn!("the {mode} account was removed: its documents wait until it is configured again");
            names::paused(mode, None);
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = accounts;
        Ok(())
    }
}
