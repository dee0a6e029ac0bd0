//! An account with Digital River: its key, and the gate that every request with it passes.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use metrics::histogram;
use reqwest::header::HeaderValue;
use riverlock_runtime::ConfigError;
use riverlock_schemas::Mode;

use crate::{
    config::AccountConfig,
    gate::{Capacity, Gate, Pass, Signal, Why},
    metrics as names,
    problem::Problem,
};

/// The value of the `Authorization` header.
pub(crate) type Key = Arc<HeaderValue>;

/// One mode's key and gate, shared by all workers.
pub(crate) struct Account {
    mode: Mode,
    key: Mutex<Key>,
    gate: Mutex<Gate>,
}

impl Account {
    pub(crate) fn new(mode: Mode, config: &AccountConfig) -> Result<Self, ConfigError> {
        let key = Mutex::new(authorization(mode, config)?);
        let gate = Mutex::new(Gate::new(config.requests_per_second(mode), Instant::now()));
        Ok(Self { mode, key, gate })
    }

    /// Whose data the key is for.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// The key that is in use.
    pub(crate) fn key(&self) -> Key {
        Arc::clone(&self.key.lock().expect("no code panics while it holds the key"))
    }

    /// Takes another key, and says whether it is another one. A pause that the old key was to blame for ends.
    pub(crate) fn renew(&self, config: &AccountConfig) -> Result<bool, ConfigError> {
        let key = authorization(self.mode, config)?;
        {
            let mut current = self.key.lock().expect("no code panics while it holds the key");
            if *current == key {
                return Ok(false);
            }
            *current = key;
        }
        let mut gate = self.gate();
        gate.forgive_key();
        names::paused(self.mode, gate.trouble(Instant::now()));
        Ok(true)
    }

    /// Waits for a place for one request.
    ///
    /// # Errors
    /// When the gate is closed, or has no place before the deadline. Then nothing may be asked.
    pub(crate) async fn admit(&self, deadline: Instant) -> Result<(), Problem> {
        let now = Instant::now();
        let pass = self.gate().admit(now);
        match pass {
            Err(closed) => Err(Problem::Closed { why: Some(closed.why), wait: closed.until - now }),
            Ok(Pass::Probe) => Ok(()),
            Ok(Pass::At(at)) if at > deadline => Err(Problem::Closed { why: None, wait: at - now }),
            Ok(Pass::At(at)) => {
                if at > now {
                    tokio::time::sleep_until(at.into()).await;
                }
                histogram!(names::LIMITER_WAIT).record((at - now).as_secs_f64());
                let now = Instant::now();
                match self.gate().closed(now) {
                    Some(closed) => Err(Problem::Closed { why: Some(closed.why), wait: closed.until - now }),
                    None => Ok(()),
                }
            }
        }
    }

    /// How much work makes sense now.
    pub(crate) fn capacity(&self) -> Capacity {
        let gate = self.gate();
        let now = Instant::now();
        names::paused(self.mode, gate.trouble(now));
        gate.capacity(now)
    }

    /// Learns from an answer to a request with `key`, for all workers.
    pub(crate) fn report(&self, signal: Signal, key: &Key) {
        // What an older key is refused says nothing about the one in use.
        if signal == Signal::KeyRefused && *key != self.key() {
            return;
        }
        let mut gate = self.gate();
        let now = Instant::now();
        let before = gate.trouble(now);
        gate.report(signal, now);
        let after = gate.trouble(now);
        if before == after {
            return;
        }
        names::paused(self.mode, after);
        let mode = self.mode;
        match after {
            Some(Why::KeyRefused) => tracing::error!(
                "Digital River refuses the API key for {mode} data: nothing is fetched until it takes one again, and \
                 nothing is lost meanwhile"
            ),
            Some(Why::Throttled) => tracing::warn!("Digital River asks for fewer requests for {mode} data"),
            Some(Why::Down) => tracing::warn!("Digital River is down for {mode} data; it is asked now and then"),
            None => tracing::info!("documents with {mode} data are fetched again"),
        }
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().expect("no code panics while it holds the gate")
    }
}

fn authorization(mode: Mode, config: &AccountConfig) -> Result<Key, ConfigError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", config.api_key.expose()))
        .map_err(|_| ConfigError::refused(format!("invoice_fetcher.{mode}.api_key"), "does not fit into a header"))?;
    value.set_sensitive(true);
    Ok(Arc::new(value))
}
