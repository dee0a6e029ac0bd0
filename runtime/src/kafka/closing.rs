//! Kafka consumers whose end is waited for, but not for ever.

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

/// How long a consumer may take to leave its group and end its connections before it is left to itself.
pub const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// How many events of a consumer's queue are served before it is closed.
const LAST_EVENTS_MAX: usize = 100;

/// A consumer with a limit on how long its drop takes.
///
/// librdkafka waits without one until a consumer is closed, and has been seen to wait for ever
/// (<https://github.com/confluentinc/librdkafka/issues/4884>, <https://github.com/fede1024/rust-rdkafka/issues/509>). What
/// is dropped here is closed on a thread of its own; Kafka misses a consumer that hangs there after its session timeout.
pub struct ConsumerGuard<C: ConsumerContext + 'static = DefaultConsumerContext> {
    /// `None` only while it is dropped.
    consumer: Option<BaseConsumer<C>>,
}

impl ConsumerGuard {
    /// A consumer without callbacks.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn create(config: &ClientConfig) -> KafkaResult<Self> {
        Self::create_with_context(config, DefaultConsumerContext)
    }
}

impl<C: ConsumerContext + 'static> ConsumerGuard<C> {
    /// A consumer with callbacks. While it is closed they are called on another thread than before.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
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
            tracing::warn!("a Kafka consumer is not closed after {} s and is left to itself", CLOSE_WAIT.as_secs());
        }
    }
}

/// Serves the events that are queued: librdkafka's log lines are among them, and say why a question failed. A consumer that has
/// subscribed is polled anyway, and its rebalances belong to the thread that polls it.
fn serve_last_events<C: ConsumerContext>(consumer: &BaseConsumer<C>) {
    if consumer.subscription().is_ok_and(|topics| topics.count() == 0) {
        for _ in 0..LAST_EVENTS_MAX {
            drop(consumer.poll(Duration::ZERO));
        }
    }
}

/// Does the work on a thread of its own; `false` when it goes on longer than it is waited for.
fn ends_within(limit: Duration, work: impl FnOnce() + Send + 'static) -> bool {
    let (ended, end) = mpsc::channel::<()>();
    let thread = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || {
        work();
        drop(ended);
    });
    // Without a thread the work was dropped with its consumer, and so is done.
    thread.is_err() || end.recv_timeout(limit) != Err(RecvTimeoutError::Timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_is_left_to_itself() {
        let (release, held) = mpsc::channel::<()>();
        assert!(!ends_within(Duration::from_millis(20), move || {
            let _released = held.recv();
        }));
        drop(release);
    }

    #[test]
    fn what_ends_is_waited_for() {
        let (done, result) = mpsc::channel();
        assert!(ends_within(Duration::from_secs(60), move || done.send(7).unwrap()));
        assert_eq!(result.try_recv(), Ok(7));
    }
}
