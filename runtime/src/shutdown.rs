//! Two-step shutdown: first stop accepting work and finish what is in flight, then drop it.

use std::{future::Future, sync::Arc, sync::atomic::AtomicBool, sync::atomic::Ordering, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a process may take to finish what is in flight after shutdown was requested.
pub const GRACE: Duration = Duration::from_secs(25);

/// Signals shutdown to all tasks, and tracks them. Cheap to clone; all clones share the same state.
#[derive(Clone)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
    failed: Arc<AtomicBool>,
}

impl Shutdown {
    /// Creates it without any shutdown requested.
    #[must_use]
    pub fn new() -> Self {
        let hard = CancellationToken::new();
        Self { soft: hard.child_token(), hard, tasks: TaskTracker::new(), failed: Arc::default() }
    }

    /// Cancelled when the process should accept no more work and finish what is in flight.
    #[must_use]
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when the process should drop what is in flight.
    #[must_use]
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Spawns a task that runs until shutdown. If it fails or ends earlier, the process shuts down with a failure.
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
                    tracing::error!(task = name, "task {name} ended unexpectedly");
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

    /// Spawns work that may end at any time, and that shutdown waits for.
    pub fn spawn_work<F>(&self, work: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(work)
    }

    /// Requests shutdown with a failure as the exit code.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.soft.cancel();
    }

    /// Requests shutdown.
    pub fn stop(&self) {
        self.soft.cancel();
    }

    /// Handles SIGTERM and SIGINT: the first one requests a soft shutdown, the second one drops everything. SIGHUP, which
    /// would end the process by default, is only logged here; services that reload their configuration handle it
    /// themselves.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut hangup = signal(SignalKind::hangup())?;
        let this = self.clone();
        #[expect(clippy::disallowed_methods, reason = "it must outlive the tasks that it shuts down")]
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    _ = hangup.recv() => {
                        tracing::info!("SIGHUP: reloading the configuration; other settings need a restart");
                        continue;
                    }
                }
                if this.soft.is_cancelled() {
                    tracing::warn!("second signal: dropping what is in flight");
                    this.hard.cancel();
                } else {
                    tracing::info!("shutting down: finishing what is in flight");
                    this.soft.cancel();
                }
            }
        });
        Ok(())
    }

    /// Waits for shutdown and the end of all tasks; tasks that take longer than `grace` are dropped.
    ///
    /// Returns whether all tasks ended without a failure.
    pub async fn wait(&self, grace: Duration) -> bool {
        self.soft.cancelled().await;
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::error!(
                tasks = self.tasks.len(),
                "tasks are still running {} s after shutdown was requested",
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

/// Detects a task that panics: its future is dropped before it completes.
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
    async fn a_clean_shutdown_succeeds() {
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
    async fn a_task_that_ends_early_fails_or_panics_shuts_the_process_down_with_a_failure() {
        for kind in 0..3 {
            let shutdown = Shutdown::new();
            shutdown.spawn("early", async move {
                match kind {
                    0 => Ok(()),
                    1 => Err("broken"),
                    _ => panic!("injected by the test"),
                }
            });
            assert!(!shutdown.wait(GRACE).await);
        }
    }

    #[tokio::test]
    async fn a_hanging_task_gets_the_hard_signal_after_the_grace_period() {
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
