//! Serving of librdkafka's delivery reports.
//!
//! Reports stay in a queue until they are polled. A thread that blocks on that queue, as in rdkafka's `ThreadedProducer`,
//! is woken for every batch, wakes waiting requests one by one from outside the runtime, and spins for the last millisecond
//! of every 100 ms. Instead, a task of the runtime polls every 2 ms while events are in flight, and serves all available
//! reports at once.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rdkafka::producer::{BaseProducer, ProducerContext};
use riverlock_runtime::Component;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// Interval of polling while events are in flight.
const INTERVAL: Duration = Duration::from_millis(2);

/// Interval of polling for client errors while no event is in flight.
const IDLE_INTERVAL: Duration = Duration::from_millis(100);

/// Interval of heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Longest time without a heartbeat. Without reports, no event is ever acknowledged.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Counters that the producer and the polling task share.
#[derive(Default)]
pub(crate) struct Traffic {
    /// Records that were handed to librdkafka and have no report yet.
    waiting: AtomicUsize,
    /// Callbacks that librdkafka has made.
    served: AtomicU64,
    /// Notified when a record is handed over while none is in flight.
    begun: Notify,
}

impl Traffic {
    /// Notes that a record was handed over.
    pub(crate) fn sent(&self) {
        if self.waiting.fetch_add(1, Ordering::AcqRel) == 0 {
            self.begun.notify_one();
        }
    }

    /// Notes that a record has its report, or was returned.
    pub(crate) fn settled(&self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// Notes that a callback was made.
    pub(crate) fn called_back(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts serving the reports of a producer until it is dropped, with heartbeats to `component`. Must be called within a
/// Tokio runtime.
pub(crate) fn start<C: ProducerContext + 'static>(
    producer: &Arc<BaseProducer<C>>,
    traffic: &Arc<Traffic>,
    component: Component,
) {
    component.ready();
    #[expect(clippy::disallowed_methods, reason = "it ends with its producer, which shutdown waits for")]
    tokio::spawn(serve(Arc::downgrade(producer), Arc::clone(traffic), component));
}

async fn serve<C: ProducerContext>(producer: Weak<BaseProducer<C>>, traffic: Arc<Traffic>, component: Component) {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_heartbeat = Instant::now();
    loop {
        if traffic.waiting.load(Ordering::Acquire) == 0 {
            // Both results are fine: a new record wakes the task at once, errors can wait for the timeout.
            let _ = timeout(IDLE_INTERVAL, traffic.begun.notified()).await;
        }
        let now = tick.tick().await;
        let Some(producer) = producer.upgrade() else { return };
        drain(&producer, &traffic);
        if now.saturating_duration_since(last_heartbeat) >= HEARTBEAT_INTERVAL {
            component.beat();
            last_heartbeat = now;
        }
    }
}

/// Serves all available reports: a poll without a timeout serves at most one batch, and does not return whether it did.
fn drain<C: ProducerContext>(producer: &BaseProducer<C>, traffic: &Traffic) {
    loop {
        let before = traffic.served.load(Ordering::Relaxed);
        producer.poll(Duration::ZERO);
        if traffic.served.load(Ordering::Relaxed) == before {
            return;
        }
    }
}
