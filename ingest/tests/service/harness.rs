//! Starts the service on a mock cluster, speaks HTTP to it byte by byte, and reads what is in Kafka.

use std::{
    net::SocketAddr,
    sync::{
        LazyLock,
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
use riverlock_ingest::config::{EndpointConfig, EndpointMode, IngestConfig, LimitsConfig, SecretConfig};
use riverlock_runtime::{Clock, Context, Secret, SystemClock, kafka::KafkaConfig, telemetry, topics};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

/// The secret of the endpoint.
pub(crate) const SECRET: &str = "whsec_0123456789abcdef";
/// The path of the endpoint.
pub(crate) const PATH: &str = "/webhooks/digital-river";
/// How long to wait for what no deadline bounds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// When Digital River gives up.
pub(crate) const DIGITAL_RIVER_TIMEOUT: Duration = Duration::from_millis(3_000);

static METRICS: LazyLock<metrics_exporter_prometheus::PrometheusHandle> =
    LazyLock::new(|| telemetry::metrics().expect("this is the only recorder"));

/// The service under test. Every test has its own endpoint name, so that its metrics are its own.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) cluster: MockCluster<'static, DefaultProducerContext>,
    pub(crate) kafka: KafkaConfig,
    pub(crate) context: Context,
    pub(crate) endpoint: String,
}

/// An answer, read to its end.
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

    /// Where the receipt says the event lies.
    pub(crate) fn position(&self) -> (&str, i32, i64) {
        let partition = self.body["partition"].as_i64().unwrap();
        (self.body["topic"].as_str().unwrap(), partition.try_into().unwrap(), self.body["offset"].as_i64().unwrap())
    }
}

/// A service that is ready, with usual limits.
pub(crate) async fn service() -> Service {
    let service = start(LimitsConfig::default(), |_| {}).await;
    service.ready().await;
    service
}

/// A service that may not be ready yet; `prepare` sees the cluster first.
pub(crate) async fn start(
    limits: LimitsConfig,
    prepare: impl FnOnce(&MockCluster<'static, DefaultProducerContext>),
) -> Service {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    LazyLock::force(&METRICS);
    let cluster = MockCluster::new(1).unwrap();
    let kafka = KafkaConfig { brokers: cluster.bootstrap_servers(), partitions: 4, ..KafkaConfig::default() };
    for topic in topics::names(&kafka) {
        cluster.create_topic(&topic, 4, 1).unwrap();
    }
    prepare(&cluster);
    let endpoint = format!("main-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
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
    };
    let context = Context::new();
    let address = riverlock_ingest::start(config, &kafka, &context).await.unwrap().address;
    Service { address, cluster, kafka, context, endpoint }
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
        insecure: false,
    }
}

/// An event of a type with its order.
pub(crate) fn event(id: &str, event_type: &str, order: &str) -> String {
    format!(
        r#"{{ "id": "{id}",  "type":"{event_type}","data":{{"object":{{"id":"{order}","n":27.010}}}},"liveMode":false }}"#
    )
}

/// The header as Digital River writes it.
pub(crate) fn sign(body: &[u8]) -> String {
    let now: DateTime<Utc> = SystemClock.now();
    let timestamp = now.timestamp().to_string();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(&[timestamp.as_bytes(), b".", body].concat());
    let mac = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
    format!("{timestamp}, {mac}")
}

/// A whole request, signed, as bytes. `headers` are lines that end in `\r\n`.
pub(crate) fn request(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: riverlock\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\nDigitalRiver-Signature: {}\r\n{headers}\r\n",
        body.len(),
        sign(body)
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

impl Service {
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes, and reads the answer.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_answer(&mut stream).await
    }

    /// Sends a signed event, and reads the answer.
    pub(crate) async fn post(&self, body: &str) -> Answer {
        self.send(&request(PATH, "", body.as_bytes())).await
    }

    /// Waits until the service says that it is ready.
    pub(crate) async fn ready(&self) {
        wait_until("it is ready", || self.context.health.not_ready().is_empty()).await;
    }

    /// Ends the service and says whether it ended as it should.
    pub(crate) async fn stop(&self) -> bool {
        self.context.shutdown.stop();
        self.context.shutdown.wait(PATIENCE).await
    }

    /// A metric of the endpoint, or of the whole process where it has no endpoint.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        let comma = if labels.is_empty() { "" } else { "," };
        let line = format!("{name}{{endpoint=\"{}\"{comma}{labels}}} ", self.endpoint);
        let page = METRICS.render();
        let value = page.lines().find_map(|text| text.strip_prefix(&line));
        value.unwrap_or_else(|| panic!("no {line}in\n{page}")).parse().unwrap()
    }

    /// How many requests ended that way.
    pub(crate) fn requests(&self, outcome: &str) -> f64 {
        self.metric("ingest_requests_total", &format!("outcome=\"{outcome}\""))
    }

    /// The record at a position.
    pub(crate) fn record(&self, (topic, partition, offset): (&str, i32, i64)) -> OwnedMessage {
        let consumer: BaseConsumer = self.kafka.consumer("test").create().unwrap();
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        consumer.assign(&assignment).unwrap();
        consumer.poll(PATIENCE).expect("there is a record").unwrap().detach()
    }

    /// All records of a topic, waiting until there are `count`.
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

/// Waits for what no signal tells.
pub(crate) async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
