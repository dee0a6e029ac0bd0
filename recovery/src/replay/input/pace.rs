//! Limits the rate of a replay: to the configured maximum, and further while the lag of live traffic grows.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use riverlock_runtime::kafka::REQUEST_TIMEOUT;
use sqlx::PgConnection;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::replay::{Observer, Replay, ReplayError};
use riverlock_ledger::{
    PostgresConfig,
    postgres::bounded,
    reading::ranges::{RangeError, partition_counts},
    store,
};

/// Default maximum of selected records per second.
pub const RATE_DEFAULT: NonZeroU32 = NonZeroU32::new(5_000).expect("5000 is not zero");

/// Time between two measurements of the live consumers' lag.
const LAG_INTERVAL: Duration = Duration::from_secs(1);
/// Lag that is normal, in records: a batch or two.
const LAG_NORMAL: u64 = 2_000;
/// Largest divisor of the rate, so that a replay ends even if no consumer is running.
const DIVISOR_MAX: u32 = 32;

/// Computes when the next records may be applied. Does not read a clock.
#[derive(Debug)]
pub(crate) struct Pacer {
    rate: NonZeroU32,
    /// The rate is divided by this.
    divisor: u32,
    /// Time since the start at which the records scheduled so far are within the rate.
    paid: Duration,
    last_lag: Option<u64>,
}

impl Pacer {
    pub(crate) fn new(rate: NonZeroU32) -> Self {
        Self { rate, divisor: 1, paid: Duration::ZERO, last_lag: None }
    }

    /// Schedules `records` at the time `now` since the start, and returns how long to wait before them. Unused capacity
    /// does not accumulate.
    pub(crate) fn schedule(&mut self, records: usize, now: Duration) -> Duration {
        let start = self.paid.max(now);
        let price =
            Duration::from_secs(1).mul_f64(records as f64 * f64::from(self.divisor) / f64::from(self.rate.get()));
        self.paid = start + price;
        start - now
    }

    /// Takes a new measurement of the live lag; returns a message if the rate changes.
    pub(crate) fn update_lag(&mut self, lag: u64) -> Option<String> {
        let grows = self.last_lag.is_some_and(|last| lag > last);
        self.last_lag = Some(lag);
        let divisor = if lag <= LAG_NORMAL {
            1
        } else if grows {
            (self.divisor * 2).min(DIVISOR_MAX)
        } else {
            self.divisor
        };
        if divisor == self.divisor {
            return None;
        }
        let previous = std::mem::replace(&mut self.divisor, divisor);
        let rate = (self.rate.get() / divisor).max(1);
        Some(if divisor > previous {
            format!("live traffic is {lag} records behind and falling further behind: slowing down to {rate} records/s")
        } else {
            format!("live traffic has caught up: back to {rate} records/s")
        })
    }
}

/// A [`Pacer`] in real time that measures the live lag.
pub(crate) struct Pace {
    pacer: Pacer,
    started: Instant,
    /// The latest watermarks of Kafka's partitions.
    watermarks: watch::Receiver<Watermarks>,
    postgres: PostgresConfig,
    connection: Option<PgConnection>,
    consumers: Vec<&'static str>,
}

/// First offset and end, by topic number and partition.
type Watermarks = HashMap<(i16, i32), (i64, i64)>;

impl Pace {
    pub(crate) async fn start(replay: &Replay<'_>) -> Result<Self, ReplayError> {
        let mut connection = replay.postgres.connect().await?;
        let topics: Vec<String> = replay.consumers.iter().flat_map(|consumer| consumer.topics.clone()).collect();
        let topics = store::topic_ids_to_read(&mut connection, &topics);
        let topics = bounded(replay.postgres.answer_limit(), topics).await?;
        let client = replay.kafka.client().create();
        let meter = Meter { client: client.map_err(ReplayError::kafka("connect to Kafka"))?, topics };
        let (sender, watermarks) = watch::channel(HashMap::new());
        std::thread::Builder::new()
            .name("replay-lag".to_owned())
            .spawn(move || meter.run(&sender))
            .map_err(|_| ReplayError::Panicked)?;
        Ok(Self {
            pacer: Pacer::new(replay.rate),
            started: Instant::now(),
            watermarks,
            postgres: replay.postgres.clone(),
            connection: Some(connection),
            consumers: replay.consumers.iter().map(|consumer| consumer.name).collect(),
        })
    }

    /// Waits until `records` may be applied; returns `false` if the replay is stopped first.
    pub(crate) async fn wait(&mut self, records: usize, observer: &mut dyn Observer, stop: &CancellationToken) -> bool {
        if self.watermarks.has_changed().unwrap_or_default() {
            let watermarks = self.watermarks.borrow_and_update().clone();
            match self.lag(&watermarks).await {
                Ok(lag) => self.pacer.update_lag(lag).iter().for_each(|text| observer.say(text)),
                // Not fatal here: the replay itself retries PostgreSQL or reports the error.
                Err(error) => {
                    tracing::debug!(%error, "cannot measure the live lag: {error}");
                    self.connection = None;
                }
            }
        }
        let wait = self.pacer.schedule(records, self.started.elapsed());
        if wait.is_zero() {
            return !stop.is_cancelled();
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            () = stop.cancelled() => false,
        }
    }

    /// Number of records that the live consumers have not read yet.
    async fn lag(&mut self, watermarks: &Watermarks) -> Result<u64, riverlock_ledger::Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.postgres.connect().await?),
        };
        let mut reached = HashMap::new();
        for consumer in &self.consumers {
            reached.extend(bounded(self.postgres.answer_limit(), store::offsets(connection, consumer)).await?);
        }
        let behind = watermarks.iter().map(|(partition, (low, high))| {
            let reached = reached.get(partition).copied().unwrap_or(*low);
            u64::try_from(high - reached).unwrap_or_default()
        });
        Ok(behind.sum())
    }
}

/// Requests watermarks from Kafka periodically until the receiver is dropped.
struct Meter {
    client: BaseConsumer,
    topics: HashMap<String, i16>,
}

impl Meter {
    fn run(&self, sender: &watch::Sender<Watermarks>) {
        let mut partitions = None;
        while !sender.is_closed() {
            match self.measure(&mut partitions) {
                Ok(watermarks) => drop(sender.send_replace(watermarks)),
                // Not fatal here: the reader retries Kafka or reports the error.
                Err(error) => tracing::debug!(%error, "cannot measure the live lag: {error}"),
            }
            std::thread::sleep(LAG_INTERVAL);
        }
    }

    /// `partitions` caches the number of partitions of each topic.
    fn measure(&self, partitions: &mut Option<BTreeMap<String, i32>>) -> Result<Watermarks, RangeError> {
        let counts = match partitions {
            Some(counts) => counts,
            None => {
                let topics: Vec<String> = self.topics.keys().cloned().collect();
                partitions.insert(partition_counts(&self.client, &topics)?)
            }
        };
        let mut watermarks = HashMap::new();
        for (topic, count) in &*counts {
            for partition in 0..*count {
                let found = self.client.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?;
                watermarks.insert((self.topics[topic], partition), found);
            }
        }
        Ok(watermarks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

    /// Time that 10 000 records take in chunks of 500, if each chunk takes `work`.
    fn run(pacer: &mut Pacer, work: Duration) -> Duration {
        let mut now = Duration::ZERO;
        for _ in 0..20 {
            now += pacer.schedule(500, now) + work;
        }
        now
    }

    #[test]
    fn the_rate_is_never_exceeded() {
        assert_eq!(run(&mut Pacer::new(RATE), Duration::ZERO), Duration::from_millis(9_500));
        assert_eq!(run(&mut Pacer::new(RATE), Duration::from_millis(300)), Duration::from_millis(9_800));
        assert_eq!(
            run(&mut Pacer::new(RATE), Duration::from_secs(1)),
            Duration::from_secs(20),
            "unused capacity does not accumulate"
        );
    }

    #[test]
    fn a_growing_lag_slows_the_replay_down_and_a_small_one_restores_the_rate() {
        let mut pacer = Pacer::new(RATE);
        assert_eq!(pacer.update_lag(LAG_NORMAL), None, "a normal lag");
        assert_eq!(pacer.update_lag(LAG_NORMAL + 1).map(|text| text.contains("slowing down to 500")), Some(true));
        assert_eq!(run(&mut pacer, Duration::ZERO), Duration::from_secs(19));
        assert_eq!(pacer.update_lag(LAG_NORMAL + 1), None, "the lag does not grow");
        for lag in 0..20 {
            pacer.update_lag(LAG_NORMAL + 10 + lag);
        }
        assert_eq!(pacer.divisor, DIVISOR_MAX, "the rate has a lower limit");
        assert_eq!(pacer.update_lag(0).map(|text| text.contains("back to 1000")), Some(true));
    }
}
