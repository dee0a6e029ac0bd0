//! Harness: starts the service with a mock cluster, sends raw HTTP to it, and reads the records in Kafka.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use base64::Engine;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{Headers, OwnedMessage},
    mocking::MockCluster,
    producer::DefaultProducerContext,
};
use riverlock_ingest::{
    Configuration,
    config::{EndpointConfig, EndpointMode, IngestConfig, LimitsConfig, SecretConfig},
};
use riverlock_runtime::{
    Clock, Context, Secret, SystemClock,
    kafka::{KafkaConfig, topics},
    telemetry,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

/// The secret of the endpoint.
pub(crate) const SECRET: &str = "whsec_0123456789abcdef";
/// The path of the endpoint.
pub(crate) const PATH: &str = "/webhooks/digital-river";
/// How long to wait for conditions without a deadline.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Digital River's timeout for deliveries.
pub(crate) const DIGITAL_RIVER_TIMEOUT: Duration = Duration::from_millis(3_000);

static METRICS: LazyLock<metrics_exporter_prometheus::PrometheusHandle> =
    LazyLock::new(|| telemetry::metrics().expect("this is the only recorder"));

/// The log of all tests in this process.
pub(crate) static LOG: LazyLock<Log> = LazyLock::new(Log::install);

/// An in-memory log.
#[derive(Clone)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn install() -> Self {
        let log = Self(Arc::default());
        let writer = log.clone();
        // No other test installs a subscriber.
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).try_init().unwrap();
        log
    }

    /// The lines that contain a text.
    pub(crate) fn lines(&self, text: &str) -> Vec<String> {
        let log = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The service under test. Every test has its own endpoint name, so that its metrics are separate.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) cluster: MockCluster<'static, DefaultProducerContext>,
    pub(crate) kafka: KafkaConfig,
    pub(crate) context: Context,
    pub(crate) endpoint: String,
    pub(crate) folder: TempDir,
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: serde_json::Value,
}

impl Answer {
    /// The code of the only error.
    pub(crate) fn code(&self) -> &str {
        self.body["errors"][0]["code"].as_str().unwrap_or_default()
    }

    /// The position in the receipt.
    pub(crate) fn position(&self) -> (&str, i32, i64) {
        let partition = self.body["partition"].as_i64().unwrap();
        (self.body["topic"].as_str().unwrap(), partition.try_into().unwrap(), self.body["offset"].as_i64().unwrap())
    }
}

/// The default limits, but without a shutdown delay.
pub(crate) fn limits() -> LimitsConfig {
    LimitsConfig { shutdown_delay: Duration::ZERO, ..LimitsConfig::default() }
}

/// A ready service with the default limits.
pub(crate) async fn service() -> Service {
    let service = start(limits(), |_| {}).await;
    service.ready().await;
    service
}

/// A mock cluster with all topics, its settings, and a unique name for the endpoint.
fn cluster() -> (MockCluster<'static, DefaultProducerContext>, KafkaConfig, String) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    LazyLock::force(&METRICS);
    LazyLock::force(&LOG);
    let cluster = MockCluster::new(1).unwrap();
    let kafka = KafkaConfig { brokers: cluster.bootstrap_servers(), partitions: 4, ..KafkaConfig::default() };
    for topic in topics::names(&kafka) {
        cluster.create_topic(&topic, 4, 1).unwrap();
    }
    (cluster, kafka, format!("main-{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
}

/// Starts a service, which may not be ready yet; `prepare` gets the cluster first.
pub(crate) async fn start(
    limits: LimitsConfig,
    prepare: impl FnOnce(&MockCluster<'static, DefaultProducerContext>),
) -> Service {
    let (cluster, kafka, endpoint) = cluster();
    prepare(&cluster);
    let config = IngestConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        limits,
        endpoints: vec![
            endpoint_config(&endpoint, PATH),
            EndpointConfig {
                mode: EndpointMode::Live,
                secrets: Vec::new(),
                insecure: true,
                ..endpoint_config(&format!("{endpoint}-open"), "/open/")
            },
        ],
        ..IngestConfig::default()
    };
    let context = Context::new();
    let address = riverlock_ingest::start(config, &kafka, &context).await.unwrap().address;
    Service { address, cluster, kafka, context, endpoint, folder: tempfile::tempdir().unwrap() }
}

/// A ready service whose endpoint has a secret that expires at `expires_at` by `clock`.
pub(crate) async fn with_expiring_secret(expires_at: DateTime<Utc>, clock: Arc<dyn Clock>) -> Service {
    let (cluster, kafka, endpoint) = cluster();
    let mut config = endpoint_config(&endpoint, PATH);
    config.secrets[0].expires_at = Some(expires_at);
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = IngestConfig { listen, limits: limits(), endpoints: vec![config], ..IngestConfig::default() };
    let context = Context { clock, ..Context::new() };
    let address = riverlock_ingest::start(config, &kafka, &context).await.unwrap().address;
    let service = Service { address, cluster, kafka, context, endpoint, folder: tempfile::tempdir().unwrap() };
    service.ready().await;
    service
}

/// Sections of the configuration that are only read at start.
pub(crate) const SECTIONS_AT_START: [&str; 3] = ["kafka", "admin", "telemetry"];

/// A ready service that reloads its configuration from a file. `NAME` in the text stands for the name of its endpoint,
/// `FOLDER` for the folder of the file; `files` are created in that folder. Files with the names of [`SECTIONS_AT_START`]
/// stand for these sections.
pub(crate) async fn configured(text: &str, files: &[(&str, &str)]) -> Service {
    let (cluster, kafka, endpoint) = cluster();
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let service =
        Service { address: ([127, 0, 0, 1], 0).into(), cluster, kafka, context: Context::new(), endpoint, folder };
    let file = service.configure(text);
    let read = move || riverlock_runtime::config::load::<IngestConfig>(Some(&file));
    let config = read().unwrap();
    let path = service.folder.path().to_owned();
    let load = Arc::new(move || {
        let text = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
        let with = |all: Configuration, name: &&'static str| all.with_section(name, &text(name));
        Ok(SECTIONS_AT_START.iter().fold(read()?.into(), with))
    });
    let server = riverlock_ingest::start_reloading(config, load, &service.kafka, &service.context).await;
    let service = Service { address: server.unwrap().address, ..service };
    service.ready().await;
    service
}

fn endpoint_config(name: &str, path: &str) -> EndpointConfig {
    let secret =
        SecretConfig { id: "first".to_owned(), secret: Secret::new(SECRET), not_before: None, expires_at: None };
    EndpointConfig {
        name: name.to_owned(),
        path: path.to_owned(),
        mode: EndpointMode::Both,
        secrets: vec![secret],
        tolerance: Duration::from_secs(300),
        basic: None,
        oauth: Vec::new(),
        allow: None,
        insecure: false,
    }
}

/// An event of a type with its order.
pub(crate) fn event(id: &str, event_type: &str, order: &str) -> String {
    format!(
        r#"{{ "id": "{id}",  "type":"{event_type}","data":{{"object":{{"id":"{order}","n":27.010}}}},"liveMode":false }}"#
    )
}

/// The signature header in Digital River's format.
pub(crate) fn sign(body: &[u8]) -> String {
    sign_with(SECRET, body)
}

/// The signature header in Digital River's format, for any secret.
pub(crate) fn sign_with(secret: &str, body: &[u8]) -> String {
    let now: DateTime<Utc> = SystemClock.now();
    let timestamp = now.timestamp().to_string();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(&[timestamp.as_bytes(), b".", body].concat());
    let mac = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    format!("{timestamp}, {mac}")
}

/// A complete signed request. `headers` are lines that end with `\r\n`.
pub(crate) fn request(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    unsigned(path, &format!("DigitalRiver-Signature: {}\r\n{headers}", sign(body)), body)
}

/// A complete request with only the required headers and `headers`.
pub(crate) fn unsigned(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: riverlock\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len(),
    );
    [head.as_bytes(), body].concat()
}

/// Reads an answer to the end of the connection.
pub(crate) async fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: serde_json::from_str(body).unwrap_or_default() }
}

/// Sends bytes, and reads the answer.
pub(crate) async fn send(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_answer(&mut stream).await
}

impl Service {
    /// Writes the configuration file.
    pub(crate) fn configure(&self, text: &str) -> PathBuf {
        let file = self.folder.path().join("ingest.toml");
        let folder = self.folder.path().display().to_string();
        let text = text.replace("NAME", &self.endpoint).replace("FOLDER", &folder);
        std::fs::write(&file, format!("listen = '127.0.0.1:0'\nreload_interval = '50ms'\n{text}")).unwrap();
        file
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes, and reads the answer.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Answer {
        send(self.address, bytes).await
    }

    /// Sends a signed event, and reads the answer.
    pub(crate) async fn post(&self, body: &str) -> Answer {
        self.send(&request(PATH, "", body.as_bytes())).await
    }

    /// Waits until the service is ready.
    pub(crate) async fn ready(&self) {
        wait_until("it is ready", || self.context.health.not_ready().is_empty()).await;
    }

    /// Stops the service and returns whether it stopped without a failure.
    pub(crate) async fn stop(&self) -> bool {
        self.context.shutdown.stop();
        self.context.shutdown.wait(PATIENCE).await
    }

    /// A metric of the endpoint.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        let value = self.try_metric(name, labels);
        value.unwrap_or_else(|| panic!("no {name} of {} with {labels} in\n{}", self.endpoint, METRICS.render()))
    }

    /// Like [`Self::metric`], but `None` if there is no such metric.
    pub(crate) fn try_metric(&self, name: &str, labels: &str) -> Option<f64> {
        let comma = if labels.is_empty() { "" } else { "," };
        let line = format!("{name}{{endpoint=\"{}\"{comma}{labels}}} ", self.endpoint);
        METRICS.render().lines().find_map(|text| text.strip_prefix(&line)?.parse().ok())
    }

    /// The number of requests with this outcome.
    pub(crate) fn requests(&self, outcome: &str) -> f64 {
        self.metric("riverlock_ingest_requests_total", &format!("outcome=\"{outcome}\""))
    }

    /// The record at a position.
    pub(crate) fn record(&self, (topic, partition, offset): (&str, i32, i64)) -> OwnedMessage {
        let consumer: BaseConsumer = self.kafka.consumer("test").create().unwrap();
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        consumer.assign(&assignment).unwrap();
        consumer.poll(PATIENCE).expect("there is a record").unwrap().detach()
    }

    /// Waits for `count` records of a topic.
    pub(crate) fn records(&self, topic: &str, count: usize) -> Vec<OwnedMessage> {
        let consumer: BaseConsumer = self.kafka.consumer("test").create().unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in 0..4 {
            assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        (0..count).map(|_| consumer.poll(PATIENCE).expect("there is a record").unwrap().detach()).collect()
    }
}

/// A header of a record, as text.
pub(crate) fn header<'a>(record: &'a OwnedMessage, name: &str) -> Option<&'a str> {
    let headers = record.headers()?;
    headers.iter().find(|header| header.key == name).map(|header| std::str::from_utf8(header.value.unwrap()).unwrap())
}

/// A metric of the whole process.
pub(crate) fn process_metric(line: &str) -> f64 {
    let page = METRICS.render();
    let value = page.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {line} in\n{page}")).parse().unwrap()
}

/// Polls a condition for which there is no notification.
pub(crate) async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
