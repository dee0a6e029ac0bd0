//! A PostgreSQL server on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{
    Process, Signal,
    folders::{create_dir, repo_root},
    ports,
};

/// User, password and database, as `deploy/postgres/postgres` creates them.
const NAME: &str = "riverlock";
/// A first start creates the cluster; a start after a kill replays the log.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// A fast shutdown writes a checkpoint.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long a running server may take to answer a start-up message.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Version 3.0 of PostgreSQL's protocol.
const PROTOCOL: i32 = 3 << 16;

/// A PostgreSQL server on a loopback port, with its data in a folder. Ends with this process.
#[derive(Debug)]
pub struct Postgres {
    dir: PathBuf,
    port: u16,
    process: Process,
}

impl Postgres {
    /// Starts a server on the cluster in `dir`, which is created there the first time, and waits until it accepts
    /// connections. Its log is `dir/server.log`.
    ///
    /// # Errors
    ///
    /// When the port is taken, or the server does not start; the error shows the end of its log.
    pub async fn start(dir: &Path, port: u16) -> Result<Self> {
        create_dir(dir)?;
        let process = launch(dir, port).await?;
        Ok(Self { dir: dir.to_path_buf(), port, process })
    }

    /// The URL, `postgres://user:password@host:port/database`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(NAME)
    }

    /// The URL of another database of this server.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://{NAME}:{NAME}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Stops the server cleanly; open transactions are rolled back. Does nothing if it has ended.
    ///
    /// # Errors
    ///
    /// When it does not end even by SIGKILL.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.stop(Signal::INT, STOP_LIMIT).await?;
        Ok(())
    }

    /// Kills the server, like a power failure: committed data is available after [`Self::restart`].
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await?;
        Ok(())
    }

    /// Stops the server if it runs, and starts it again with the same data on the same port.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.process = launch(&self.dir, self.port).await?;
        Ok(())
    }
}

async fn launch(dir: &Path, port: u16) -> Result<Process> {
    ports::ensure_free(port, "PostgreSQL")?;
    let mut command = Command::new(repo_root()?.join("deploy/postgres/postgres"));
    command.arg("run").arg("--dir").arg(dir).args(["--port", &port.to_string(), "--die-with-parent"]);
    let process = Process::spawn("PostgreSQL", &command, &dir.join("server.log"))?;
    process.until_ready(READY_LIMIT, || accepts_connections(port)).await?;
    Ok(process)
}

/// Whether the server requests authentication.
async fn accepts_connections(port: u16) -> bool {
    matches!(tokio::time::timeout(ANSWER_LIMIT, first_answer(port)).await, Ok(Ok(b'R')))
}

/// The type of the first message after a start-up message: `R` requests authentication, `E` is an error (the server starts,
/// stops or recovers).
async fn first_answer(port: u16) -> Result<u8> {
    let mut parameters = Vec::new();
    for text in ["user", NAME, "database", NAME, ""] {
        parameters.extend_from_slice(text.as_bytes());
        parameters.push(0);
    }
    let length = i32::try_from(8 + parameters.len())?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend_from_slice(&PROTOCOL.to_be_bytes());
    message.extend_from_slice(&parameters);

    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(&message).await?;
    let mut kind = [0; 1];
    let read = stream.read(&mut kind).await?;
    ensure!(read == 1, "the server closed the connection");
    Ok(kind[0])
}
