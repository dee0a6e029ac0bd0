//! An account with Digital River: its key, the gate that every request with it passes, and what answers say about it.

pub(crate) mod accounts;
pub(crate) mod check;
pub(crate) mod evidence;
pub(crate) mod gate;
pub mod keys;

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
    },
    client::address::Spelling,
    config::AccountConfig,
    metrics as names,
    problem::Problem,
};

/// How long an attempt waits for its turn to check a suspicion. With the check itself it must end well before its lease does.
const TURN_WAIT: Duration = Duration::from_secs(4);

/// The value of the `Authorization` header.
pub(crate) type Key = Arc<HeaderValue>;

/// One mode's key and gate, shared by all workers.
pub(crate) struct Account {
    mode: Mode,
    state: Mutex<AccountState>,
    /// Held while one worker finds out whether something is wrong for all documents.
    checking: sync::Mutex<()>,
    /// Whether the queue has to be looked through for this key; see [`Account::begin_preparing`].
    is_unprepared: AtomicBool,
}

struct AccountState {
    key: Key,
    gate: Gate,
    evidence: Evidence,
    /// The file whose content was fetched last.
    good_file: Option<FileId>,
    /// How the id of the file was written that was found last.
    spelling: Spelling,
}

/// A request about a document.
#[derive(Clone, Debug)]
pub(crate) struct FileRequest {
    pub(crate) file_id: FileId,
    pub(crate) endpoint: Endpoint,
    /// Whether the document's last attempt was answered 429, too.
    pub(crate) was_throttled: bool,
    pub(crate) key: Key,
    pub(crate) sent: Instant,
}

/// What a request has shown that has nothing to do with the documents that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Digital River answers, and takes the key.
    Works,
    /// Digital River refuses the key.
    Refused,
    /// Digital River wants nothing for this long.
    Throttled(Duration),
    /// Digital River did not answer, or is in trouble.
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

    /// Whose data the key is for.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// The key that is in use.
    pub(crate) fn key(&self) -> Key {
        Arc::clone(&self.state().key)
    }

    /// Takes another key, and says whether it is another one. A pause that the old key was to blame for ends.
    pub(crate) fn renew(&self, config: &AccountConfig) -> Result<bool, ConfigError> {
        let key = authorization(self.mode, config)?;
        let mut state = self.state();
        state.gate.set_rate(config.requests_per_second(self.mode));
        if state.key == key {
            return Ok(false);
        }
        state.key = key;
        state.evidence = Evidence::default();
        state.gate.forgive_key();
        names::paused(self.mode, state.gate.trouble(Instant::now()));
        drop(state);
        self.preparing_failed();
        Ok(true)
    }

    /// Whether what the queue knows has to be looked up for this key before documents are leased: a file that could be
    /// fetched before, and documents that another key could not fetch. Asked once for every key, unless that fails.
    pub(crate) fn begin_preparing(&self) -> bool {
        self.is_unprepared.swap(false, Ordering::Relaxed)
    }

    /// The queue could not be asked: it has to be asked again.
    pub(crate) fn preparing_failed(&self) {
        self.is_unprepared.store(true, Ordering::Relaxed);
    }

    /// Waits for a place for one request.
    ///
    /// # Errors
    /// When the gate is closed, or has no place before the deadline. Then nothing may be asked.
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

    /// Whether documents may be asked for now.
    pub(crate) fn is_open(&self) -> bool {
        let (state, now) = (self.state(), Instant::now());
        names::paused(self.mode, state.gate.trouble(now));
        state.gate.closed(now).is_none()
    }

    /// Whether Digital River refuses the key, as far as is known.
    pub(crate) fn is_key_refused(&self) -> bool {
        self.state().gate.trouble(Instant::now()) == Some(PauseReason::KeyRefused)
    }

    /// Takes the turn to look whether a trouble is over, if somebody should look now. Says at what to look.
    pub(crate) fn begin_probe(&self) -> Option<Endpoint> {
        self.state().gate.begin_probe(Instant::now())
    }

    /// A file whose content could be fetched before: if it cannot be now, the file is not to blame.
    pub(crate) fn good_file(&self) -> Option<FileId> {
        self.state().good_file
    }

    /// Remembers a file whose content could be fetched.
    pub(crate) fn set_good_file(&self, file_id: FileId) {
        self.state().good_file = Some(file_id);
    }

    /// How ids are written at first: as that of the file that was found last.
    pub(crate) fn spelling(&self) -> Spelling {
        self.state().spelling
    }

    /// Remembers how the id of a file was written that was found.
    pub(crate) fn set_spelling(&self, spelling: Spelling) {
        self.state().spelling = spelling;
    }

    /// Learns from the answer to a request, and says what it leads to suspect.
    pub(crate) fn learn(&self, asked: &FileRequest, problem: Option<&Problem>) -> Option<Suspicion> {
        self.change(|state, now| {
            // What an older key is refused says nothing about the one in use.
            if asked.key != state.key {
                return None;
            }
            if let Some(Problem::Throttled { wait }) = problem {
                // Twice in a row for one document may be about this document alone.
                if asked.was_throttled {
                    return Some(Suspicion::Limit(*wait));
                }
                state.gate.throttle(now + *wait, now);
                return None;
            }
            let answer = problem.map_or(Answer::Works, Problem::answer);
            state.evidence.learn(asked.endpoint, asked.file_id, answer, asked.sent);
            if answer == Answer::Works {
                state.gate.works(asked.endpoint, asked.sent);
            }
            state.evidence.suspicion(asked.endpoint, answer, asked.sent)
        })
    }

    /// Waits for the turn to find out whether a suspicion is right. `None` when another worker has found out meanwhile, or
    /// takes too long.
    pub(crate) async fn begin_check(&self, asked: &FileRequest, problem: &Problem) -> Option<sync::MutexGuard<'_, ()>> {
        let turn = timeout(TURN_WAIT, self.checking.lock()).await.ok()?;
        let state = self.state();
        let is_open = state.gate.closed(Instant::now()).is_none();
        let is_suspected = match problem {
            Problem::Throttled { .. } => true,
            problem => state.evidence.suspicion(asked.endpoint, problem.answer(), asked.sent).is_some(),
        };
        (is_open && is_suspected && asked.key == state.key).then_some(turn)
    }

    /// Takes the verdict of a request with `key` that was sent at a time because of a suspicion, or as a probe without one.
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
                    state.evidence.works(endpoint, sent);
                    state.gate.works(endpoint, sent);
                }
                (Verdict::Refused, _) => state.gate.refuse_key(endpoint, now),
                (Verdict::Throttled(wait), _) => state.gate.throttle(now + wait, now),
                (Verdict::Failed, None | Some(Suspicion::Outage)) => state.gate.down(endpoint, now),
                // Nothing was found out: a limit is kept, a key is not condemned.
                (Verdict::Failed, Some(Suspicion::Limit(wait))) => state.gate.throttle(now + wait, now),
                (Verdict::Failed, Some(Suspicion::Key)) => {}
            }
        });
    }

    /// Changes the state, and tells when that opens or closes the gate.
    fn change<T>(&self, change: impl FnOnce(&mut AccountState, Instant) -> T) -> T {
        let mut state = self.state();
        let now = Instant::now();
        let before = state.gate.trouble(now);
        let changed = change(&mut state, now);
        let after = state.gate.trouble(now);
        drop(state);
        if before != after {
            self.tell(after);
        }
        changed
    }

    fn tell(&self, trouble: Option<PauseReason>) {
        names::paused(self.mode, trouble);
        let mode = self.mode;
        match trouble {
            Some(PauseReason::KeyRefused) => tracing::error!(
                "Digital River refuses the API key for {mode} data: nothing is fetched until it accepts one again, and \
                 nothing is lost meanwhile"
            ),
            Some(PauseReason::Throttled) => tracing::warn!("Digital River asks for fewer requests for {mode} data"),
            Some(PauseReason::Down) => {
                tracing::warn!("Digital River is down for {mode} data; it is asked now and then");
            }
            None => tracing::info!("documents with {mode} data are fetched again"),
        }
    }

    fn state(&self) -> MutexGuard<'_, AccountState> {
        self.state.lock().expect("no code panics while it holds the state")
    }
}

fn authorization(mode: Mode, config: &AccountConfig) -> Result<Key, ConfigError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", config.api_key.expose()))
        .map_err(|_| ConfigError::refused(format!("invoice_fetcher.{mode}.api_key"), "does not fit into a header"))?;
    value.set_sensitive(true);
    Ok(Arc::new(value))
}
