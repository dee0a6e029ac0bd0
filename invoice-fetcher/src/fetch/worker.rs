//! Leases due documents and downloads them concurrently.
//!
//! One loop leases documents, and every leased document has a task. A problem of a document ends neither: its result is stored.
//! While PostgreSQL is unavailable, the loop waits; a task retries storing its result until its lease ends. Then the document
//! is due again, and is found in the archive.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::{counter, histogram};
use riverlock_ledger::{Error, PostgresConfig};
use riverlock_runtime::{Component, ConfigError, Context, api::Tokens};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

use crate::{
    InvoiceFetcherConfig,
    account::{Account, accounts::Accounts},
    archive::Archive,
    client::download::Client,
    fetch::plan::{History, NextStep, plan},
    metrics as names,
    problem::Problem,
    queue::{Document, End, LeaseRoom, LeasedDocument, Queue, WriteResult, database::Database},
};

/// Maximum number of documents that one statement leases.
const LEASED_AT_ONCE_MAX: usize = 64;

/// Average interval between queries of the queue when no document is due.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Wait after an error of PostgreSQL.
const DATABASE_WAIT: Duration = Duration::from_secs(1);

/// How long downloads can continue after shutdown has begun. The others become due again.
const STOP_WAIT: Duration = Duration::from_secs(15);

/// Added to the lease for the maximum time between heartbeats of the loop.
const BEAT_MARGIN: Duration = Duration::from_secs(60);

/// Downloads documents; shared by all tasks.
pub(crate) struct Fetcher {
    pub(crate) config: InvoiceFetcherConfig,
    pub(crate) accounts: Accounts,
    pub(crate) client: Client,
    pub(crate) archive: Archive,
    queue: Queue,
    context: Context,
    component: Component,
    /// Number of leases so far. The accounts are served in turns.
    turns: AtomicUsize,
    /// Documents in progress that were attempted before.
    repeated: AtomicUsize,
    /// Whether missing permissions on the archive were logged.
    pub(crate) logged_denied: AtomicBool,
    /// The API's tokens, if the API is configured.
    tokens: Option<Tokens>,
    /// Changed settings that need a restart, as last logged.
    outdated: Mutex<Vec<String>>,
}

impl Fetcher {
    pub(crate) fn new(
        config: InvoiceFetcherConfig,
        postgres: &PostgresConfig,
        context: Context,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        names::describe();
        Ok(Self {
            accounts: Accounts::new(&config)?,
            client: Client::new(&config, Arc::clone(&context.clock))?,
            archive: Archive::open(&config)?,
            queue: Queue::new(Database::new(postgres)),
            component: context.health.register_beating("invoice-downloads", config.lease + BEAT_MARGIN),
            turns: AtomicUsize::default(),
            repeated: AtomicUsize::default(),
            logged_denied: AtomicBool::default(),
            tokens: config.api.as_ref().map(Tokens::new),
            outdated: Mutex::default(),
            context,
            config,
        })
    }

    /// The queue.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The API's tokens, if the API is configured.
    pub(crate) fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    /// Applies the reloadable settings of another configuration: accounts with their keys and rates, and the API's tokens. Logs
    /// other changed settings, which need a restart.
    ///
    /// # Errors
    /// When a key is invalid.
    pub(crate) fn reload(&self, config: &InvoiceFetcherConfig) -> Result<(), ConfigError> {
        self.accounts.take(config)?;
        if let (Some(tokens), Some(api)) = (&self.tokens, &config.api)
            && tokens.replace(api)
        {
            tracing::info!("the invoice API uses the new token");
        }
        let outdated = self.config.outdated_by(config);
        let mut logged = self.outdated.lock().unwrap_or_else(PoisonError::into_inner);
        if *logged != outdated {
            if !outdated.is_empty() {
                tracing::warn!("changed settings that need a restart: {}", outdated.join(", "));
            }
            *logged = outdated;
        }
        Ok(())
    }

    /// Starts probes of paused accounts that are due.
    fn probe(self: &Arc<Self>) {
        for account in self.accounts.all() {
            if let Some(endpoint) = account.begin_probe() {
                let this = Arc::clone(self);
                drop(self.context.shutdown.spawn_work(async move { this.client.probe(&account, endpoint).await }));
            }
        }
    }

    /// Downloads documents until shutdown.
    pub(crate) async fn run(self: Arc<Self>) -> Result<(), Infallible> {
        let permits = Arc::new(Semaphore::new(self.config.workers));
        let soft = self.context.shutdown.soft();
        while !soft.is_cancelled() {
            self.component.beat();
            self.probe();
            let first = tokio::select! {
                Ok(permit) = Arc::clone(&permits).acquire_owned() => permit,
                () = sleep(POLL_INTERVAL) => continue,
                () = soft.cancelled() => break,
            };
            let others = std::iter::from_fn(|| Arc::clone(&permits).try_acquire_owned().ok());
            let free: Vec<_> = std::iter::once(first).chain(others).take(LEASED_AT_ONCE_MAX).collect();
            let wait = match self.lease(free.len()).await {
                Ok(leased) => {
                    self.component.ready();
                    let wait = leased.is_empty().then_some(POLL_INTERVAL);
                    for (leased, permit) in leased.into_iter().zip(free) {
                        self.spawn(leased, permit);
                    }
                    wait
                }
                Err(error) => {
                    self.component.not_ready(error.to_string());
                    Some(DATABASE_WAIT)
                }
            };
            if let Some(wait) = wait {
                tokio::select! {
                    () = sleep(wait.mul_f64(0.9 + 0.2 * fastrand::f64())) => {}
                    () = soft.cancelled() => {}
                }
            }
        }
        Ok(())
    }

    /// Starts a task that downloads a document.
    fn spawn(self: &Arc<Self>, leased: LeasedDocument, permit: OwnedSemaphorePermit) {
        let this = Arc::clone(self);
        let repeated = usize::from(leased.is_repeated());
        this.repeated.fetch_add(repeated, Ordering::Relaxed);
        drop(self.context.shutdown.spawn_work(async move {
            this.work(&leased).await;
            this.repeated.fetch_sub(repeated, Ordering::Relaxed);
            drop(permit);
        }));
    }

    /// Leases up to `limit` documents that can be downloaded now.
    ///
    /// Documents that were attempted before get at most half of the workers, so that documents that fail slowly do not delay
    /// the others.
    pub(crate) async fn lease(&self, limit: usize) -> Result<Vec<LeasedDocument>, Error> {
        let mut accounts = self.accounts.all();
        if self.turns.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
            accounts.reverse();
        }
        let mut repeated = (self.config.workers / 2).max(1).saturating_sub(self.repeated.load(Ordering::Relaxed));
        let mut leased = Vec::new();
        for account in accounts {
            let room = LeaseRoom { documents: limit - leased.len(), repeated };
            if room.documents > 0 && account.is_open() {
                self.prepare(&account).await?;
                let more = self.queue.lease(account.mode(), room, self.config.lease).await?;
                repeated = repeated.saturating_sub(more.iter().filter(|leased| leased.is_repeated()).count());
                leased.extend(more);
            }
        }
        Ok(leased)
    }

    /// Prepares the queue for an account's key, once per key.
    async fn prepare(&self, account: &Account) -> Result<(), Error> {
        if !account.begin_preparing() {
            return Ok(());
        }
        let mode = account.mode();
        let prepared = async {
            if account.good_file().is_none()
                && let Some(file_id) = self.queue.good_file(mode).await?
            {
                account.set_good_file(file_id);
            }
            self.queue.wake_rejected(mode).await
        };
        match prepared.await {
            Ok(0) => Ok(()),
            Ok(woken) => {
                tracing::info!("{woken} {mode} documents that the previous key could not download are due again");
                Ok(())
            }
            Err(error) => {
                account.preparation_failed();
                Err(error)
            }
        }
    }

    /// Executes one attempt and stores its result.
    pub(crate) async fn work(&self, leased: &LeasedDocument) {
        let started = Instant::now();
        let deadline = started + self.config.attempt_deadline;
        // Dropping an attempt is safe, because it holds no database transaction.
        let result = tokio::select! {
            biased;
            result = Box::pin(self.attempt(leased, deadline)) => result,
            () = self.time_to_stop() => Err(Problem::Stopping),
        };
        histogram!(names::ATTEMPT_SECONDS).record(started.elapsed().as_secs_f64());
        let reason = result.as_ref().map_or_else(Problem::reason, |_| "");
        let end = self.decide(leased, result, started.elapsed());
        if self.store_result(leased, &end, started + self.config.lease).await == Some(WriteResult::Yes) {
            count(&end, reason);
        }
    }

    /// Completes when downloads must stop: [`STOP_WAIT`] after shutdown has begun, or at once after a second signal.
    async fn time_to_stop(&self) {
        self.context.shutdown.soft().cancelled().await;
        tokio::select! {
            () = sleep(STOP_WAIT) => {}
            () = self.context.shutdown.hard().cancelled() => {}
        }
    }

    /// Decides about the document after an attempt.
    fn decide(&self, leased: &LeasedDocument, result: Result<Document, Problem>, took: Duration) -> End {
        let problem = match result {
            Ok(document) => {
                tracing::debug!(file.id = %leased.file_id, size_bytes = document.size_bytes, "stored file {}", leased.file_id);
                return End::Stored(document);
            }
            Err(problem) => problem,
        };
        let error = format!("{}: {problem}", problem.reason());
        let history = History { attempts: leased.attempts, age: leased.age.saturating_add(took) };
        let (file_id, order_id) = (leased.file_id, leased.order_id.as_str());
        match plan(&problem, history, &self.config.retry, fastrand::f64()) {
            NextStep::RetryAfter { wait, attempts } => {
                tracing::info!(
                    file.id = %file_id, order.id = order_id, attempts,
                    "file {file_id} is retried in {:.1} s: {problem}", wait.as_secs_f64()
                );
                End::RetryAfter { wait, attempts, error }
            }
            NextStep::Discard => {
                tracing::error!(
                    file.id = %file_id, order.id = order_id, attempts = leased.attempts, "file {file_id} is discarded: {problem}"
                );
                End::Discarded { error }
            }
        }
    }

    /// Stores the result of an attempt, retrying until the lease ends. `None` if that failed.
    async fn store_result(&self, leased: &LeasedDocument, end: &End, lease_end: Instant) -> Option<WriteResult> {
        let hard = self.context.shutdown.hard();
        loop {
            let error = match self.queue.end(leased, end, self.context.clock.now()).await {
                Ok(written) => {
                    if written == WriteResult::LeaseLost {
                        counter!(names::LEASES_LOST).increment(1);
                        tracing::warn!(file.id = %leased.file_id, "lost the lease of file {}", leased.file_id);
                    }
                    return Some(written);
                }
                Err(error) => error,
            };
            tracing::warn!(file.id = %leased.file_id, %error, "the result of an attempt could not be stored: {error}");
            if hard.is_cancelled() || Instant::now() + DATABASE_WAIT >= lease_end {
                return None;
            }
            tokio::select! {
                () = sleep(DATABASE_WAIT) => {}
                () = hard.cancelled() => {}
            }
        }
    }
}

fn count(end: &End, reason: &'static str) {
    let outcome = match end {
        End::Stored(document) => {
            counter!(names::STORED_BYTES).increment(document.size_bytes);
            names::STORED
        }
        End::RetryAfter { .. } => names::RETRY,
        End::Discarded { .. } => names::DISCARDED,
    };
    counter!(names::ATTEMPTS, "outcome" => outcome, "reason" => reason).increment(1);
}
