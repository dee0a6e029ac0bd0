//! Sends the events of many generated orders to a receiver, in bounded memory.
//!
//! A window of lives is open at a time. Within a life most events follow each other, but some overtake, and some are sent
//! twice: concurrently, after their answer, or long after the life has ended. A copy has the same bytes and a new
//! signature. The seed determines all of this; only the interleaving of lives depends on the receiver.

use std::{collections::VecDeque, num::NonZeroU32, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::{Mode, TargetConfig},
    data::life::{Life, PlannedEvent},
    events::EventStore,
    sender::{
        deliver::Deliverer,
        progress::{Counts, Progress, add},
    },
};

mod pacer;
mod plan;

use pacer::Pacer;
use plan::{Pace, Repeat};

/// Default of deliveries in flight.
pub const CONCURRENCY_DEFAULT: usize = 64;

/// Most deliveries in flight, each with its own connection.
pub const CONCURRENCY_MAX: usize = 10_000;

/// Most late copies that wait; if there are more, the oldest is sent.
const LATE_KEPT_MAX: usize = 256;

/// The configuration of a play.
#[derive(Debug, Clone)]
pub struct PlayConfig {
    /// Seed of the lives and of how they are sent.
    pub seed: u64,
    /// The first life's index; lives `first` to `first + orders - 1` are played.
    pub first: u64,
    /// The number of lives.
    pub orders: u64,
    /// Test or live data.
    pub mode: Mode,
    /// Time of the first event. The same seed and start always yield the same events, so that playing them again sends only
    /// duplicates; another start yields other orders.
    pub start: DateTime<Utc>,
    /// Deliveries in flight at once, 1 to [`CONCURRENCY_MAX`]; one that waits for its next attempt counts.
    pub concurrency: usize,
    /// First attempts per second, retries not counted; as fast as the receiver answers if absent.
    pub rate_per_second: Option<NonZeroU32>,
    /// The receiver.
    pub target: TargetConfig,
    /// Of every so many lives, the last event of one is recorded in `events` and never delivered; none if absent.
    pub withhold_every: Option<std::num::NonZeroU64>,
    /// Where sent events are kept for the Events API, if anywhere.
    pub events: Option<Arc<EventStore>>,
    /// The time that signatures carry.
    pub clock: Clock,
}

impl PlayConfig {
    /// The default time of the first event: 2026-01-05, 08:00 UTC. It is fixed, so that a seed determines every byte.
    pub fn default_start() -> DateTime<Utc> {
        DateTime::from_timestamp(1_767_600_000, 0).expect("a time in range")
    }

    /// The lives to play, generated one by one.
    pub fn lives(&self) -> impl Iterator<Item = Life> + use<> {
        let (seed, mode, start) = (self.seed, self.mode, self.start);
        self.indices().map(move |index| Life::generate(seed, index, mode, start))
    }

    /// Whether an event of a life is recorded and never delivered.
    #[must_use]
    pub fn withholds(&self, life: &Life, event: &PlannedEvent) -> bool {
        let is_chosen = self.withhold_every.is_some_and(|every| life.index % every == 0);
        is_chosen && life.events.last().is_some_and(|last| last.id == event.id)
    }

    fn indices(&self) -> std::ops::Range<u64> {
        self.first..self.first.saturating_add(self.orders)
    }
}

impl Default for PlayConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            first: 0,
            orders: 1_000,
            mode: Mode::default(),
            start: Self::default_start(),
            concurrency: CONCURRENCY_DEFAULT,
            rate_per_second: None,
            target: TargetConfig::default(),
            withhold_every: None,
            events: None,
            clock: Clock::system(),
        }
    }
}

/// The result of a play. In JSON, durations are whole microseconds, as their names say.
#[derive(Debug, Clone, Serialize)]
pub struct PlayReport {
    /// The seed that was played.
    pub seed: u64,
    /// Time of the first event.
    pub history_start: DateTime<Utc>,
    /// When playing began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    #[serde(rename = "elapsed_microseconds", serialize_with = "microseconds")]
    pub elapsed: Duration,
    /// Counters of events, requests and answers.
    #[serde(flatten)]
    pub counts: Counts,
    /// Time to a 2xx answer that half of them did not exceed.
    #[serde(rename = "latency_p50_microseconds", serialize_with = "microseconds")]
    pub latency_p50: Duration,
    /// Time to a 2xx answer that 99 of 100 did not exceed.
    #[serde(rename = "latency_p99_microseconds", serialize_with = "microseconds")]
    pub latency_p99: Duration,
    /// The longest time to a 2xx answer.
    #[serde(rename = "latency_max_microseconds", serialize_with = "microseconds")]
    pub latency_max: Duration,
    /// Whether every life was played, every event was acknowledged, and no delivery failed.
    pub complete: bool,
}

/// A duration as a whole number.
fn microseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

/// Plays the lives, counting into `progress`, until the last has ended or `shutdown` is cancelled; then requests in flight
/// still end, and the report is not complete.
///
/// # Errors
/// If the configuration is invalid. Rejected requests and an unreachable receiver are counted, and are no errors.
pub async fn play(
    config: PlayConfig,
    progress: Arc<Progress>,
    shutdown: CancellationToken,
) -> anyhow::Result<PlayReport> {
    ensure!(
        (1..=CONCURRENCY_MAX).contains(&config.concurrency),
        "{} deliveries at once: between 1 and {CONCURRENCY_MAX} are possible",
        config.concurrency
    );
    let (seed, history_start, orders) = (config.seed, config.start, config.orders);
    let started_at = config.clock.now();
    let started = Instant::now();
    add(&progress.lives_planned, orders);

    let deliverer = Deliverer::new(config.target.clone(), seed, config.clock.clone(), Arc::clone(&progress))
        .context("cannot deliver to the target")?;
    let player = Arc::new(Player {
        deliverer,
        permits: Semaphore::new(config.concurrency),
        pacer: config.rate_per_second.map(|rate| Pacer::new(rate, started)),
        progress: Arc::clone(&progress),
        shutdown,
        config,
    });
    player.run().await?;

    let counts = progress.counts();
    let latency = progress.latency();
    Ok(PlayReport {
        seed,
        history_start,
        started_at,
        elapsed: started.elapsed(),
        complete: counts.lives_done == counts.lives_planned
            && counts.events_acknowledged == counts.events_planned
            && counts.given_up == 0,
        latency_p50: latency.percentile(50),
        latency_p99: latency.percentile(99),
        latency_max: latency.max(),
        counts,
    })
}

/// State shared by all open lives.
struct Player {
    config: PlayConfig,
    deliverer: Deliverer,
    permits: Semaphore,
    pacer: Option<Pacer>,
    progress: Arc<Progress>,
    shutdown: CancellationToken,
}

/// A copy that is sent long after its life.
struct LateDelivery {
    event: PlannedEvent,
    /// Whether the first delivery was acknowledged.
    acknowledged: bool,
}

impl Player {
    async fn run(self: Arc<Self>) -> anyhow::Result<()> {
        // Twice the deliveries, so that the end of a life leaves no slot unused.
        let window = self.config.concurrency * 2;
        let mut open: JoinSet<Vec<LateDelivery>> = JoinSet::new();
        let mut late = VecDeque::new();
        for index in self.config.indices() {
            while open.len() >= window || late.len() > LATE_KEPT_MAX {
                if late.len() > LATE_KEPT_MAX {
                    self.send_late(&mut open, late.pop_front());
                }
                if let Some(ended) = open.join_next().await {
                    late.extend(ended.context("a life's task failed")?);
                }
            }
            if self.shutdown.is_cancelled() {
                break;
            }
            open.spawn(Arc::clone(&self).play_life(index));
        }
        loop {
            if open.len() < window {
                self.send_late(&mut open, late.pop_front());
            }
            if open.len() >= window || late.is_empty() {
                match open.join_next().await {
                    Some(ended) => late.extend(ended.context("a life's task failed")?),
                    None => return Ok(()),
                }
            }
        }
    }

    fn send_late(self: &Arc<Self>, open: &mut JoinSet<Vec<LateDelivery>>, late: Option<LateDelivery>) {
        let Some(LateDelivery { event, acknowledged }) = late else {
            return;
        };
        let player = Arc::clone(self);
        open.spawn(async move {
            let is_acknowledged = player.deliver_copy(&event).await;
            if is_acknowledged && !acknowledged {
                add(&player.progress.events_acknowledged, 1);
            }
            Vec::new()
        });
    }

    /// Sends all events of a life. Returns the copies to send later.
    async fn play_life(self: Arc<Self>, index: u64) -> Vec<LateDelivery> {
        let life = Life::generate(self.config.seed, index, self.config.mode, self.config.start);
        let plan = plan::draw(self.config.seed, index, life.events.len());
        let withheld = life.events.iter().filter(|event| self.config.withholds(&life, event));
        let (events, store) = (life.events.len() - withheld.clone().count(), self.config.events.as_ref());
        withheld.for_each(|event| store.iter().for_each(|store| store.record(event)));
        add(&self.progress.events_planned, u64::try_from(events).expect("a life has few events"));
        let sent = |send: &plan::Send| !self.config.withholds(&life, &life.events[send.event]);
        let mut late = Vec::new();
        match plan.pace {
            Pace::OneByOne => {
                for send in plan.sends.iter().filter(|send| sent(send)) {
                    late.extend(self.send(&life.events[send.event], send.repeat).await);
                }
            }
            Pace::AllAtOnce => {
                let sends = plan
                    .sends
                    .iter()
                    .filter(|send| sent(send))
                    .map(|send| self.send(&life.events[send.event], send.repeat));
                late.extend(futures::future::join_all(sends).await.into_iter().flatten());
            }
        }
        if !self.shutdown.is_cancelled() {
            add(&self.progress.lives_done, 1);
        }
        late
    }

    /// Sends one event, and its immediate copies.
    async fn send(&self, event: &PlannedEvent, repeat: Repeat) -> Option<LateDelivery> {
        if self.shutdown.is_cancelled() {
            return None;
        }
        if let Some(events) = &self.config.events {
            events.record(event);
        }
        let acknowledged = match repeat {
            Repeat::Never | Repeat::LongAfter => self.deliver(event).await,
            Repeat::AtTheSameInstant => {
                let (first, second) = tokio::join!(self.deliver(event), self.deliver_copy(event));
                first || second
            }
            Repeat::AfterItsAnswer => {
                let first = self.deliver(event).await;
                let second = self.deliver_copy(event).await;
                first || second
            }
        };
        if acknowledged {
            add(&self.progress.events_acknowledged, 1);
        }
        (repeat == Repeat::LongAfter).then(|| LateDelivery { event: event.clone(), acknowledged })
    }

    async fn deliver_copy(&self, event: &PlannedEvent) -> bool {
        if self.shutdown.is_cancelled() {
            return false;
        }
        add(&self.progress.duplicates_sent, 1);
        self.deliver(event).await
    }

    /// One delivery, within the limits of concurrency and rate. Returns whether it was acknowledged.
    async fn deliver(&self, event: &PlannedEvent) -> bool {
        let permit = self.permits.acquire().await.expect("the semaphore is never closed");
        if let Some(pacer) = &self.pacer {
            let slot = pacer.take(Instant::now());
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = sleep_until(slot) => {}
            }
        }
        let outcome = self.deliverer.deliver(&event.id, &event.body, &self.shutdown).await;
        drop(permit);
        outcome.is_acknowledged()
    }
}

#[cfg(test)]
mod tests;
