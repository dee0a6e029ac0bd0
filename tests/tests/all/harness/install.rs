//! An install with Apache Kafka and PostgreSQL of its own, whose commands and services run as processes.

use std::{path::Path, process::Command, time::Duration};

use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use riverlock_runtime::kafka::KafkaConfig;
use riverlock_sandbox::{
    PlannedEvent,
    stack::{self, Kafka, Process, ports},
};
use riverlock_schemas::kafka::record;
use riverlock_tests::{Database, binary, outcomes};
use tokio::time::{Instant, sleep};

use super::PATIENCE;

/// The servers and the configuration.
pub(crate) struct Install {
    pub(crate) database: Database,
    pub(crate) kafka: KafkaConfig,
    broker: Kafka,
    home: tempfile::TempDir,
}

/// A running service.
pub(crate) struct Service {
    pub(crate) process: Process,
    admin: u16,
}

impl Install {
    /// Starts the servers. There are no topics yet.
    pub(crate) async fn start() -> Self {
        let home = stack::temporary_dir().unwrap();
        let broker = Kafka::start(&home.path().join("kafka"), &[ports::free_port().unwrap()]).await.unwrap();
        let kafka = KafkaConfig { brokers: broker.bootstrap(), ..KafkaConfig::default() };
        let database = Database::create().await.unwrap();
        let config = format!(
            "[kafka]\nbrokers = '{}'\n[postgres]\nurl = '{}'\n[invoice_fetcher]\nstore = 'file://{}'\n\
             api_base_url = 'http://127.0.0.1:1'\n[invoice_fetcher.test]\napi_key = 'key'\n",
            kafka.brokers,
            database.config.url.expose(),
            home.path().display(),
        );
        std::fs::write(home.path().join("riverlock.toml"), config).unwrap();
        Self { database, kafka, broker, home }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary().unwrap());
        command.arg("--config").arg(self.home.path().join("riverlock.toml")).args(arguments);
        command
    }

    /// Runs a command that must succeed; returns its output.
    pub(crate) async fn run(&self, arguments: &[&str]) -> String {
        let output = tokio::process::Command::from(self.command(arguments)).output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?} ends with {}: {text}{error}", output.status);
        text
    }

    /// Starts a service and waits until it is ready.
    pub(crate) async fn service(&self, name: &str) -> Service {
        let admin = ports::free_port().unwrap();
        let mut command = self.command(&[name]);
        command.env("RIVERLOCK__ADMIN__LISTEN", format!("127.0.0.1:{admin}"));
        let process = Process::spawn(name, &command, &self.log(name, admin)).unwrap();
        let ready = || async { page(admin, "/readyz").await.is_some() };
        process.until_ready(PATIENCE, ready).await.unwrap();
        Service { process, admin }
    }

    fn log(&self, name: &str, admin: u16) -> std::path::PathBuf {
        Path::join(self.home.path(), format!("{name}-{admin}.log"))
    }

    /// Writes events to the topics that `topic` names for their types, with the header of the type.
    pub(crate) async fn produce<'a>(
        &self,
        events: impl IntoIterator<Item = &'a PlannedEvent>,
        topic: impl Fn(&str) -> String,
    ) {
        let producer: FutureProducer = self.kafka.producer().create().unwrap();
        let mut sent = Vec::new();
        for event in events {
            let (topic, key) = (topic(event.event_type), event.order_id.as_ref().unwrap_or(&event.id));
            let header = Header { key: record::EVENT_TYPE, value: Some(event.event_type) };
            let headers = OwnedHeaders::new().insert(header);
            let wanted = FutureRecord::to(&topic).key(key).payload(&event.body[..]).headers(headers);
            sent.push(producer.send_result(wanted).map_err(|(error, _)| error).unwrap());
        }
        for delivery in sent {
            delivery.await.unwrap().unwrap();
        }
    }

    /// Waits until this many records have an outcome.
    pub(crate) async fn until_outcomes(&self, records: usize) {
        let mut connection = self.database.connect().await.unwrap();
        let (until, wanted) = (Instant::now() + PATIENCE, i64::try_from(records).unwrap());
        loop {
            let outcomes = outcomes(&mut connection).await.unwrap();
            if outcomes.values().sum::<i64>() >= wanted {
                return;
            }
            assert!(Instant::now() < until, "{outcomes:?} of {wanted}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn stop(mut self) {
        self.broker.stop().await.unwrap();
    }
}

impl Service {
    /// The sum of a metric's values over all labels that contain this text.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> f64 {
        let page = page(self.admin, "/metrics").await.expect("the service answers");
        let lines = page.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels));
        let values: Vec<f64> = lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert!(!values.is_empty(), "there is no {name} with {labels}");
        values.iter().sum()
    }
}

/// A page of a service's listener; `None` unless the answer is a success.
async fn page(admin: u16, path: &str) -> Option<String> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build().unwrap();
    let answer = client.get(format!("http://127.0.0.1:{admin}{path}")).send().await.ok()?;
    answer.error_for_status().ok()?.text().await.ok()
}
