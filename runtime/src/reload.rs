//! Reloading of the configuration at run time: on SIGHUP, and when it has changed.
//!
//! The configuration is read every few seconds and compared as a whole, including secrets from files. That detects every
//! kind of change (an editor, a Kubernetes volume whose symbolic link moves, a file on a network), which watching files
//! does not. A change counts once two reads in a row agree on it, so that a partly written file is not used.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::{MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Component, ConfigError, Context, with_causes};

/// Interval between reads of the configuration.
const INTERVAL: Duration = Duration::from_secs(2);

/// How long reading may take before it counts as failed: a file may be on a network that is unavailable.
pub const READ_MAX: Duration = Duration::from_secs(30);

/// Longest time without a heartbeat of the task.
const BEAT_AGE_MAX: Duration = Duration::from_secs(180);

/// Reads and checks a part of the configuration.
pub type Load<T> = dyn Fn() -> Result<T, ConfigError> + Send + Sync;

/// Result of reading the configuration; an error as text, so that two results can be compared.
pub type Reading<T> = Result<T, String>;

/// Passes each changed configuration to `take`, until shutdown. A rejected configuration is logged once, and the previous
/// one stays in use. SIGHUP no longer ends the process. `name` is the name of the component in `/livez`.
///
/// # Errors
/// When the signal handler cannot be installed.
pub async fn run<T: Clone + PartialEq + Send + 'static>(
    name: &'static str,
    load: Arc<Load<T>>,
    mut take: impl FnMut(T) -> Result<(), ConfigError> + Send,
    context: Context,
) -> io::Result<()> {
    let component = context.health.register_beating(name, BEAT_AGE_MAX);
    let handle = |found: &Reading<T>| {
        let taken = found.clone().and_then(|config| take(config).map_err(|error| with_causes(&error)));
        if let Err(reason) = taken {
            tracing::error!("{name}: the new configuration is rejected, the previous one stays in use: {reason}");
        }
    };
    Reloader::new(load, INTERVAL, None, component)?.run(handle, context.shutdown.soft()).await;
    Ok(())
}

/// Reads the configuration regularly.
pub struct Reloader<T> {
    load: Arc<Load<T>>,
    interval: Duration,
    component: Component,
    sighups: Signal,
    /// A read that is not complete yet.
    pending: Option<JoinHandle<Reading<T>>>,
    /// The latest result.
    last_read: Option<Reading<T>>,
    /// The latest result that was handled, so that the same one is not handled every few seconds.
    last_handled: Option<Reading<T>>,
}

impl<T: Clone + PartialEq + Send + 'static> Reloader<T> {
    /// Installs a handler for SIGHUP, which then no longer ends the process. `current` is the configuration in use, if it
    /// was read with `load`. `component` gets a heartbeat with every read.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub fn new(load: Arc<Load<T>>, interval: Duration, current: Option<T>, component: Component) -> io::Result<Self> {
        let (sighups, current) = (signal(SignalKind::hangup())?, current.map(Ok));
        component.ready();
        let (last_read, last_handled) = (current.clone(), current);
        Ok(Self { load, interval, component, sighups, pending: None, last_read, last_handled })
    }

    /// Calls `handle` with every result on SIGHUP, and otherwise with every one that differs from the one handled before,
    /// until `soft` is cancelled.
    pub async fn run(mut self, mut handle: impl FnMut(&Reading<T>) + Send, soft: &CancellationToken) {
        let mut interval = tokio::time::interval(self.interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.component.beat();
            let is_signal = tokio::select! {
                () = soft.cancelled() => return,
                Some(()) = self.sighups.recv() => true,
                _ = interval.tick() => false,
            };
            let found = Some(self.read().await);
            let is_stable = self.last_read == found;
            self.last_read.clone_from(&found);
            if is_signal || (is_stable && self.last_handled != found) {
                found.iter().for_each(&mut handle);
                self.last_handled = found;
            }
        }
    }

    /// Reads on a blocking thread, at most one at a time: more reads that hang, for example on a network file, would use up
    /// the threads that all other blocking operations need.
    async fn read(&mut self) -> Reading<T> {
        let load = Arc::clone(&self.load);
        let read = move || load().map_err(|error| with_causes(&error));
        let pending = self.pending.get_or_insert_with(|| tokio::task::spawn_blocking(read));
        let Ok(read) = timeout(READ_MAX, pending).await else {
            return Err(format!("it could not be read within {} s", READ_MAX.as_secs()));
        };
        self.pending = None;
        read.unwrap_or_else(|error| Err(format!("reading it panicked: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    /// A signal reaches every test of this process.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    const TICK: Duration = Duration::from_millis(50);

    /// Waits until `taken` has this value.
    async fn until(taken: &Mutex<Vec<Reading<u32>>>, expected: &[Reading<u32>]) {
        for _ in 0..200 {
            if *taken.lock().unwrap() == expected {
                return;
            }
            tokio::time::sleep(TICK / 5).await;
        }
        assert_eq!(*taken.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn each_change_is_handled_once_and_every_result_on_sighup() {
        let _alone = ALONE.lock().await;
        let (context, value, reads) = (Context::new(), Arc::new(AtomicU32::new(1)), Arc::new(AtomicU32::new(0)));
        let (now, counted) = (Arc::clone(&value), Arc::clone(&reads));
        let load: Arc<Load<u32>> = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            match now.load(Ordering::Relaxed) {
                0 => Err(ConfigError::refused("key", "injected by the test")),
                value => Ok(value),
            }
        });
        let component = context.health.register_beating("test-reload", BEAT_AGE_MAX);
        let taken = Mutex::new(Vec::new());
        let reloader = Reloader::new(load, TICK, Some(1), component).unwrap();
        let running = reloader.run(|found| taken.lock().unwrap().push(found.clone()), context.shutdown.soft());
        let look = async {
            let error = || Err(ConfigError::refused("key", "injected by the test").to_string());
            value.store(2, Ordering::Relaxed);
            until(&taken, &[Ok(2)]).await;
            value.store(0, Ordering::Relaxed);
            until(&taken, &[Ok(2), error()]).await;
            let before = reads.load(Ordering::Relaxed);
            while reads.load(Ordering::Relaxed) < before + 3 {
                tokio::time::sleep(TICK / 5).await;
            }
            assert_eq!(taken.lock().unwrap().len(), 2, "the same error is not handled again");
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
            until(&taken, &[Ok(2), error(), error()]).await;
            context.shutdown.stop();
        };
        tokio::join!(running, look);
    }

    #[tokio::test]
    async fn a_result_that_only_one_read_has_is_not_used() {
        let _alone = ALONE.lock().await;
        let (context, reads) = (Context::new(), Arc::new(AtomicU32::new(0)));
        let counted = Arc::clone(&reads);
        // A different result each time, as of a file that is being written.
        let load: Arc<Load<u32>> = Arc::new(move || Ok(counted.fetch_add(1, Ordering::Relaxed)));
        let component = context.health.register_beating("test-reload", BEAT_AGE_MAX);
        let running = Reloader::new(load, TICK / 10, None, component).unwrap();
        let taken = Mutex::new(Vec::new());
        let running = running.run(|found| taken.lock().unwrap().push(found.clone()), context.shutdown.soft());
        let stop = async {
            while reads.load(Ordering::Relaxed) < 10 {
                tokio::time::sleep(TICK / 10).await;
            }
            context.shutdown.stop();
        };
        tokio::join!(running, stop);
        assert_eq!(*taken.lock().unwrap(), []);
    }
}
