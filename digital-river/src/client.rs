//! Client for Digital River's API: requests pass the key's rate limit and are repeated where [`repeat`] allows it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use metrics::{counter, histogram};
use reqwest::{Method, header::HeaderValue};
use riverlock_runtime::{
    Clock, ConfigError,
    backoff::{jittered, wait_after},
};
use riverlock_schemas::Mode;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use crate::{
    config::{AccountConfig, DigitalRiverConfig},
    failure::{Effect, Error, ErrorAnswer, Failure, Repeat, quote, repeat},
    http::{
        address::join,
        limiter::Limiter,
        retry_after,
        transport::{Network, authorization, describe, http_client, read_body, request_id, with_headers},
    },
    metrics as names,
};

/// How long a new key may take to work everywhere. Source: Digital River, "Rotating keys".
const KEY_PROPAGATION: TimeDelta = TimeDelta::minutes(10);

/// Wait after a 401 shortly after a key change.
const KEY_WAIT: Duration = Duration::from_secs(15);

/// Wait after a 429 without `Retry-After`.
const THROTTLED_WAIT: Duration = Duration::from_secs(2);

/// Priority of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// A user or a service waits for the answer.
    #[default]
    Foreground,
    /// A background job, which is limited to its share of the rate limit.
    Background,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    method: Method,
    /// The request's value of the label `operation`.
    operation: &'static str,
    path: &'a [&'a str],
    query: Vec<(&'static str, String)>,
    body: Option<&'a Value>,
    effect: Effect,
    priority: Priority,
}

impl<'a> Call<'a> {
    /// A `GET` request, which only reads. `operation` is the value of the metrics' label, `path` the segments after the
    /// base URL.
    #[must_use]
    pub fn get(operation: &'static str, path: &'a [&'a str]) -> Self {
        Self::new(Method::GET, operation, path, Effect::Read)
    }

    /// A `POST` request, which creates something: it is never repeated if it may have been executed.
    #[must_use]
    pub fn post(operation: &'static str, path: &'a [&'a str], body: &'a Value) -> Self {
        Self { body: Some(body), ..Self::new(Method::POST, operation, path, Effect::Once) }
    }

    /// A `PATCH` request, which sets fields to fixed values: repeating it is harmless.
    #[must_use]
    pub fn patch(operation: &'static str, path: &'a [&'a str], body: &'a Value) -> Self {
        Self { body: Some(body), ..Self::new(Method::PATCH, operation, path, Effect::Idempotent) }
    }

    /// A `DELETE` request: repeating it is harmless, but a repetition may be answered with 404.
    #[must_use]
    pub fn delete(operation: &'static str, path: &'a [&'a str]) -> Self {
        Self::new(Method::DELETE, operation, path, Effect::Idempotent)
    }

    fn new(method: Method, operation: &'static str, path: &'a [&'a str], effect: Effect) -> Self {
        Self { method, operation, path, query: Vec::new(), body: None, effect, priority: Priority::default() }
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Sets the priority.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }
}

/// A successful answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status, 2xx.
    pub status: u16,
    /// The unchanged body.
    pub body: Bytes,
    /// Digital River's `x-dr-requestid`.
    pub request_id: Option<String>,
    /// The `upstream-id` of the request.
    pub upstream_id: String,
    /// Number of attempts.
    pub attempts: u32,
}

/// The key of one mode.
struct Account {
    key: Mutex<Key>,
    version: Option<HeaderValue>,
}

/// The value of the `Authorization` header, the key's rate limit, and when the key was changed.
#[derive(Clone)]
struct Key {
    value: HeaderValue,
    limiter: Limiter,
    changed_at: Option<DateTime<Utc>>,
}

impl Key {
    fn new(config: &DigitalRiverConfig, mode: Mode, account: &AccountConfig) -> Result<Self, ConfigError> {
        let rate = account.requests_per_second(mode);
        let limiter = Limiter::shared(&config.api_base_url, account.api_key.expose(), rate, Instant::now());
        limiter.set_background_percent(config.background_percent);
        let value = authorization(&account.api_key, &format!("digital_river.{mode}.api_key"))?;
        Ok(Self { value, limiter, changed_at: account.key_changed_at })
    }
}

/// Client of Digital River's API with the configured accounts. Clones share all state.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    base: Url,
    accounts: BTreeMap<Mode, Account>,
    config: DigitalRiverConfig,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modes: Vec<&Mode> = self.0.accounts.keys().collect();
        f.debug_struct("Client").field("base", &self.0.base.as_str()).field("modes", &modes).finish_non_exhaustive()
    }
}

impl Client {
    /// Creates a client with the accounts of `config`, which must be valid.
    ///
    /// # Errors
    /// When no HTTP client can be created from the configuration.
    pub fn new(config: &DigitalRiverConfig, clock: Arc<dyn Clock>) -> Result<Self, ConfigError> {
        let http = http_client(&Network {
            base: &config.api_base_url,
            private_networks: &config.private_networks,
            section: "digital_river",
            proxy: config.proxy.as_ref(),
            connect_timeout: config.connect_timeout,
        })?;
        Self::over(http, config, clock)
    }

    /// Like [`Client::new`], with the caller's HTTP client.
    ///
    /// # Errors
    /// When a key contains characters that are not allowed in a header.
    pub fn over(
        http: reqwest::Client,
        config: &DigitalRiverConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let mut accounts = BTreeMap::new();
        for (mode, account) in config.accounts() {
            let key = Mutex::new(Key::new(config, mode, account)?);
            let version = account.api_version.as_deref().and_then(|version| HeaderValue::from_str(version).ok());
            accounts.insert(mode, Account { key, version });
        }
        let (base, config) = (config.api_base_url.clone(), config.clone());
        Ok(Self(Arc::new(Inner { http, base, accounts, config, clock })))
    }

    /// The modes that have an account.
    pub fn modes(&self) -> impl Iterator<Item = Mode> {
        self.0.accounts.keys().copied()
    }

    /// Replaces the key of a mode, and returns whether it differs. For the next ten minutes a 401 is repeated.
    ///
    /// # Errors
    /// When the key contains characters that are not allowed in a header, or the mode has no account.
    pub fn renew(&self, mode: Mode, account: &AccountConfig) -> Result<bool, ConfigError> {
        let new = Key::new(&self.0.config, mode, account)?;
        let known = self.0.accounts.get(&mode);
        let known = known
            .ok_or_else(|| ConfigError::refused(format!("digital_river.{mode}"), "has no account since the start"))?;
        let mut key = lock(&known.key);
        if key.value == new.value {
            return Ok(false);
        }
        *key = Key { changed_at: Some(self.0.clock.now()), ..new };
        Ok(true)
    }

    /// Sends a request, waits for the rate limit, and repeats it where that is allowed, until the configured deadline.
    ///
    /// # Errors
    /// When the last attempt failed; [`Error::repeat`] tells how it may be repeated.
    pub async fn send(&self, mode: Mode, call: &Call<'_>) -> Result<Answer, Error> {
        let deadline = Instant::now() + self.0.config.deadline;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut error = match self.attempt(mode, call, deadline).await {
                Ok(answer) => return Ok(Answer { attempts, ..answer }),
                Err(error) => error,
            };
            error.attempts = attempts;
            let wait = self.wait_after(mode, &error);
            let Some(wait) =
                wait.filter(|wait| attempts < self.0.config.attempts_max && Instant::now() + *wait < deadline)
            else {
                return Err(error);
            };
            tracing::debug!("{error}; retrying in {wait:?}");
            tokio::time::sleep(wait).await;
        }
    }

    /// The error for an answer that is JSON, but not of the expected form.
    #[must_use]
    pub fn unreadable(&self, mode: Mode, call: &Call<'_>, answer: &Answer, cause: impl Into<String>) -> Error {
        let failure = Failure::Unreadable(cause.into());
        Error {
            method: method_name(&call.method),
            path: join(&self.0.base, call.path).path().into(),
            mode,
            repeat: repeat(call.effect, &failure),
            failure,
            attempts: answer.attempts,
            request_id: answer.request_id.clone(),
            upstream_id: answer.upstream_id.clone(),
        }
    }

    /// The wait before a failed attempt is repeated; `None` if it is not repeated.
    fn wait_after(&self, mode: Mode, error: &Error) -> Option<Duration> {
        let config = &self.0.config;
        match error.repeat {
            Repeat::Never | Repeat::AfterReadBack => None,
            Repeat::AfterBackoff => Some(jittered(wait_after(error.attempts, &(config.wait_first..config.wait_max)))),
            Repeat::AfterPause => {
                let requested = match &error.failure {
                    Failure::Status(answer) => answer.retry_after,
                    _ => None,
                };
                let wait = requested.unwrap_or(THROTTLED_WAIT);
                lock(&self.0.accounts.get(&mode)?.key).limiter.pause(wait, Instant::now());
                // Jitter, so that requests that waited for the same pause are not all repeated at the same time.
                Some(wait + config.wait_first.mul_f64(fastrand::f64()))
            }
            Repeat::AfterKeyChange => {
                let changed_at = lock(&self.0.accounts.get(&mode)?.key).changed_at?;
                (self.0.clock.now() - changed_at < KEY_PROPAGATION).then_some(KEY_WAIT.min(config.wait_max))
            }
        }
    }

    async fn attempt(&self, mode: Mode, call: &Call<'_>, deadline: Instant) -> Result<Answer, Error> {
        let url = join(&self.0.base, call.path);
        let upstream_id = Uuid::new_v4().to_string();
        let started = Instant::now();
        let (status, request_id, outcome) = match self.admit(mode, call.priority, deadline).await {
            Err(failure) => (None, None, Err(failure)),
            Ok(account) => self.exchange(account, &url, call, &upstream_id).await,
        };
        let result = label(&outcome);
        counter!(names::REQUESTS, "mode" => mode.as_str(), "operation" => call.operation, "result" => result)
            .increment(1);
        histogram!(names::DURATION, "operation" => call.operation).record(started.elapsed().as_secs_f64());
        tracing::info!(
            target: "crate::requests",
            %mode, method = %call.method, path = url.path(), status, result, upstream_id, dr_request_id = request_id,
            milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "{} {}", call.method, url.path()
        );
        match outcome {
            Ok(body) => Ok(Answer { status: status.unwrap_or(200), body, request_id, upstream_id, attempts: 1 }),
            Err(failure) => Err(Error {
                method: method_name(&call.method),
                path: url.path().into(),
                mode,
                repeat: repeat(call.effect, &failure),
                failure,
                attempts: 1,
                request_id,
                upstream_id,
            }),
        }
    }

    /// Waits for a slot of the rate limit.
    async fn admit(&self, mode: Mode, priority: Priority, deadline: Instant) -> Result<&Account, Failure> {
        let account = self.0.accounts.get(&mode);
        let account =
            account.ok_or_else(|| Failure::NotConnected(format!("no API key for {mode} data is configured")))?;
        let limiter = lock(&account.key).limiter.clone();
        if priority == Priority::Background {
            let at = limiter.take_share(Instant::now(), deadline).map_err(|_| Failure::NoSlot)?;
            tokio::time::sleep_until(at.into()).await;
        }
        loop {
            let at = limiter.take(Instant::now(), deadline).map_err(|_| Failure::NoSlot)?;
            tokio::time::sleep_until(at.into()).await;
            // A pause may have begun in the meantime.
            if limiter.paused_until(Instant::now()).is_none() {
                return Ok(account);
            }
        }
    }

    /// Sends one request. Returns the status and the request id, if received, and the body or the failure.
    async fn exchange(
        &self,
        account: &Account,
        url: &Url,
        call: &Call<'_>,
        upstream_id: &str,
    ) -> (Option<u16>, Option<String>, Result<Bytes, Failure>) {
        let config = &self.0.config;
        let until = (Instant::now() + config.answer_timeout).into();
        let mut url = url.clone();
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let request = self.0.http.request(call.method.clone(), url);
        let key = lock(&account.key).value.clone();
        let mut request = with_headers(request, key, "application/json", upstream_id);
        if let Some(version) = &account.version {
            request = request.header("DigitalRiver-Version", version);
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        let response = match tokio::time::timeout_at(until, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_connect() || error.is_builder() => {
                return (None, None, Err(Failure::NotConnected(describe(error))));
            }
            Ok(Err(error)) => return (None, None, Err(Failure::Lost(describe(error)))),
            Err(_) => return (None, None, Err(Failure::Lost(format!("nothing within {:?}", config.answer_timeout)))),
        };
        let status = response.status();
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let request_id = request_id(&response);
        let now = self.0.clock.now();
        let retry_after = text("retry-after").and_then(|value| retry_after::parse(value, now, config.retry_after_max));
        let body = tokio::time::timeout_at(until, read_body(response, config.body_bytes_max)).await;
        let body = match body {
            Ok(body) => body,
            Err(_) => Err(format!("the body did not end within {:?}", config.answer_timeout)),
        };
        let outcome = if status.is_success() {
            body.map_err(Failure::Lost).and_then(check_json)
        } else {
            // The status alone decides what to do; the text is informative.
            let answer = ErrorAnswer::read(status.as_u16(), &body.unwrap_or_default());
            Err(Failure::Status(Box::new(ErrorAnswer { retry_after, ..answer })))
        };
        (Some(status.as_u16()), request_id, outcome)
    }
}

/// Rejects a successful answer that is not JSON, for example a proxy's page. A deletion is answered with an empty body.
fn check_json(body: Bytes) -> Result<Bytes, Failure> {
    if body.is_empty() {
        return Ok(body);
    }
    match serde_json::from_slice::<&serde_json::value::RawValue>(&body) {
        Ok(_) => Ok(body),
        Err(error) => {
            let start = String::from_utf8_lossy(&body[..body.len().min(80)]);
            Err(Failure::Unreadable(format!("{error}: {}", quote(&start))))
        }
    }
}

/// The value of the label `result` for an outcome.
fn label(outcome: &Result<Bytes, Failure>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(Failure::Status(answer)) => match answer.status {
            401 | 403 => "unauthorized",
            429 => "throttled",
            500..=599 => "server_error",
            _ => "refused",
        },
        Err(_) => "no_answer",
    }
}

fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "POST",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "GET",
    }
}

/// Locks and ignores poisoning: no holder leaves inconsistent data behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
