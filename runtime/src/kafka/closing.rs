//! Kafka consumers with a time limit for closing them.

use std::{
    ops::Deref,
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, DefaultConsumerContext},
    error::KafkaResult,
};

/// How long a consumer may take to leave its group and close its connections before it is abandoned.
pub const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// How many events of a consumer's queue are served before it is closed.
const LAST_EVENTS_MAX: usize = 100;

/// A consumer with a limit on how long its drop takes.
///
/// librdkafka waits without a limit until a consumer is closed, and has been seen to hang
/// (<https://github.com/confluentinc/librdkafka/issues/4884>, <https://github.com/fede1024/rust-rdkafka/issues/509>). The
/// consumer is therefore closed on a separate thread. If that hangs, Kafka removes the consumer from the group after its
/// session timeout.
pub struct ConsumerGuard<C: ConsumerContext + 'static = DefaultConsumerContext> {
    /// `None` only during drop.
    consumer: Option<BaseConsumer<C>>,
}

impl ConsumerGuard {
    /// Creates a consumer without callbacks.
    ///
    /// # Errors
    /// When librdkafka rejects the configuration.
    pub fn create(config: &ClientConfig) -> KafkaResult<Self> {
        Self::create_with_context(config, DefaultConsumerContext)
    }
}

impl<C: ConsumerContext + 'static> ConsumerGuard<C> {
    /// Creates a consumer with callbacks. While it is being closed, they are called on another thread.
    ///
    /// # Errors
    /// When librdkafka rejects the configuration.
    pub fn create_with_context(config: &ClientConfig, context: C) -> KafkaResult<Self> {
        Ok(Self { consumer: Some(config.create_with_context(context)?) })
    }
}

impl<C: ConsumerContext + 'static> Deref for ConsumerGuard<C> {
    type Target = BaseConsumer<C>;

    fn deref(&self) -> &BaseConsumer<C> {
        self.consumer.as_ref().expect("only drop takes it")
    }
}

impl<C: ConsumerContext + 'static> Drop for ConsumerGuard<C> {
    fn drop(&mut self) {
        let consumer = self.consumer.take();
        if let Some(consumer) = &consumer {
            serve_last_events(consumer);
        }
        if !ends_within(CLOSE_WAIT, move || drop(consumer)) {
            tracing::warn!("a Kafka consumer did not close within {} s and is abandoned", CLOSE_WAIT.as_secs());
        }
    }
}

/// Serves queued events: librdkafka's log lines are among them, and say why a request failed. A subscribed consumer is polled
/// anyway, and its rebalances belong to the thread that polls it.
fn serve_last_events<C: ConsumerContext>(consumer: &BaseConsumer<C>) {
    if consumer.subscription().is_ok_and(|topics| topics.count() == 0) {
        for _ in 0..LAST_EVENTS_MAX {
            drop(consumer.poll(Duration::ZERO));
        }
    }
}

/// Runs `work` on a separate thread; returns `false` if it takes longer than `limit`.
fn ends_within(limit: Duration, work: impl FnOnce() + Send + 'static) -> bool {
    let (ended, end) = mpsc::channel::<()>();
    let thread = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || {
        work();
        drop(ended);
    });
    // If the thread could not be started, `work` and its consumer were dropped, so nothing is left to wait for.
    thread.is_err() || end.recv_timeout(limit) != Err(RecvTimeoutError::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_takes_too_long_is_abandoned() {
        let (release, held) = mpsc::channel::<()>();
        assert!(!ends_within(Duration::from_millis(20), move || {
            let _released = held.recv();
        }));
        drop(release);
    }

    #[test]
    fn work_that_ends_in_time_is_awaited() {
        let (done, result) = mpsc::channel();
        assert!(ends_within(Duration::from_secs(60), move || done.send(7).unwrap()));
        assert_eq!(result.try_recv(), Ok(7));
    }
}
