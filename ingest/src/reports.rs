//! Fetches librdkafka's delivery reports.
//!
//! They lie in a queue until somebody asks for them. A thread that sleeps on that queue is woken for every batch, and wakes
//! the requests that wait from outside the runtime, one by one: on few cores that costs more than all the rest of an event.
//! A task of the runtime looks every millisecond instead, as long as there is anything to wait for, and serves all reports
//! that are there in one go.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::producer::Handle;

/// How often reports are fetched while events wait for theirs. Tokio's timers are no finer.
const INTERVAL: Duration = Duration::from_millis(1);

/// How often errors of the client are fetched while no event waits.
const IDLE_INTERVAL: Duration = Duration::from_millis(100);

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

/// Serves the reports of a producer for as long as there is one.
pub(crate) async fn serve(producer: Weak<Handle>, traffic: Arc<Traffic>) {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if traffic.waiting.load(Ordering::Acquire) == 0 {
            // Either: the first event is waited for, errors need not be.
            let _ = timeout(IDLE_INTERVAL, traffic.begun.notified()).await;
        }
        tick.tick().await;
        let Some(producer) = producer.upgrade() else { return };
        drain(&producer, &traffic);
    }
}

/// Serves all that is there: a poll without a timeout serves one batch at most, and does not say whether it did.
fn drain(producer: &Handle, traffic: &Traffic) {
    loop {
        let before = traffic.served.load(Ordering::Relaxed);
        producer.poll(Duration::ZERO);
        if traffic.served.load(Ordering::Relaxed) == before {
            return;
        }
    }
}
