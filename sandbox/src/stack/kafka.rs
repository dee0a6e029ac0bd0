//! Apache Kafka on this machine: one broker or three.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use tokio::net::TcpStream;

use super::{
    Process, Signal,
    folders::{create_dir, repo_root},
    ports,
};

/// A broker starts within 2 s on an idle machine and about 30 s on a busy one; recovery after a kill takes longer.
const READY_LIMIT: Duration = Duration::from_secs(180);
/// A clean stop transfers leadership and flushes everything.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How long one request for the cluster's members may take.
const METADATA_LIMIT: Duration = Duration::from_secs(2);

/// A KRaft cluster of one or three nodes on loopback ports, with its data in a folder. Ends with this process.
///
/// Nodes are numbered from 1, as in Kafka; node N listens on the N-th port.
#[derive(Debug)]
pub struct Kafka {
    dir: PathBuf,
    ports: Vec<u16>,
    nodes: Vec<Option<Process>>,
}

impl Kafka {
    /// Starts one node per port on the data in `dir`, which is created the first time, and waits until all of them know each
    /// other. Logs are `dir/node-N.log`. Topics are not created.
    ///
    /// # Errors
    ///
    /// When there are not one or three ports, one is taken, Kafka's jars have not been fetched, or a node does not start;
    /// the error shows the end of its log.
    pub async fn start(dir: &Path, ports: &[u16]) -> Result<Self> {
        ensure!(matches!(ports.len(), 1 | 3), "Kafka starts with one node or three, not {}", ports.len());
        create_dir(dir)?;
        let nodes = ports.iter().map(|_| None).collect();
        let mut kafka = Self { dir: dir.to_path_buf(), ports: ports.to_vec(), nodes };
        kafka.start_all().await?;
        Ok(kafka)
    }

    /// The value for a client's `bootstrap.servers`: all nodes, comma-separated.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let servers: Vec<String> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        servers.join(",")
    }

    /// A node's process, if it was started.
    #[must_use]
    pub fn node(&self, node: usize) -> Option<&Process> {
        self.nodes.get(node.checked_sub(1)?)?.as_ref()
    }

    /// Starts all nodes that do not run, side by side (two of three make a quorum), and waits until they serve.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub async fn start_all(&mut self) -> Result<()> {
        let stopped: Vec<usize> = (1..=self.ports.len()).filter(|node| !self.is_running(*node)).collect();
        for node in &stopped {
            self.launch(*node)?;
        }
        for node in stopped {
            self.until_ready(node).await?;
        }
        Ok(())
    }

    /// Starts one node again and waits until it serves and knows all running nodes. Does nothing if it runs.
    ///
    /// # Errors
    ///
    /// As [`Self::start`]; also if too few others run for a quorum.
    pub async fn start_node(&mut self, node: usize) -> Result<()> {
        self.check(node)?;
        if self.is_running(node) {
            return Ok(());
        }
        self.launch(node)?;
        self.until_ready(node).await
    }

    /// Stops one node cleanly: it transfers its partitions first. Does nothing if it has ended.
    ///
    /// # Errors
    ///
    /// When there is no such node, or it does not end even by SIGKILL.
    pub async fn stop_node(&mut self, node: usize) -> Result<()> {
        self.check(node)?;
        if let Some(process) = self.nodes[node - 1].take() {
            process.stop(Signal::TERM, STOP_LIMIT).await?;
        }
        Ok(())
    }

    /// Kills one node. The others detect it within the session timeout of 4 s (see `deploy/kafka/kafka`), and only then
    /// accept it again.
    ///
    /// # Errors
    ///
    /// When there is no such node, or it does not end.
    pub async fn kill_node(&mut self, node: usize) -> Result<()> {
        self.check(node)?;
        if let Some(process) = self.nodes[node - 1].take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Stops all nodes cleanly. [`Self::start_all`] starts them again with the same data.
    ///
    /// # Errors
    ///
    /// When one does not end even by SIGKILL.
    pub async fn stop(&mut self) -> Result<()> {
        // At the same time: a node that is left without a quorum waits for one.
        for process in self.nodes.iter().flatten() {
            process.signal(Signal::TERM);
        }
        for process in self.nodes.iter_mut().filter_map(Option::take) {
            process.stop(Signal::TERM, STOP_LIMIT).await?;
        }
        Ok(())
    }

    fn check(&self, node: usize) -> Result<()> {
        ensure!((1..=self.ports.len()).contains(&node), "there is no node {node} of {}", self.ports.len());
        Ok(())
    }

    fn is_running(&self, node: usize) -> bool {
        self.node(node).is_some_and(Process::is_running)
    }

    fn launch(&mut self, node: usize) -> Result<()> {
        let port = self.ports[node - 1];
        ports::ensure_free(port, "Kafka")?;
        let list: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        let mut command = Command::new(repo_root()?.join("deploy/kafka/kafka"));
        command.arg("run").arg("--dir").arg(&self.dir);
        command.args(["--node", &node.to_string(), "--ports", &list.join(",")]);
        let name = format!("Kafka node {node}");
        let log = self.dir.join(format!("node-{node}.log"));
        self.nodes[node - 1] = Some(Process::spawn(&name, &command, &log)?);
        Ok(())
    }

    async fn until_ready(&self, node: usize) -> Result<()> {
        let process = self.node(node).with_context(|| format!("node {node} was not started"))?;
        let port = self.ports[node - 1];
        let running = |process: &Option<Process>| process.as_ref().is_some_and(Process::is_running);
        let expected: Vec<i32> =
            (1..).zip(&self.nodes).filter(|(_, process)| running(process)).map(|(id, _)| id).collect();
        process
            .until_ready(READY_LIMIT, || {
                let expected = expected.clone();
                async move { serves(port, expected).await }
            })
            .await
    }
}

/// Whether the node on `port` answers, and knows all nodes of `expected`.
///
/// A node opens its port before it serves, and serves only once the controller has accepted it. Only its own answer counts:
/// the others may still list it from before it was killed.
async fn serves(port: u16, expected: Vec<i32>) -> bool {
    if TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        return false;
    }
    let members = tokio::task::spawn_blocking(move || members(port)).await;
    matches!(members, Ok(Ok(members)) if expected.iter().all(|node| members.contains(node)))
}

fn members(port: u16) -> Result<Vec<i32>> {
    let consumer: BaseConsumer<QuietContext> = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{port}"))
        .set_log_level(RDKafkaLogLevel::Emerg)
        .create_with_context(QuietContext)
        .context("creating a Kafka client")?;
    let metadata = consumer.fetch_metadata(None, METADATA_LIMIT).context("requesting the cluster's members")?;
    Ok(metadata.brokers().iter().map(rdkafka::metadata::MetadataBroker::id).collect())
}

/// A client context that does not log refused connections, which are normal while a broker starts.
struct QuietContext;

impl ClientContext for QuietContext {
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, _message: &str) {}

    fn error(&self, _error: KafkaError, _reason: &str) {}
}

impl ConsumerContext for QuietContext {}
