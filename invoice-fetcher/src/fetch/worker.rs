//! Leases due documents and fetches them, as many at a time as there are workers.
//!
//! One loop leases, every leased document has a task. Nothing that goes wrong with a document ends either: it is planned and
//! written down. When PostgreSQL is away, the loop waits; a task repeats the writing until its lease ends, and then the
//! document is simply due again, and is found stored.

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

/// Most documents that are leased at once.
const LEASED_AT_ONCE_MAX: usize = 64;

/// How often the queue is looked at when nothing is due, about.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// How long to wait before PostgreSQL is asked again after an error.
const DATABASE_WAIT: Duration = Duration::from_secs(1);

/// How long downloads may go on after the process was asked to end. What is not done by then is given back.
const STOP_WAIT: Duration = Duration::from_secs(15);

/// How much longer than a lease the loop may stand still before the process counts as stuck.
const BEAT_MARGIN: Duration = Duration::from_secs(60);

/// Everything that fetching needs.
pub(crate) struct Fetcher {
    pub(crate) config: InvoiceFetcherConfig,
    pub(crate) accounts: Accounts,
    pub(crate) client: Client,
    pub(crate) archive: Archive,
    queue: Queue,
    context: Context,
    component: Component,
    /// How often documents were leased: the accounts take turns.
    turns: AtomicUsize,
    /// Documents that are being fetched now and have been attempted before.
    repeated: AtomicUsize,
    /// Whether it was told that the archive cannot be looked at.
    pub(crate) told_denied: AtomicBool,
    /// What the API admits, if there is one.
    tokens: Option<Tokens>,
    /// Settings that differ in the configuration by now and take a restart, as they were told last.
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
            told_denied: AtomicBool::default(),
            tokens: config.api.as_ref().map(Tokens::new),
            outdated: Mutex::default(),
            context,
            config,
        })
    }

    /// The queue, for whoever watches it.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// What the API admits, if there is one.
    pub(crate) fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }

    /// Takes what can be taken of another configuration while the process runs: accounts, with their keys and rates, and the
    /// API's tokens. Tells which other settings have changed: they take a restart.
    ///
    /// # Errors
    /// When a key does not fit.
    pub(crate) fn reload(&self, config: &InvoiceFetcherConfig) -> Result<(), ConfigError> {
        self.accounts.take(config)?;
        if let (Some(tokens), Some(api)) = (&self.tokens, &config.api)
            && tokens.replace(api)
        {
            tracing::info!("the new token of the API for documents is in use");
        }
        let outdated = self.config.outdated_by(config);
        let mut told = self.outdated.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != outdated {
            if !outdated.is_empty() {
                tracing::warn!("the configuration has changed in what takes a restart: {}", outdated.join(", "));
            }
            *told = outdated;
        }
        Ok(())
    }

    /// Looks whether troubles are over that have closed an account's gate, where it is time for that.
    fn probe(self: &Arc<Self>) {
        for account in self.accounts.all() {
            if let Some(endpoint) = account.begin_probe() {
                let this = Arc::clone(self);
                drop(self.context.shutdown.spawn_work(async move { this.client.probe(&account, endpoint).await }));
            }
        }
    }

    /// Fetches until the shutdown.
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

    /// Fetches a document in a task of its own.
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

    /// Leases up to `limit` documents that may be fetched now.
    ///
    /// Documents that have been attempted before get half of the workers at most: those that fail slowly, again and again,
    /// must not hold up the others.
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

    /// Looks up what the queue knows for an account's key, once.
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
            self.queue.wake_refused(mode).await
        };
        match prepared.await {
            Ok(0) => Ok(()),
            Ok(woken) => {
                tracing::info!("{woken} documents with {mode} data that could not be fetched before are tried again");
                Ok(())
            }
            Err(error) => {
                account.preparing_failed();
                Err(error)
            }
        }
    }

    /// One attempt, from the lease to its end.
    pub(crate) async fn work(&self, leased: &LeasedDocument) {
        let started = Instant::now();
        let deadline = started + self.config.attempt_deadline;
        // Dropping an attempt is safe: nothing in it is a database's transaction.
        let result = tokio::select! {
            biased;
            result = Box::pin(self.attempt(leased, deadline)) => result,
            () = self.time_to_stop() => Err(Problem::Stopping),
        };
        histogram!(names::ATTEMPT_SECONDS).record(started.elapsed().as_secs_f64());
        let reason = result.as_ref().map_or_else(Problem::reason, |_| "");
        let end = self.decide(leased, result, started.elapsed());
        if self.write_down(leased, &end, started + self.config.lease).await == Some(WriteResult::Yes) {
            count(&end, reason);
        }
    }

    /// Ends when a download must not go on: some time after the process was asked to end, or at once when told twice.
    async fn time_to_stop(&self) {
        self.context.shutdown.soft().cancelled().await;
        tokio::select! {
            () = sleep(STOP_WAIT) => {}
            () = self.context.shutdown.hard().cancelled() => {}
        }
    }

    /// What becomes of the document.
    fn decide(&self, leased: &LeasedDocument, result: Result<Document, Problem>, took: Duration) -> End {
        let problem = match result {
            Ok(document) => {
                tracing::debug!(file.id = %leased.file_id, size_bytes = document.size_bytes, "file {} is stored", leased.file_id);
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
                    "file {file_id} is tried again in {:.1} s: {problem}", wait.as_secs_f64()
                );
                End::RetryAfter { wait, attempts, error }
            }
            NextStep::Discard => {
                tracing::error!(
                    file.id = %file_id, order.id = order_id, attempts = leased.attempts, "file {file_id} is given up: {problem}"
                );
                End::Discarded { error }
            }
        }
    }

    /// Writes the end of an attempt down, whatever it takes while the lease lasts. `None` when it could not be.
    async fn write_down(&self, leased: &LeasedDocument, end: &End, lease_end: Instant) -> Option<WriteResult> {
        let hard = self.context.shutdown.hard();
        loop {
            let error = match self.queue.end(leased, end, self.context.clock.now()).await {
                Ok(written) => {
                    if written == WriteResult::LeaseLost {
                        counter!(names::LEASES_LOST).increment(1);
                        tracing::warn!(file.id = %leased.file_id, "the lease of file {} had passed on", leased.file_id);
                    }
                    return Some(written);
                }
                Err(error) => error,
            };
            tracing::warn!(file.id = %leased.file_id, %error, "the end of an attempt could not be written down: {error}");
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
