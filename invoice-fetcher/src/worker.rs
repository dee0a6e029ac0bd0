//! Leases due documents and fetches them, as many at a time as there are workers.
//!
//! One loop leases, every leased document has a task. Nothing that goes wrong with a document ends either: it is planned and
//! written down. When PostgreSQL is away, the loop waits; a task repeats the writing until its lease ends, and then the
//! document is simply due again, and is found stored.

use std::{
    convert::Infallible,
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use metrics::{counter, histogram};
use riverlock_ledger::{Error, PostgresConfig};
use riverlock_runtime::{Component, ConfigError, Context};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout_at},
};

use crate::{
    InvoiceFetcherConfig,
    account::Account,
    archive::{Archive, ArchiveError},
    download::{Body, Client, Metadata, Wanted, quote},
    metrics as names,
    pdf::{Checked, Checker},
    plan::{History, Plan, plan},
    problem::Problem,
    queue::{Document, End, Leased, Queue, Written},
    upload::Upload,
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

/// New keys could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeKeysError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Database(#[from] Error),
}

/// Everything that fetching needs.
pub(crate) struct Fetcher {
    config: InvoiceFetcherConfig,
    accounts: RwLock<Vec<Arc<Account>>>,
    client: Client,
    archive: Archive,
    queue: Queue,
    context: Context,
    component: Component,
}

impl Fetcher {
    pub(crate) fn new(
        config: InvoiceFetcherConfig,
        postgres: &PostgresConfig,
        context: Context,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let accounts = config.accounts().map(|(mode, account)| Account::new(mode, account).map(Arc::new));
        let accounts: Vec<Arc<Account>> = accounts.collect::<Result<_, _>>()?;
        names::describe();
        Ok(Self {
            accounts: RwLock::new(accounts),
            client: Client::new(&config, Arc::clone(&context.clock))?,
            archive: Archive::open(&config)?,
            queue: Queue::new(postgres.pool()?),
            component: context.health.register_beating("invoice-downloads", config.lease + BEAT_MARGIN),
            context,
            config,
        })
    }

    #[cfg(test)]
    pub(crate) fn use_archive(&mut self, archive: Archive) {
        self.archive = archive;
    }

    #[cfg(test)]
    pub(crate) fn use_client(&mut self, client: Client) {
        self.client = client;
    }

    /// Where documents are kept.
    pub(crate) fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The queue, for whoever watches it.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Takes the keys of another configuration. Documents that only the old key was refused are due at once.
    ///
    /// # Errors
    /// When a key does not fit, or PostgreSQL refuses.
    pub(crate) async fn take_keys(&self, config: &InvoiceFetcherConfig) -> Result<(), TakeKeysError> {
        for account in self.accounts() {
            let mode = account.mode();
            let Some((_, new)) = config.accounts().find(|(of, _)| *of == mode) else { continue };
            if account.renew(new)? {
                tracing::info!("the new API key for {mode} data is in use");
                self.queue.wake_forbidden(mode, self.context.clock.now()).await?;
            }
        }
        Ok(())
    }

    /// The accounts by now.
    fn accounts(&self) -> Vec<Arc<Account>> {
        self.accounts.read().expect("no code panics while it holds the accounts").clone()
    }

    /// Looks whether troubles are over that have closed an account's gate, where it is time for that.
    fn probe(self: &Arc<Self>) {
        for account in self.accounts() {
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
                        let this = Arc::clone(&self);
                        drop(self.context.shutdown.spawn_work(async move {
                            this.work(&leased).await;
                            drop(permit);
                        }));
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

    /// Leases up to `limit` documents that may be fetched now.
    pub(crate) async fn lease(&self, limit: usize) -> Result<Vec<Leased>, Error> {
        let mut leased = Vec::new();
        for account in self.accounts() {
            let room = limit - leased.len();
            if room > 0 && account.is_open() {
                let now = self.context.clock.now();
                leased.extend(self.queue.lease(account.mode(), room, now, now + self.config.lease).await?);
            }
        }
        Ok(leased)
    }

    /// One attempt, from the lease to its end.
    pub(crate) async fn work(&self, leased: &Leased) {
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
        let end = self.decide(leased, result);
        if self.write_down(leased, &end, started + self.config.lease).await == Some(Written::Yes) {
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

    /// Fetches a document and stores it.
    pub(crate) async fn attempt(&self, leased: &Leased, deadline: Instant) -> Result<Document, Problem> {
        let accounts = self.accounts();
        let account = accounts.iter().find(|account| account.mode() == leased.mode).ok_or(Problem::Stopping)?;
        let wanted = Wanted { file_id: leased.file_id, was_throttled: leased.was_throttled };
        let metadata = if self.config.check_metadata {
            self.client.metadata(account, &wanted, deadline).await?
        } else {
            Metadata::default()
        };
        self.look_at_purpose(leased, &metadata);
        let bytes_max = self.config.document_bytes_max;
        if metadata.size_bytes.is_some_and(|size| size > bytes_max) {
            return Err(Problem::TooLarge { bytes_max });
        }
        let body = self.client.content(account, &wanted, bytes_max, deadline).await?;
        account.set_good_file(leased.file_id);
        let mut upload = self.archive.upload(leased.mode, leased.file_id);
        match self.transfer(body, &mut upload, &metadata, deadline).await {
            Ok(checked) => Ok(Document {
                object_key: Archive::key(leased.mode, leased.file_id),
                sha256: checked.sha256,
                size_bytes: checked.size_bytes,
            }),
            Err(problem) => {
                upload.abort().await;
                Err(problem)
            }
        }
    }

    /// Brings a body into the archive; only what is whole and checked becomes visible there.
    async fn transfer(
        &self,
        mut body: Body,
        upload: &mut Upload,
        metadata: &Metadata,
        deadline: Instant,
    ) -> Result<Checked, Problem> {
        let mut checker = Checker::new(self.config.document_bytes_max);
        while let Some(bytes) = body.next(deadline).await? {
            checker.push(&bytes)?;
            in_store(upload.write(bytes), deadline).await?;
        }
        let checked = checker
            .finish(&[("Content-Length", body.content_length()), ("the file's metadata", metadata.size_bytes)])?;
        in_store(upload.publish(&checked), deadline).await?;
        Ok(checked)
    }

    fn look_at_purpose(&self, leased: &Leased, metadata: &Metadata) {
        let Some(purpose) = &metadata.purpose else { return };
        if purpose != leased.purpose.digital_river_name() {
            counter!(names::ANOMALIES, "kind" => names::ANOMALY_PURPOSE).increment(1);
            tracing::warn!(
                file.id = %leased.file_id,
                order.id = leased.order_id.as_str(),
                "file {} was announced as {} and is {} for Digital River; it is stored as announced",
                leased.file_id,
                leased.purpose.digital_river_name(),
                quote(purpose),
            );
        }
    }

    /// What becomes of the document.
    fn decide(&self, leased: &Leased, result: Result<Document, Problem>) -> End {
        let problem = match result {
            Ok(document) => {
                tracing::debug!(file.id = %leased.file_id, size_bytes = document.size_bytes, "file {} is stored", leased.file_id);
                return End::Stored(document);
            }
            Err(problem) => problem,
        };
        let error = format!("{}: {problem}", problem.reason());
        let history = History { attempts: leased.attempts, queued_at: leased.queued_at };
        let (file_id, order_id) = (leased.file_id, leased.order_id.as_str());
        if matches!(problem, Problem::Conflict { .. }) {
            counter!(names::ANOMALIES, "kind" => names::ANOMALY_CONFLICT).increment(1);
        }
        match plan(&problem, history, &self.config.retry, self.context.clock.now(), fastrand::f64()) {
            Plan::RetryAt { at, attempts } => {
                tracing::info!(
                    file.id = %file_id, order.id = order_id, attempts, "file {file_id} is tried again at {at}: {problem}"
                );
                End::RetryAt { at, attempts, error }
            }
            Plan::Discard => {
                tracing::error!(
                    file.id = %file_id, order.id = order_id, attempts = leased.attempts, "file {file_id} is given up: {problem}"
                );
                End::Discarded { error }
            }
        }
    }

    /// Writes the end of an attempt down, whatever it takes while the lease lasts. `None` when it could not be.
    async fn write_down(&self, leased: &Leased, end: &End, lease_end: Instant) -> Option<Written> {
        let hard = self.context.shutdown.hard();
        loop {
            let error = match self.queue.end(leased, end, self.context.clock.now()).await {
                Ok(written) => {
                    if written == Written::LeaseLost {
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

/// Waits for the object store until the deadline.
async fn in_store(operation: impl Future<Output = Result<(), ArchiveError>>, deadline: Instant) -> Result<(), Problem> {
    match timeout_at(deadline.into(), operation).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(ArchiveError::Conflict { stored, received, .. })) => Err(Problem::Conflict { stored, received }),
        Ok(Err(error @ (ArchiveError::Store(_) | ArchiveError::Folder(_)))) => Err(Problem::Store(error.to_string())),
        Err(_) => Err(Problem::Store("took too long".to_owned())),
    }
}

fn count(end: &End, reason: &'static str) {
    let outcome = match end {
        End::Stored(document) => {
            counter!(names::STORED_BYTES).increment(document.size_bytes);
            names::STORED
        }
        End::RetryAt { .. } => names::RETRY,
        End::Discarded { .. } => names::DISCARDED,
    };
    counter!(names::ATTEMPTS, "outcome" => outcome, "reason" => reason).increment(1);
}
