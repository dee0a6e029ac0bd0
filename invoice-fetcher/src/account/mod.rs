//! An account at Digital River: its key, its rate limit and pause, and the evidence that it fails.

pub(crate) mod accounts;
pub(crate) mod evidence;
pub(crate) mod gate;
pub(crate) mod spelling;

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::histogram;
use reqwest::header::HeaderValue;
use riverlock_runtime::ConfigError;
use riverlock_schemas::{FileId, Mode};
use tokio::{sync, time::timeout};

use crate::{
    account::{
        evidence::{Answer, Endpoint, Evidence, Suspicion},
        gate::{Gate, PauseReason},
        spelling::Spelling,
    },
    config::AccountConfig,
    metrics as names,
    problem::Problem,
};

/// How long an attempt waits until it can check a suspicion. Including the check, the attempt must end well before its lease.
const TURN_WAIT: Duration = Duration::from_secs(4);

/// The value of the `Authorization` header.
pub(crate) type Key = Arc<HeaderValue>;

/// One mode's key and gate, shared by all workers.
pub(crate) struct Account {
    mode: Mode,
    state: Mutex<AccountState>,
    /// Held while one worker checks the account.
    checking: sync::Mutex<()>,
    /// Whether the queue must be prepared for this key; see [`Account::begin_preparing`].
    is_unprepared: AtomicBool,
}

struct AccountState {
    key: Key,
    gate: Gate,
    evidence: Evidence,
    /// The file whose content was downloaded last.
    good_file: Option<FileId>,
    /// The spelling of the id with which a file was found last.
    spelling: Spelling,
}

/// A sent request for a document.
#[derive(Clone, Debug)]
pub(crate) struct FileRequest {
    pub(crate) file_id: FileId,
    pub(crate) endpoint: Endpoint,
    /// Whether the document's previous attempt was also answered with 429.
    pub(crate) was_throttled: bool,
    pub(crate) key: Key,
    pub(crate) sent: Instant,
}

/// The result of a request that is independent of the failed documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Digital River answers and accepts the key.
    Works,
    /// Digital River rejects the key.
    Rejected,
    /// Digital River asks to wait this long.
    Throttled(Duration),
    /// Digital River did not answer, or with a server error.
    Failed,
}

impl Account {
    pub(crate) fn new(mode: Mode, config: &AccountConfig) -> Result<Self, ConfigError> {
        let key = authorization(mode, config)?;
        let gate = Gate::new(config.requests_per_second(mode), Instant::now());
        let state =
            AccountState { key, gate, evidence: Evidence::default(), good_file: None, spelling: Spelling::default() };
        Ok(Self {
            mode,
            state: Mutex::new(state),
            checking: sync::Mutex::default(),
            is_unprepared: AtomicBool::new(true),
        })
    }

    /// The mode of the account's data.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// The current key.
    pub(crate) fn key(&self) -> Key {
        Arc::clone(&self.state().key)
    }

    /// Replaces the key and returns whether it changed. Ends a pause that the old key caused.
    pub(crate) fn replace_key(&self, config: &AccountConfig) -> Result<bool, ConfigError> {
        let key = authorization(self.mode, config)?;
        let mut state = self.state();
        state.gate.set_rate(config.requests_per_second(self.mode));
        if state.key == key {
            return Ok(false);
        }
        state.key = key;
        state.evidence = Evidence::default();
        state.gate.key_replaced();
        names::paused(self.mode, state.gate.pause_reason(Instant::now()));
        drop(state);
        self.preparation_failed();
        Ok(true)
    }

    /// Whether the queue must be prepared for this key before documents are leased: find a file that was downloaded before, and
    /// make documents due that another key could not download. Returns `true` once per key, unless that fails.
    pub(crate) fn begin_preparing(&self) -> bool {
        self.is_unprepared.swap(false, Ordering::Relaxed)
    }

    /// The preparation failed and must be repeated.
    pub(crate) fn preparation_failed(&self) {
        self.is_unprepared.store(true, Ordering::Relaxed);
    }

    /// Waits until one request may be sent.
    ///
    /// # Errors
    /// When the account is paused, or the rate limit allows no request before the deadline.
    pub(crate) async fn admit(&self, deadline: Instant) -> Result<(), Problem> {
        let now = Instant::now();
        let place = self.state().gate.admit(now);
        let at = place.map_err(|closed| Problem::Closed { why: Some(closed.why), wait: closed.until - now })?;
        if at > deadline {
            return Err(Problem::Closed { why: None, wait: at - now });
        }
        if at > now {
            tokio::time::sleep_until(at.into()).await;
        }
        histogram!(names::LIMITER_WAIT).record((at - now).as_secs_f64());
        let now = Instant::now();
        match self.state().gate.closed(now) {
            Some(closed) => Err(Problem::Closed { why: Some(closed.why), wait: closed.until - now }),
            None => Ok(()),
        }
    }

    /// Whether documents can be requested now.
    pub(crate) fn is_open(&self) -> bool {
        let (state, now) = (self.state(), Instant::now());
        names::paused(self.mode, state.gate.pause_reason(now));
        state.gate.closed(now).is_none()
    }

    /// Whether Digital River rejected the key.
    pub(crate) fn is_key_rejected(&self) -> bool {
        self.state().gate.pause_reason(Instant::now()) == Some(PauseReason::KeyRefused)
    }

    /// Starts a probe if one is due, and returns the resource to request.
    pub(crate) fn begin_probe(&self) -> Option<Endpoint> {
        self.state().gate.begin_probe(Instant::now())
    }

    /// A file whose content was downloaded before. If it cannot be downloaded now, the file is not the cause.
    pub(crate) fn good_file(&self) -> Option<FileId> {
        self.state().good_file
    }

    /// Stores a file whose content was downloaded.
    pub(crate) fn set_good_file(&self, file_id: FileId) {
        self.state().good_file = Some(file_id);
    }

    /// The spelling to try first: that of the file that was found last.
    pub(crate) fn spelling(&self) -> Spelling {
        self.state().spelling
    }

    /// Stores the spelling with which a file was found.
    pub(crate) fn set_spelling(&self, spelling: Spelling) {
        self.state().spelling = spelling;
    }

    /// Records the response to a request and returns the suspicion that follows, if any.
    pub(crate) fn record(&self, request: &FileRequest, problem: Option<&Problem>) -> Option<Suspicion> {
        self.change(|state, now| {
            // The rejection of an older key proves nothing about the current one.
            if request.key != state.key {
                return None;
            }
            if let Some(Problem::Throttled { wait }) = problem {
                // Two in a row for one document may concern only this document.
                if request.was_throttled {
                    return Some(Suspicion::Limit(*wait));
                }
                state.gate.throttle(now + *wait, now);
                return None;
            }
            let answer = problem.map_or(Answer::Works, Problem::answer);
            state.evidence.record(request.endpoint, request.file_id, answer, request.sent);
            if answer == Answer::Works {
                state.gate.record_success(request.endpoint, request.sent);
            }
            state.evidence.suspicion(request.endpoint, answer, request.sent)
        })
    }

    /// Waits until the suspicion can be checked. `None` if another worker has checked it meanwhile, or takes too long.
    pub(crate) async fn begin_check(
        &self,
        request: &FileRequest,
        problem: &Problem,
    ) -> Option<sync::MutexGuard<'_, ()>> {
        let turn = timeout(TURN_WAIT, self.checking.lock()).await.ok()?;
        let state = self.state();
        let is_open = state.gate.closed(Instant::now()).is_none();
        let is_suspected = match problem {
            Problem::Throttled { .. } => true,
            problem => state.evidence.suspicion(request.endpoint, problem.answer(), request.sent).is_some(),
        };
        (is_open && is_suspected && request.key == state.key).then_some(turn)
    }

    /// Applies the verdict of a request with `key` that was sent at `sent` because of a suspicion, or as a probe.
    pub(crate) fn conclude(
        &self,
        suspicion: Option<Suspicion>,
        verdict: Verdict,
        endpoint: Endpoint,
        key: &Key,
        sent: Instant,
    ) {
        self.change(|state, now| {
            if *key != state.key {
                return;
            }
            match (verdict, suspicion) {
                (Verdict::Works, _) => {
                    state.evidence.record_success(endpoint, sent);
                    state.gate.record_success(endpoint, sent);
                }
                (Verdict::Rejected, _) => state.gate.key_rejected(endpoint, now),
                (Verdict::Throttled(wait), _) => state.gate.throttle(now + wait, now),
                (Verdict::Failed, None | Some(Suspicion::Outage)) => state.gate.down(endpoint, now),
                // Without a result a wait is respected, but a key is not rejected.
                (Verdict::Failed, Some(Suspicion::Limit(wait))) => state.gate.throttle(now + wait, now),
                (Verdict::Failed, Some(Suspicion::Key)) => {}
            }
        });
    }

    /// Changes the state, and logs when the account is paused or resumed.
    fn change<T>(&self, change: impl FnOnce(&mut AccountState, Instant) -> T) -> T {
        let mut state = self.state();
        let now = Instant::now();
        let before = state.gate.pause_reason(now);
        let changed = change(&mut state, now);
        let after = state.gate.pause_reason(now);
        drop(state);
        if before != after {
            self.log_pause(after);
        }
        changed
    }

    fn log_pause(&self, trouble: Option<PauseReason>) {
        names::paused(self.mode, trouble);
        let mode = self.mode;
        match trouble {
            Some(PauseReason::KeyRefused) => tracing::error!(
                "Digital River rejects the API key for {mode} data: downloads are paused until it accepts a key; \
                 no document is lost"
            ),
            Some(PauseReason::Throttled) => tracing::warn!("Digital River asks for fewer requests for {mode} data"),
            Some(PauseReason::Down) => {
                tracing::warn!(
                    "Digital River is down for {mode} data: downloads are paused, and it is probed regularly"
                );
            }
            None => tracing::info!("downloads of {mode} documents resume"),
        }
    }

    fn state(&self) -> MutexGuard<'_, AccountState> {
        self.state.lock().expect("no code panics while it holds the lock")
    }
}

fn authorization(mode: Mode, config: &AccountConfig) -> Result<Key, ConfigError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", config.api_key.expose())).map_err(|_| {
        ConfigError::refused(
            format!("invoice_fetcher.{mode}.api_key"),
            "contains characters that are not allowed in a header",
        )
    })?;
    value.set_sensitive(true);
    Ok(Arc::new(value))
}
