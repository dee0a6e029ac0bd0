//! The measurements.

use std::{sync::Arc, time::Duration};

use riverlock_runtime::kafka::{KafkaConfig, topics};
use riverlock_sandbox::stack::{self, EmbeddedBroker, Kafka, ports};
use riverlock_tests::load::{self, Outcome};

use super::{
    floor,
    server::{Receiver, Route},
};

/// Most concurrent requests: more than are in flight at sustained rates.
pub(crate) const CONNECTIONS: usize = 256;
/// Orders whose events are sent repeatedly.
const ORDERS: u64 = 200;
/// The first rate of the search, per second, and the increase per step in percent.
const RATE_FIRST: u64 = 1_000;
const RATE_STEP_PERCENT: u64 = 120;
/// Duration of a step of the search.
const STEP: Duration = Duration::from_secs(2);
/// A rate is sustained if every request is answered 202 and 99 of 100 within this time.
const SUSTAINED_LATENCY: Duration = Duration::from_millis(250);
/// Attempts per rate, because other programs may have used the machine for a moment.
const TRIES: u32 = 2;

/// The options of a run.
pub(crate) struct Options {
    /// On librdkafka's mock cluster.
    pub(crate) embedded: bool,
    /// Turns of each route.
    pub(crate) rounds: u32,
    /// Duration of a turn.
    pub(crate) seconds: u64,
    /// Partitions of every topic. librdkafka sends one request per partition, so more of them mean smaller batches.
    pub(crate) partitions: i32,
    /// Properties of librdkafka for ingest, as `name=value`.
    pub(crate) properties: Vec<String>,
    /// The highest rate, per second; if absent, it is searched for.
    pub(crate) rate: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        let partitions = KafkaConfig::default().partitions;
        Self { embedded: false, rounds: 3, seconds: 4, partitions, properties: Vec::new(), rate: None }
    }
}

/// The bodies, which are sent repeatedly.
pub(crate) fn bodies() -> Vec<bytes::Bytes> {
    let lives = riverlock_tests::lives(1, ORDERS);
    riverlock_tests::events(&lives).map(|event| event.body.clone()).collect()
}

enum Broker {
    Kafka(Kafka),
    /// Kept so that the broker runs.
    Embedded(EmbeddedBroker),
}

impl Broker {
    fn bootstrap(&self) -> String {
        match self {
            Self::Kafka(kafka) => kafka.bootstrap(),
            Self::Embedded(embedded) => embedded.bootstrap(),
        }
    }
}

/// The broker and the receivers.
pub(crate) struct Stage {
    broker: Broker,
    receivers: Vec<Receiver>,
    pub(crate) bodies: Arc<[bytes::Bytes]>,
    _home: tempfile::TempDir,
}

/// The result of one turn of a route.
pub(crate) struct Turn {
    pub(crate) route: Route,
    pub(crate) cpu_us_per_event: f64,
    pub(crate) outcome: Outcome,
}

/// The turns at one rate, by round.
pub(crate) struct Level {
    pub(crate) rate: u64,
    pub(crate) rounds: Vec<Round>,
}

/// One turn of each.
pub(crate) struct Round {
    /// In the order of `Route::ALL`.
    pub(crate) turns: Vec<Turn>,
    /// CPU time per record of librdkafka alone, in microseconds.
    pub(crate) floor_us: f64,
}

/// All measurements.
pub(crate) struct Measured {
    /// The highest rate that ingest sustained, per second.
    pub(crate) highest: u64,
    pub(crate) at_half: Level,
    pub(crate) at_highest: Level,
}

impl Stage {
    pub(crate) async fn start(options: &Options) -> anyhow::Result<Self> {
        let home = stack::temporary_dir()?;
        let config = KafkaConfig { partitions: options.partitions, ..KafkaConfig::default() };
        let broker = if options.embedded {
            Broker::Embedded(EmbeddedBroker::start(
                topics::names(&config).into_iter().map(|name| (name, config.partitions)),
            )?)
        } else {
            eprintln!("bench: starting Apache Kafka");
            Broker::Kafka(Kafka::start(&home.path().join("kafka"), &[ports::free_port()?]).await?)
        };
        let brokers = broker.bootstrap();
        if !options.embedded {
            topics::create(&KafkaConfig { brokers: brokers.clone(), ..config }).await?;
        }
        let mut receivers = Vec::new();
        for route in Route::ALL {
            receivers.push(Receiver::start(route, &brokers, &options.properties, home.path()).await?);
        }
        Ok(Self { broker, receivers, bodies: bodies().into(), _home: home })
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        drop(self.receivers);
        match self.broker {
            Broker::Kafka(mut kafka) => kafka.stop().await,
            Broker::Embedded(_) => Ok(()),
        }
    }

    pub(crate) async fn measure(&self, options: &Options) -> anyhow::Result<Measured> {
        // Warm-up: connections, buffers, the broker's code.
        for receiver in &self.receivers {
            load::run(&receiver.target(Arc::clone(&self.bodies)), RATE_FIRST, STEP).await;
        }
        let highest = match options.rate {
            Some(rate) => rate,
            None => self.highest().await?,
        };
        let at_half = self.level(highest / 2, options).await?;
        let at_highest = self.level(highest, options).await?;
        Ok(Measured { highest, at_half, at_highest })
    }

    /// The highest rate of the search's steps that ingest sustains.
    async fn highest(&self) -> anyhow::Result<u64> {
        let full = &self.receivers[Route::ALL.len() - 1];
        let target = full.target(Arc::clone(&self.bodies));
        let (mut highest, mut rate, mut tries) = (0, RATE_FIRST, 0);
        while tries < TRIES {
            let outcome = load::run(&target, rate, STEP).await;
            let all = outcome.accepted_count() == outcome.sent() && outcome.unsent == 0;
            let p99 = outcome.latency.percentile(99);
            let sustained = all && p99 <= SUSTAINED_LATENCY;
            eprintln!(
                "bench: {rate} events/s are {}sustained (p99 {:.1} ms)",
                if sustained { "" } else { "not " },
                p99.as_secs_f64() * 1e3
            );
            if sustained {
                (highest, rate, tries) = (rate, rate * RATE_STEP_PERCENT / 100, 0);
            } else {
                tries += 1;
            }
        }
        anyhow::ensure!(highest > 0, "not even {RATE_FIRST} events/s are sustained here: is the machine busy?");
        Ok(highest)
    }

    async fn level(&self, rate: u64, options: &Options) -> anyhow::Result<Level> {
        let mut rounds = Vec::new();
        for round in 1..=options.rounds {
            eprintln!("bench: {rate} events/s to each route in turn, round {round} of {}", options.rounds);
            let mut turns = Vec::new();
            for receiver in &self.receivers {
                turns.push(self.turn(receiver, rate, Duration::from_secs(options.seconds)).await?);
            }
            let brokers = self.broker.bootstrap();
            let floor_us = floor::measure(&brokers, rate, options.seconds, &options.properties).await?;
            rounds.push(Round { turns, floor_us });
        }
        Ok(Level { rate, rounds })
    }

    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    async fn turn(&self, receiver: &Receiver, rate: u64, duration: Duration) -> anyhow::Result<Turn> {
        let before = receiver.cpu()?;
        let outcome = load::run(&receiver.target(Arc::clone(&self.bodies)), rate, duration).await;
        let cpu = receiver.cpu()? - before;
        let sent = outcome.sent();
        anyhow::ensure!(sent > 0, "no request was sent to the {} route", receiver.route.name());
        if outcome.accepted_count() < sent {
            eprintln!(
                "bench: of {sent} requests to the {} route these were answered: {:?}",
                receiver.route.name(),
                outcome.answers
            );
        }
        Ok(Turn { route: receiver.route, cpu_us_per_event: cpu.as_secs_f64() * 1e6 / sent as f64, outcome })
    }
}
