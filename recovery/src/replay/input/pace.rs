//! How fast a replay goes: never faster than it was told to, and slower when live traffic falls behind.

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

/// Selected records per second, unless told otherwise.
pub const RATE_DEFAULT: NonZeroU32 = NonZeroU32::new(5_000).expect("it is not zero");

/// How often the live consumers' lag is measured.
const LAG_INTERVAL: Duration = Duration::from_secs(1);
/// A lag up to this many records is everyday life: a batch or two.
const LAG_EVERYDAY: u64 = 2_000;
/// A replay that backs off goes at least at this part of its rate, so that it ends even where nobody consumes.
const SLOWEST: u32 = 32;

/// Decides when the next records may go. Counts, and knows no clock of its own.
#[derive(Debug)]
pub(crate) struct Pacer {
    rate: NonZeroU32,
    /// The rate is divided by this.
    divisor: u32,
    /// When everything that has gone so far has been paid for.
    paid: Duration,
    last_lag: Option<u64>,
}

impl Pacer {
    pub(crate) fn new(rate: NonZeroU32) -> Self {
        Self { rate, divisor: 1, paid: Duration::ZERO, last_lag: None }
    }

    /// Lets `records` go at the time `now` since the start, and says how long to wait before them. What was not used is not
    /// saved up.
    pub(crate) fn admit(&mut self, records: usize, now: Duration) -> Duration {
        let start = self.paid.max(now);
        let price =
            Duration::from_secs(1).mul_f64(records as f64 * f64::from(self.divisor) / f64::from(self.rate.get()));
        self.paid = start + price;
        start - now
    }

    /// Takes a new measurement of the live lag; when the rate changes because of it, says so.
    pub(crate) fn see_lag(&mut self, lag: u64) -> Option<String> {
        let grows = self.last_lag.is_some_and(|last| lag > last);
        self.last_lag = Some(lag);
        let divisor = if lag <= LAG_EVERYDAY {
            1
        } else if grows {
            (self.divisor * 2).min(SLOWEST)
        } else {
            self.divisor
        };
        if divisor == self.divisor {
            return None;
        }
        let was = std::mem::replace(&mut self.divisor, divisor);
        let rate = (self.rate.get() / divisor).max(1);
        Some(if divisor > was {
            format!("live traffic is {lag} records behind, and that grows: backing off to {rate} records/s")
        } else {
            format!("live traffic has caught up: back to {rate} records/s")
        })
    }
}

/// A [`Pacer`] in real time, with the lag measured beside it.
pub(crate) struct Pace {
    pacer: Pacer,
    started: Instant,
    /// Where Kafka's partitions begin and end, as of now.
    watermarks: watch::Receiver<Watermarks>,
    postgres: PostgresConfig,
    connection: Option<PgConnection>,
    consumers: Vec<&'static str>,
}

/// First offset and next offset, by topic number and partition.
type Watermarks = HashMap<(i16, i32), (i64, i64)>;

impl Pace {
    pub(crate) async fn start(replay: &Replay<'_>) -> Result<Self, ReplayError> {
        let mut connection = replay.postgres.connect().await?;
        let topics: Vec<String> = replay.consumers.iter().flat_map(|consumer| consumer.topics.clone()).collect();
        let topics = store::topic_ids_to_read(&mut connection, &topics);
        let topics = bounded(replay.postgres.answer_limit(), topics).await?;
        let client = replay.kafka.client().create();
        let meter = Meter { client: client.map_err(ReplayError::kafka("be connected to"))?, topics };
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

    /// Waits until `records` may go; `false` when the replay is asked to end first.
    pub(crate) async fn wait(&mut self, records: usize, observer: &mut dyn Observer, stop: &CancellationToken) -> bool {
        if self.watermarks.has_changed().unwrap_or_default() {
            let watermarks = self.watermarks.borrow_and_update().clone();
            match self.lag(&watermarks).await {
                Ok(lag) => self.pacer.see_lag(lag).iter().for_each(|text| observer.say(text)),
                // The replay itself waits for PostgreSQL, or says what is wrong with it.
                Err(error) => {
                    tracing::debug!(%error, "the live lag could not be measured: {error}");
                    self.connection = None;
                }
            }
        }
        let wait = self.pacer.admit(records, self.started.elapsed());
        if wait.is_zero() {
            return !stop.is_cancelled();
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            () = stop.cancelled() => false,
        }
    }

    /// How many records the live consumers have not read yet.
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

/// Asks Kafka where its partitions end, until nobody wants to know any more.
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
                // The reader waits for Kafka, or says what is wrong with it.
                Err(error) => tracing::debug!(%error, "the live lag could not be measured: {error}"),
            }
            std::thread::sleep(LAG_INTERVAL);
        }
    }

    /// `partitions` is how many each topic has, once Kafka has told it.
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

    /// How long 10 000 records take in chunks of 500, if each chunk takes `work`.
    fn run(pacer: &mut Pacer, work: Duration) -> Duration {
        let mut now = Duration::ZERO;
        for _ in 0..20 {
            now += pacer.admit(500, now) + work;
        }
        now
    }

    #[test]
    fn no_more_records_go_in_a_second_than_the_rate_allows() {
        assert_eq!(run(&mut Pacer::new(RATE), Duration::ZERO), Duration::from_millis(9_500));
        assert_eq!(run(&mut Pacer::new(RATE), Duration::from_millis(300)), Duration::from_millis(9_800));
        assert_eq!(run(&mut Pacer::new(RATE), Duration::from_secs(1)), Duration::from_secs(20), "nothing is saved up");
    }

    #[test]
    fn a_growing_lag_slows_the_replay_down_and_a_small_one_sets_it_free() {
        let mut pacer = Pacer::new(RATE);
        assert_eq!(pacer.see_lag(LAG_EVERYDAY), None, "everyday life");
        assert_eq!(pacer.see_lag(LAG_EVERYDAY + 1).map(|text| text.contains("backing off to 500")), Some(true));
        assert_eq!(run(&mut pacer, Duration::ZERO), Duration::from_secs(19));
        assert_eq!(pacer.see_lag(LAG_EVERYDAY + 1), None, "it does not grow");
        for lag in 0..20 {
            pacer.see_lag(LAG_EVERYDAY + 10 + lag);
        }
        assert_eq!(pacer.divisor, SLOWEST, "it goes on all the same");
        assert_eq!(pacer.see_lag(0).map(|text| text.contains("back to 1000")), Some(true));
    }
}
