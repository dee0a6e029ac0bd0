//! Two-step shutdown: first take no more work and finish what is there, then drop it.

use std::{future::Future, sync::Arc, sync::atomic::AtomicBool, sync::atomic::Ordering, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a process may take to finish what is in flight after it was asked to end.
pub const GRACE: Duration = Duration::from_secs(25);

/// Tells every task when to end, and knows when all have. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
    failed: Arc<AtomicBool>,
}

impl Shutdown {
    /// Nothing is asked to end yet.
    #[must_use]
    pub fn new() -> Self {
        let hard = CancellationToken::new();
        Self { soft: hard.child_token(), hard, tasks: TaskTracker::new(), failed: Arc::default() }
    }

    /// Ends when the process should take no more work and finish what it has.
    #[must_use]
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Ends when the process should drop what it has.
    #[must_use]
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Starts a task that lives until the shutdown. One that ends in an error, or before it was asked to, ends the process.
    pub fn spawn<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::fmt::Display + Send,
    {
        let this = self.clone();
        let watched = async move {
            let guard = EarlyEnd { name, shutdown: &this };
            let result = task.await;
            match result {
                Ok(()) if this.soft.is_cancelled() => {}
                Ok(()) => {
                    tracing::error!(task = name, "task {name} ended although nobody asked it to");
                    this.fail();
                }
                Err(error) => {
                    tracing::error!(task = name, error = format!("{error:#}"), "task {name} failed: {error:#}");
                    this.fail();
                }
            }
            std::mem::forget(guard);
        };
        drop(self.tasks.spawn(watched));
    }

    /// Starts work that is waited for at shutdown, and may end at any time.
    pub fn spawn_work<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(work)
    }

    /// Asks the process to end, and makes its exit code a failure.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.soft.cancel();
    }

    /// Asks the process to end.
    pub fn stop(&self) {
        self.soft.cancel();
    }

    /// Listens for SIGTERM and SIGINT: the first asks for a soft end, the second drops everything. SIGHUP, whose default is
    /// to kill the process, is only logged here; services that read their configuration again listen for it themselves.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hangup = signal(SignalKind::hangup())?;
        let this = self.clone();
        #[expect(clippy::disallowed_methods, reason = "it must outlive the tasks that it ends")]
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    _ = hangup.recv() => {
                        tracing::info!("SIGHUP: services that reload read their configuration again; all else needs a restart");
                        continue;
                    }
                }
                if this.soft.is_cancelled() {
                    tracing::warn!("asked to end again: dropping what is in flight");
                    this.hard.cancel();
                } else {
                    tracing::info!("asked to end: finishing what is in flight");
                    this.soft.cancel();
                }
            }
        });
        Ok(())
    }

    /// Waits until the process is asked to end and all tasks have ended, and drops those that take longer than `grace`.
    ///
    /// Returns whether everything ended as it should.
    pub async fn wait(&self, grace: Duration) -> bool {
        self.soft.cancelled().await;
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::error!(
                tasks = self.tasks.len(),
                "tasks still run {} s after the end was asked for",
                grace.as_secs()
            );
            self.hard.cancel();
            self.failed.store(true, Ordering::Relaxed);
            let _ = tokio::time::timeout(Duration::from_secs(2), self.tasks.wait()).await;
        }
        !self.failed.load(Ordering::Relaxed)
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

/// Sees a task that panics: its future is dropped without having ended.
struct EarlyEnd<'a> {
    name: &'static str,
    shutdown: &'a Shutdown,
}

impl Drop for EarlyEnd<'_> {
    fn drop(&mut self) {
        tracing::error!(task = self.name, "task {} panicked or was dropped", self.name);
        self.shutdown.fail();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clean_end_is_a_success() {
        let shutdown = Shutdown::new();
        let soft = shutdown.soft().clone();
        shutdown.spawn("waits", async move {
            soft.cancelled().await;
            Ok::<_, std::io::Error>(())
        });
        shutdown.stop();
        assert!(shutdown.wait(GRACE).await);
    }

    #[tokio::test]
    async fn a_task_that_ends_early_fails_or_panics_ends_the_process_with_a_failure() {
        for kind in 0..3 {
            let shutdown = Shutdown::new();
            shutdown.spawn("early", async move {
                match kind {
                    0 => Ok(()),
                    1 => Err("broken"),
                    _ => panic!("as the test wants"),
                }
            });
            assert!(!shutdown.wait(GRACE).await);
        }
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_told_to_drop_its_work_after_the_grace() {
        let shutdown = Shutdown::new();
        let hard = shutdown.hard().clone();
        shutdown.spawn("hangs", async move {
            hard.cancelled().await;
            Ok::<_, std::io::Error>(())
        });
        shutdown.stop();
        assert!(!shutdown.wait(Duration::from_millis(10)).await);
        assert!(shutdown.hard().is_cancelled());
    }
}
