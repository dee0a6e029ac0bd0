//! An account with Digital River: its key, and the gate that every request with it passes.

use std::{
    sync::{Mutex, MutexGuard},
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

/// One mode's key and gate, shared by all workers.
pub(crate) struct Account {
    mode: Mode,
    authorization: HeaderValue,
    gate: Mutex<Gate>,
}

impl Account {
    pub(crate) fn new(mode: Mode, config: &AccountConfig) -> Result<Self, ConfigError> {
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {}", config.api_key.expose())).map_err(|_| {
                ConfigError::refused(format!("invoice_fetcher.{mode}.api_key"), "does not fit into a header")
            })?;
        authorization.set_sensitive(true);
        let gate = Mutex::new(Gate::new(config.requests_per_second(mode), Instant::now()));
        Ok(Self { mode, authorization, gate })
    }

    /// Whose data the key is for.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// The value of the `Authorization` header.
    pub(crate) fn authorization(&self) -> &HeaderValue {
        &self.authorization
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

    /// Learns from an answer, for all workers.
    pub(crate) fn report(&self, signal: Signal) {
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
