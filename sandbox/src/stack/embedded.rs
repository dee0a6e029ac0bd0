//! librdkafka's mock cluster, for machines without Java or Maven Central.

use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rdkafka::mocking::MockCluster;

/// Capacity of a partition in bytes of record batches; beyond it the broker drops the oldest records, of which neither
/// producer nor consumer is notified (librdkafka, `rdkafka_mock.c`).
pub const PARTITION_CAPACITY_BYTES: u64 = 5 * 1024 * 1024;

/// Capacity of a partition in records.
pub const PARTITION_CAPACITY_RECORDS: u64 = 100_000;

/// How long the broker may take to end.
const END_WAIT: Duration = Duration::from_secs(10);

/// One broker inside this process, on a loopback port, so that other processes can use it too.
///
/// It keeps its records in memory, and only [`PARTITION_CAPACITY_BYTES`] of them per partition; it has no admin interface
/// (topics are given at the start), finds no offset by time, and forgets everything on drop.
#[derive(Debug)]
pub struct EmbeddedBroker {
    bootstrap: String,
    /// Dropping the sender ends the thread.
    stop: Option<mpsc::Sender<()>>,
    /// Is closed when the thread has ended.
    ended: mpsc::Receiver<()>,
}

impl EmbeddedBroker {
    /// Starts the broker with these topics (name, number of partitions).
    ///
    /// # Errors
    ///
    /// If librdkafka cannot create the cluster or a topic.
    pub fn start(topics: impl Iterator<Item = (String, i32)>) -> Result<Self> {
        let topics: Vec<(String, i32)> = topics.collect();
        let (ready_sender, ready) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let (running, ended) = mpsc::channel::<()>();
        // The cluster cannot move between threads, so it stays in its own thread.
        std::thread::Builder::new()
            .name("embedded broker".to_owned())
            .spawn(move || {
                let cluster = make_cluster(&topics);
                let bootstrap = cluster.as_ref().map(MockCluster::bootstrap_servers);
                let failed = bootstrap.is_err();
                // `start` waits for this message, and its drop for the end of the thread.
                let _alone = ready_sender.send(bootstrap.map_err(|error| format!("{error:#}")));
                if !failed {
                    let _dropped = stopped.recv();
                }
                drop(cluster);
                drop(running);
            })
            .context("starting the embedded broker's thread")?;
        let bootstrap = ready
            .recv()
            .context("the embedded broker's thread ended")?
            .map_err(|error| anyhow::anyhow!("starting the embedded broker: {error}"))?;
        Ok(Self { bootstrap, stop: Some(stop), ended })
    }

    /// The value for a client's `bootstrap.servers`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.bootstrap.clone()
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.stop.take();
        // A broker that hangs must not block a test.
        if self.ended.recv_timeout(END_WAIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the embedded broker has not ended after {} s and is abandoned", END_WAIT.as_secs());
        }
    }
}

fn make_cluster(topics: &[(String, i32)]) -> Result<MockCluster<'static, rdkafka::producer::DefaultProducerContext>> {
    let cluster = MockCluster::new(1).context("creating the cluster")?;
    for (topic, partitions) in topics {
        cluster.create_topic(topic, *partitions, 1).with_context(|| format!("creating the topic {topic}"))?;
    }
    Ok(cluster)
}
