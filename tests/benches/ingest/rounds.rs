//! The measurements.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};
use riverlock_runtime::kafka::{KafkaConfig, topics};
use riverlock_sandbox::stack::{self, EmbeddedBroker, Kafka, Signal, ports};
use riverlock_schemas::kafka::topics::Topics;
use riverlock_tests::load::{self, Outcome};

use super::{
    floor,
    server::{self, OTHER_PREFIX, Receiver, Route},
};

/// Orders whose events are sent repeatedly.
const ORDERS: u64 = 200;
/// Connections of the first, the second and the paced load.
pub(crate) const CONNECTIONS: usize = 256;
const FEWER_CONNECTIONS: usize = 64;
/// Duration of the warm-up of each route: the broker compiles its code.
const WARM_UP: Duration = Duration::from_secs(3);
/// The only broker.
const NODE: usize = 1;
/// How long the broker is paused, and how long requests are sent before and after.
const PAUSE: Duration = Duration::from_secs(8);
const PAUSE_MARGIN: Duration = Duration::from_secs(1);

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
    /// Requests per second of the paced load.
    pub(crate) rate: u64,
    /// The program of another version, which is measured in the same rounds.
    pub(crate) against: Option<PathBuf>,
    /// Whether the broker is paused once for each version.
    pub(crate) pause: bool,
    /// The only load to measure, by its connections; 0 for the paced load.
    pub(crate) only: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        let partitions = KafkaConfig::default().partitions;
        Self {
            embedded: false,
            rounds: 3,
            seconds: 4,
            partitions,
            properties: Vec::new(),
            rate: 5_000,
            against: None,
            pause: true,
            only: None,
        }
    }
}

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// One request after the other on each of these connections.
    Connections(usize),
    /// This many per second, whether they are answered or not.
    Paced(u64),
}

impl Load {
    fn all(options: &Options) -> Vec<Self> {
        let all = [Self::Connections(CONNECTIONS), Self::Connections(FEWER_CONNECTIONS), Self::Paced(options.rate)];
        let is_wanted = |load: &Self| match (options.only, load) {
            (None, _) | (Some(0), Self::Paced(_)) => true,
            (Some(only), Self::Connections(connections)) => only == *connections,
            (Some(_), Self::Paced(_)) => false,
        };
        all.into_iter().filter(is_wanted).collect()
    }

    async fn run(self, receiver: &Receiver, bodies: &Arc<[bytes::Bytes]>, duration: Duration) -> Outcome {
        let target = |connections| receiver.target(Arc::clone(bodies), connections);
        match self {
            Self::Connections(connections) => load::saturate(&target(connections), duration).await,
            Self::Paced(rate) => load::run(&target(CONNECTIONS), rate, duration).await,
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connections(connections) => write!(f, "{connections} connections"),
            Self::Paced(rate) => write!(f, "paced {rate} events/s"),
        }
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

    /// CPU time used so far; none for the embedded broker, which is part of the load generator.
    fn cpu(&self) -> anyhow::Result<Duration> {
        match self {
            Self::Kafka(kafka) => server::cpu_of(kafka.node(NODE).context("the broker has ended")?.pid()),
            Self::Embedded(_) => Ok(Duration::ZERO),
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
    /// CPU time of the receiver per event, in microseconds.
    pub(crate) service_us: f64,
    /// That of the broker.
    pub(crate) broker_us: f64,
    pub(crate) outcome: Outcome,
}

/// The turns with one load, by round.
pub(crate) struct Level {
    pub(crate) load: Load,
    pub(crate) rounds: Vec<Round>,
}

/// One turn of each.
pub(crate) struct Round {
    pub(crate) turns: Vec<Turn>,
    /// CPU time per record of librdkafka alone at the rate of the complete ingest, in microseconds.
    pub(crate) floor_us: f64,
}

/// All measurements.
pub(crate) struct Measured {
    pub(crate) levels: Vec<Level>,
    /// The outcome of requests while the broker is paused.
    pub(crate) pause: Vec<(Route, Outcome)>,
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
        for route in Route::OWN {
            receivers.push(Receiver::start(route, &brokers, &options.properties, home.path()).await?);
        }
        if let Some(program) = &options.against {
            create_other_topics(&brokers, options.partitions).await?;
            receivers.push(Receiver::start_other(program, &brokers, home.path()).await?);
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
        for receiver in &self.receivers {
            Load::Connections(CONNECTIONS).run(receiver, &self.bodies, WARM_UP).await;
        }
        let mut levels = Vec::new();
        for load in Load::all(options) {
            levels.push(self.level(load, options).await?);
        }
        let mut pause = Vec::new();
        if let (Broker::Kafka(kafka), true) = (&self.broker, options.pause) {
            for receiver in self.receivers.iter().filter(|one| matches!(one.route, Route::Full | Route::Other)) {
                pause.push((receiver.route, self.while_paused(kafka, receiver, options.rate).await?));
            }
        }
        Ok(Measured { levels, pause })
    }

    async fn level(&self, load: Load, options: &Options) -> anyhow::Result<Level> {
        let mut rounds = Vec::new();
        for round in 1..=options.rounds {
            eprintln!("bench: {load} to each route in turn, round {round} of {}", options.rounds);
            let mut turns = Vec::new();
            for receiver in &self.receivers {
                turns.push(self.turn(receiver, load, Duration::from_secs(options.seconds)).await?);
            }
            let full =
                turns.iter().find(|turn| turn.route == Route::Full).context("the complete ingest has no turn")?;
            let rate = (full.outcome.accepted_count() / options.seconds).max(1);
            let brokers = self.broker.bootstrap();
            let floor_us = floor::measure(&brokers, rate, options.seconds, &options.properties).await?;
            rounds.push(Round { turns, floor_us });
        }
        Ok(Level { load, rounds })
    }

    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    async fn turn(&self, receiver: &Receiver, load: Load, duration: Duration) -> anyhow::Result<Turn> {
        let (service, broker) = (receiver.cpu()?, self.broker.cpu()?);
        let outcome = load.run(receiver, &self.bodies, duration).await;
        let (service, broker) = (receiver.cpu()? - service, self.broker.cpu()? - broker);
        let sent = outcome.sent();
        anyhow::ensure!(sent > 0, "no request was sent to the {} route", receiver.route.name());
        if outcome.accepted_count() < sent {
            eprintln!(
                "bench: of {sent} requests to the {} route these were answered: {:?}",
                receiver.route.name(),
                outcome.answers
            );
        }
        let per_event = |cpu: Duration| cpu.as_secs_f64() * 1e6 / sent as f64;
        Ok(Turn { route: receiver.route, service_us: per_event(service), broker_us: per_event(broker), outcome })
    }

    /// Sends the paced load while the broker is paused for [`PAUSE`].
    async fn while_paused(&self, kafka: &Kafka, receiver: &Receiver, rate: u64) -> anyhow::Result<Outcome> {
        eprintln!("bench: the broker is paused for {} s", PAUSE.as_secs());
        let node = kafka.node(NODE).context("the broker has ended")?;
        let pause = async {
            tokio::time::sleep(PAUSE_MARGIN).await;
            node.signal(Signal::STOP);
            tokio::time::sleep(PAUSE).await;
            node.signal(Signal::CONT);
        };
        let duration = PAUSE + 2 * PAUSE_MARGIN;
        let (outcome, ()) = tokio::join!(Load::Paced(rate).run(receiver, &self.bodies, duration), pause);
        Ok(outcome)
    }
}

/// Creates the topics of a version that had one for each of some event types, as well as this version's.
async fn create_other_topics(brokers: &str, partitions: i32) -> anyhow::Result<()> {
    let config = KafkaConfig {
        brokers: brokers.to_owned(),
        topic_prefix: OTHER_PREFIX.to_owned(),
        partitions,
        ..KafkaConfig::default()
    };
    topics::create(&config).await?;
    let admin: AdminClient<DefaultClientContext> = config.client().create()?;
    let names: Vec<String> =
        Topics::default_former_types().map(|event_type| format!("{OTHER_PREFIX}.raw.{event_type}")).collect();
    let settings = [("message.timestamp.type", "LogAppendTime"), ("max.message.bytes", "4456448")];
    let new: Vec<NewTopic<'_>> = names
        .iter()
        .map(|name| {
            let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
            settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
        })
        .collect();
    for created in admin.create_topics(&new, &AdminOptions::new()).await? {
        created.map_err(|(name, code)| anyhow::anyhow!("topic {name} was not created: {code}"))?;
    }
    Ok(())
}
