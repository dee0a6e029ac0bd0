//! An account at Digital River: its key, the key's rate limit, its pause, and the evidence that it fails.

pub(crate) mod accounts;
pub(crate) mod evidence;
pub(crate) mod pause;
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
use riverlock_digital_river::http::{limiter::Limiter, transport};
use riverlock_runtime::ConfigError;
use riverlock_schemas::{FileId, Mode};
use tokio::{sync, time::timeout};
use url::Url;

use crate::{
    account::{
        evidence::{Answer, Endpoint, Evidence, Suspicion},
        pause::{PauseReason, PauseState},
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

/// One mode's key with its rate limit and pause, shared by all workers.
pub(crate) struct Account {
    mode: Mode,
    /// The address to which the key is sent.
    base: Url,
    state: Mutex<AccountState>,
    /// Held while one worker checks the account.
    checking: sync::Mutex<()>,
    /// Whether the queue must be prepared for this key; see [`Account::begin_preparing`].
    is_unprepared: AtomicBool,
}

struct AccountState {
    key: Key,
    /// The rate limit of the key.
    limiter: Limiter,
    /// The configured rate, which `limiter` may share with users that configure a lower one.
    requests_per_second: u32,
    pause: PauseState,
    evidence: Evidence,
    /// The file whose content was downloaded last.
    good_file: Option<FileId>,
    /// The spelling of the id with which a file was found last.
    spelling: Spelling,
}

impl AccountState {
    /// Pauses this account, and all other users of the key.
    fn throttle(&mut self, wait: Duration, now: Instant) {
        self.pause.throttle(now + wait, now);
        self.limiter.pause(wait, now);
    }
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
    pub(crate) fn new(mode: Mode, base: &Url, config: &AccountConfig) -> Result<Self, ConfigError> {
        let requests_per_second = config.requests_per_second(mode);
        let state = AccountState {
            key: authorization(mode, config)?,
            limiter: Limiter::shared(base, config.api_key.expose(), requests_per_second, Instant::now()),
            requests_per_second,
            pause: PauseState::default(),
            evidence: Evidence::default(),
            good_file: None,
            spelling: Spelling::default(),
        };
        Ok(Self {
            mode,
            base: base.clone(),
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
        let requests_per_second = config.requests_per_second(self.mode);
        let mut state = self.state();
        if state.requests_per_second != requests_per_second {
            state.requests_per_second = requests_per_second;
            state.limiter.set_rate(requests_per_second);
        }
        if state.key == key {
            return Ok(false);
        }
        state.key = key;
        state.limiter = Limiter::shared(&self.base, config.api_key.expose(), requests_per_second, Instant::now());
        state.evidence = Evidence::default();
        state.pause.key_replaced();
        names::paused(self.mode, state.pause.pause_reason(Instant::now()));
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
        let limiter = self.check_open()?;
        let now = Instant::now();
        let at = limiter.take(now, deadline).map_err(|at| Problem::Closed { why: None, wait: at - now })?;
        if at > now {
            tokio::time::sleep_until(at.into()).await;
        }
        histogram!(names::LIMITER_WAIT).record((at - now).as_secs_f64());
        self.check_open().map(drop)
    }

    /// The rate limit of the key, unless this account is paused or another user of the key was asked to wait.
    fn check_open(&self) -> Result<Limiter, Problem> {
        let (state, now) = (self.state(), Instant::now());
        if let Some(pause) = state.pause.current(now) {
            return Err(Problem::Closed { why: Some(pause.why), wait: pause.until - now });
        }
        match state.limiter.paused_until(now) {
            Some(until) => Err(Problem::Closed { why: Some(PauseReason::Throttled), wait: until - now }),
            None => Ok(state.limiter.clone()),
        }
    }

    /// Whether documents can be requested now.
    pub(crate) fn is_open(&self) -> bool {
        let (state, now) = (self.state(), Instant::now());
        names::paused(self.mode, state.pause.pause_reason(now));
        state.pause.current(now).is_none()
    }

    /// Whether Digital River rejected the key.
    pub(crate) fn is_key_rejected(&self) -> bool {
        self.state().pause.pause_reason(Instant::now()) == Some(PauseReason::KeyRefused)
    }

    /// Starts a probe if one is due, and returns the resource to request.
    pub(crate) fn begin_probe(&self) -> Option<Endpoint> {
        self.state().pause.begin_probe(Instant::now())
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
                state.throttle(*wait, now);
                return None;
            }
            let answer = problem.map_or(Answer::Works, Problem::answer);
            state.evidence.record(request.endpoint, request.file_id, answer, request.sent);
            if answer == Answer::Works {
                state.pause.record_success(request.endpoint, request.sent);
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
        let is_open = state.pause.current(Instant::now()).is_none();
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
                    state.pause.record_success(endpoint, sent);
                }
                (Verdict::Rejected, _) => state.pause.key_rejected(endpoint, now),
                (Verdict::Throttled(wait), _) => state.throttle(wait, now),
                (Verdict::Failed, None | Some(Suspicion::Outage)) => state.pause.down(endpoint, now),
                // Without a result a wait is respected, but a key is not rejected.
                (Verdict::Failed, Some(Suspicion::Limit(wait))) => state.throttle(wait, now),
                (Verdict::Failed, Some(Suspicion::Key)) => {}
            }
        });
    }

    /// Changes the state, and logs when the account is paused or resumed.
    fn change<T>(&self, change: impl FnOnce(&mut AccountState, Instant) -> T) -> T {
        let mut state = self.state();
        let now = Instant::now();
        let before = state.pause.pause_reason(now);
        let changed = change(&mut state, now);
        let after = state.pause.pause_reason(now);
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
    transport::authorization(&config.api_key, &format!("invoice_fetcher.{mode}.api_key")).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use riverlock_runtime::Secret;
    use uuid::Uuid;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn an_account_shares_the_limit_and_the_pauses_of_its_key_with_the_other_users_of_the_key() {
        let (base, now) = (Url::parse("https://api.example").unwrap(), Instant::now());
        let config = AccountConfig { api_key: Secret::new("shared"), requests_per_second: Some(10) };
        let account = Account::new(Mode::Test, &base, &config).unwrap();
        let other = Limiter::shared(&base, "shared", 10, now);
        while other.take(now, now + 60 * SECOND).is_ok() {}
        let full = account.admit(now + SECOND).await;
        assert!(matches!(full, Err(Problem::Closed { why: None, wait }) if wait > 50 * SECOND), "{full:?}");

        let request = FileRequest {
            file_id: FileId::from(Uuid::nil()),
            endpoint: Endpoint::Content,
            was_throttled: false,
            key: account.key(),
            sent: now,
        };
        account.record(&request, Some(&Problem::Throttled { wait: 90 * SECOND }));
        assert!(other.paused_until(now + 89 * SECOND).is_some(), "the other users wait, too");

        let new = AccountConfig { api_key: Secret::new("another"), ..config };
        account.replace_key(&new).unwrap();
        let own = Limiter::shared(&base, "another", 10, now);
        own.pause(30 * SECOND, Instant::now());
        let paused = account.check_open().map(drop);
        assert!(matches!(paused, Err(Problem::Closed { why: Some(PauseReason::Throttled), .. })), "{paused:?}");
    }
}
