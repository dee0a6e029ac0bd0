//! Reloading of the configuration at run time: on SIGHUP, and every few seconds.
//!
//! Periodic reading detects every kind of change: an editor, a Kubernetes volume whose symbolic link moves, a file on a
//! network, a secret in its own file.

use std::{sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};

use crate::{ConfigError, Context};

/// Interval between reads of the configuration.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long reading may take before it counts as failed: a file may be on a network that is unavailable.
const READ_MAX: Duration = Duration::from_secs(30);

/// Longest time without a heartbeat of the task.
const BEAT_AGE_MAX: Duration = Duration::from_secs(180);

/// Reads and checks a part of the configuration.
pub type Load<T> = dyn Fn() -> Result<T, ConfigError> + Send + Sync;

/// Passes each configuration that is read to `take`, until shutdown. A rejected configuration is logged once, and the
/// previous one stays in use. SIGHUP no longer ends the process. `name` is the name of the component in `/livez`.
///
/// # Errors
/// When the signal handler cannot be installed.
pub async fn run<T: Send + 'static>(
    name: &'static str,
    load: Arc<Load<T>>,
    mut take: impl FnMut(T) -> Result<(), ConfigError> + Send,
    context: Context,
) -> Result<(), std::io::Error> {
    let mut sighups = signal(SignalKind::hangup())?;
    let soft = context.shutdown.soft().clone();
    let component = context.health.register_beating(name, BEAT_AGE_MAX);
    component.ready();
    let (mut reader, mut refused) = (Reader::new(load), None);
    loop {
        component.beat();
        tokio::select! {
            () = soft.cancelled() => return Ok(()),
            Some(()) = sighups.recv() => refused = None,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let taken = match reader.read().await {
            Ok(config) => take(config).map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        let error = taken.err();
        if let Some(reason) = error.as_ref().filter(|_| error != refused) {
            tracing::error!("{name}: the new configuration is rejected, the previous one stays in use: {reason}");
        }
        refused = error;
    }
}

/// Reads on a blocking thread, at most one at a time, so that hanging reads do not use up the threads.
struct Reader<T> {
    load: Arc<Load<T>>,
    pending: Option<JoinHandle<Result<T, ConfigError>>>,
}

impl<T: Send + 'static> Reader<T> {
    fn new(load: Arc<Load<T>>) -> Self {
        Self { load, pending: None }
    }

    /// Returns an error as text, so that two can be compared.
    async fn read(&mut self) -> Result<T, String> {
        let load = Arc::clone(&self.load);
        let pending = self.pending.get_or_insert_with(|| tokio::task::spawn_blocking(move || load()));
        let Ok(read) = timeout(READ_MAX, pending).await else {
            return Err(format!("it could not be read within {} s", READ_MAX.as_secs()));
        };
        self.pending = None;
        read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn the_configuration_is_reloaded_on_sighup_and_after_the_interval() {
        let (context, reads) = (Context::new(), Arc::new(AtomicU32::new(0)));
        let (counted, taken) = (Arc::clone(&reads), Arc::new(AtomicU32::new(0)));
        let load: Arc<Load<u32>> = Arc::new(move || match counted.fetch_add(1, Ordering::Relaxed) {
            0 => Err(ConfigError::refused("key", "injected by the test")),
            read => Ok(read),
        });
        let seen = Arc::clone(&taken);
        let take = move |read| {
            seen.store(read, Ordering::Relaxed);
            Ok(())
        };
        let running = run("test-reload", load, take, context.clone());
        let look = async {
            tokio::time::sleep(INTERVAL / 10).await;
            let own = rustix::process::getpid();
            for _ in 0..2 {
                rustix::process::kill_process(own, rustix::process::Signal::HUP).unwrap();
                tokio::time::sleep(INTERVAL / 10).await;
            }
            assert_eq!((reads.load(Ordering::Relaxed), taken.load(Ordering::Relaxed)), (2, 1));
            tokio::time::sleep(INTERVAL + INTERVAL / 10).await;
            assert!(taken.load(Ordering::Relaxed) >= 2);
            context.shutdown.stop();
        };
        let (ended, ()) = tokio::join!(running, look);
        ended.unwrap();
    }
}
