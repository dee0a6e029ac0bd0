//! Fetches librdkafka's delivery reports.
//!
//! They lie in a queue until somebody asks for them. A thread that sleeps on that queue, as rdkafka's `ThreadedProducer`
//! has one, is woken for every batch, wakes the requests that wait from outside the runtime, one by one, and spins for the
//! last millisecond of every tenth of a second. A task of the runtime looks every two milliseconds instead, as long as there
//! is anything to wait for, and serves all reports that are there in one go.

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

/// How often reports are fetched while events wait for theirs.
const INTERVAL: Duration = Duration::from_millis(2);

/// How often errors of the client are fetched while no event waits.
const IDLE_INTERVAL: Duration = Duration::from_millis(100);

/// How often the component is told that reports are fetched.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// How long the component may hear nothing. Without reports no event is ever answered 202.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What a producer is asked, and tells.
#[derive(Default)]
pub(crate) struct Traffic {
    /// Events that librdkafka holds.
    waiting: AtomicUsize,
    /// Callbacks that it made.
    served: AtomicU64,
    /// The first event since there was none.
    begun: Notify,
}

impl Traffic {
    /// An event is handed over.
    pub(crate) fn sent(&self) {
        if self.waiting.fetch_add(1, Ordering::AcqRel) == 0 {
            self.begun.notify_one();
        }
    }

    /// An event is not held any more.
    pub(crate) fn settled(&self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// A callback was made.
    pub(crate) fn called_back(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts to serve the reports of a producer, for as long as there is one, and tells `component` that it does. To be called
/// where there is a runtime.
pub(crate) fn start<C: ProducerContext + 'static>(
    producer: &Arc<BaseProducer<C>>,
    traffic: &Arc<Traffic>,
    component: Component,
) {
    component.ready();
    #[expect(clippy::disallowed_methods, reason = "it ends with its producer, which the shutdown waits for")]
    tokio::spawn(serve(Arc::downgrade(producer), Arc::clone(traffic), component));
}

async fn serve<C: ProducerContext>(producer: Weak<BaseProducer<C>>, traffic: Arc<Traffic>, component: Component) {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beaten = Instant::now();
    loop {
        if traffic.waiting.load(Ordering::Acquire) == 0 {
            // Either: the first event is waited for, errors need not be.
            let _ = timeout(IDLE_INTERVAL, traffic.begun.notified()).await;
        }
        let now = tick.tick().await;
        let Some(producer) = producer.upgrade() else { return };
        drain(&producer, &traffic);
        if now.saturating_duration_since(beaten) >= BEAT_INTERVAL {
            component.beat();
            beaten = now;
        }
    }
}

/// Serves all that is there: a poll without a timeout serves one batch at most, and does not say whether it did.
fn drain<C: ProducerContext>(producer: &BaseProducer<C>, traffic: &Traffic) {
    loop {
        let before = traffic.served.load(Ordering::Relaxed);
        producer.poll(Duration::ZERO);
        if traffic.served.load(Ordering::Relaxed) == before {
            return;
        }
    }
}
