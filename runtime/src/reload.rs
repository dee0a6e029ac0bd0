//! Takes what has changed in the configuration while a process runs: on SIGHUP, and every few seconds.
//!
//! Reading again and again sees every way of changing a configuration: an editor, a Kubernetes volume whose symbolic link
//! moves, a file on a network, a secret in a file of its own.

use std::{sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};

use crate::{ConfigError, Context};

/// How often the configuration is read again.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long reading may take before that is told: a file may be on a network that is away.
const READ_MAX: Duration = Duration::from_secs(30);

/// How long the task may stand still before the process counts as stuck.
const BEAT_AGE_MAX: Duration = Duration::from_secs(180);

/// Reads a part of the configuration and checks it, from wherever it is.
pub type Load<T> = dyn Fn() -> Result<T, ConfigError> + Send + Sync;

/// Gives what is read again to `take`, until the shutdown. What is refused is told once, and the former configuration stays.
/// From here on SIGHUP does not end the process. `name` is that of the component in `/livez`.
///
/// # Errors
/// When the signal cannot be listened for.
pub async fn run<T: Send + 'static>(
    name: &'static str,
    load: Arc<Load<T>>,
    mut take: impl FnMut(T) -> Result<(), ConfigError> + Send,
    context: Context,
) -> Result<(), std::io::Error> {
    let mut hangups = signal(SignalKind::hangup())?;
    let soft = context.shutdown.soft().clone();
    let component = context.health.register_beating(name, BEAT_AGE_MAX);
    component.ready();
    let (mut reader, mut refused) = (Reader::new(load), None);
    loop {
        component.beat();
        tokio::select! {
            () = soft.cancelled() => return Ok(()),
            Some(()) = hangups.recv() => refused = None,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let taken = match reader.read().await {
            Ok(config) => take(config).map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        let error = taken.err();
        if let Some(reason) = error.as_ref().filter(|_| error != refused) {
            tracing::error!("{name}: the configuration was read again and is refused, the former one stays: {reason}");
        }
        refused = error;
    }
}

/// Reads on a thread, one time after the other: reading that hangs must not take up thread after thread.
struct Reader<T> {
    load: Arc<Load<T>>,
    pending: Option<JoinHandle<Result<T, ConfigError>>>,
}

impl<T: Send + 'static> Reader<T> {
    fn new(load: Arc<Load<T>>) -> Self {
        Self { load, pending: None }
    }

    /// The error is a text, so that two can be compared.
    async fn read(&mut self) -> Result<T, String> {
        let load = Arc::clone(&self.load);
        let pending = self.pending.get_or_insert_with(|| tokio::task::spawn_blocking(move || load()));
        let Ok(read) = timeout(READ_MAX, pending).await else {
            return Err(format!("it cannot be read within {} s", READ_MAX.as_secs()));
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
    async fn what_is_read_again_is_taken_on_a_hangup_and_after_the_interval() {
        let (context, reads) = (Context::new(), Arc::new(AtomicU32::new(0)));
        let (counted, taken) = (Arc::clone(&reads), Arc::new(AtomicU32::new(0)));
        let load: Arc<Load<u32>> = Arc::new(move || match counted.fetch_add(1, Ordering::Relaxed) {
            0 => Err(ConfigError::refused("key", "as the test wants")),
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
