//! librdkafka's mock cluster in place of Apache Kafka, where Java or Maven Central cannot be had.

use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rdkafka::mocking::MockCluster;

/// What one partition holds before the broker drops its oldest records, in bytes of record batches (librdkafka,
/// `rdkafka_mock.c`). Nothing tells the producer or the consumer that a record has gone.
pub const PARTITION_CAPACITY_BYTES: u64 = 5 * 1024 * 1024;

/// The same, in records.
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
    /// Dropping it ends the thread.
    stop: Option<mpsc::Sender<()>>,
    /// Says so when the thread has ended.
    ended: mpsc::Receiver<()>,
}

impl EmbeddedBroker {
    /// Starts the broker with these topics (name, number of partitions).
    ///
    /// # Errors
    ///
    /// When librdkafka cannot make the cluster or a topic.
    pub fn start(topics: impl Iterator<Item = (String, i32)>) -> Result<Self> {
        let topics: Vec<(String, i32)> = topics.collect();
        let (ready_sender, ready) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let (alive, ended) = mpsc::channel::<()>();
        // The cluster cannot move between threads, so it gets one in which it lives and dies.
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
                drop(alive);
            })
            .context("starting the embedded broker's thread")?;
        let bootstrap = ready
            .recv()
            .context("the embedded broker's thread ended")?
            .map_err(|error| anyhow::anyhow!("starting the embedded broker: {error}"))?;
        Ok(Self { bootstrap, stop: Some(stop), ended })
    }

    /// What a client's `bootstrap.servers` is set to.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.bootstrap.clone()
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.stop.take();
        // A broker that hangs must not take a test with it.
        if self.ended.recv_timeout(END_WAIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the embedded broker has not ended after {} s and is left to itself", END_WAIT.as_secs());
        }
    }
}

fn make_cluster(topics: &[(String, i32)]) -> Result<MockCluster<'static, rdkafka::producer::DefaultProducerContext>> {
    let cluster = MockCluster::new(1).context("making the cluster")?;
    for (topic, partitions) in topics {
        cluster.create_topic(topic, *partitions, 1).with_context(|| format!("making the topic {topic}"))?;
    }
    Ok(cluster)
}
