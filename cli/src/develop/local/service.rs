//! A service as a child process.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use riverlock_sandbox::stack::{Process, Signal, usage};

use crate::run::services::Service;

/// How long a service may take to end: a little more than its own limit.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// Restarts of a service before the stack fails.
const FAILED_STARTS_MAX: u32 = 20;

/// The process of a service.
pub struct ServiceProcess {
    /// The service.
    pub service: Service,
    process: Process,
    binary: PathBuf,
    config_file: PathBuf,
    admin: u16,
    log: PathBuf,
    restarts: u32,
}

impl ServiceProcess {
    pub(super) fn start(
        service: Service,
        binary: &Path,
        config_file: &Path,
        admin: u16,
        home: &Path,
    ) -> anyhow::Result<Self> {
        let log = home.join(format!("{}.log", service.name()));
        let process = spawn(service, binary, config_file, admin, &log)?;
        let (binary, config_file) = (binary.to_path_buf(), config_file.to_path_buf());
        Ok(Self { service, process, binary, config_file, admin, log, restarts: 0 })
    }

    /// Waits until the service is ready.
    ///
    /// # Errors
    /// When it ends first, or takes longer than `limit`; the error has the end of its log.
    pub async fn until_ready(&self, limit: Duration) -> anyhow::Result<()> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).no_proxy().build()?;
        let url = format!("{}/readyz", self.admin_url());
        let ready = || async { client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) };
        self.process.until_ready(limit, ready).await
    }

    /// The address of its `/metrics`.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The file of its output.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its peak memory in bytes; `None` if the kernel does not report it.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        usage::memory(self.pid()).ok().map(|(_, peak)| peak)
    }

    pub(super) fn restart_if_ended(&mut self) -> anyhow::Result<bool> {
        if self.process.is_running() {
            return Ok(false);
        }
        self.restarts += 1;
        if self.restarts > FAILED_STARTS_MAX {
            return Err(self.process.failure("ended too often"));
        }
        self.process = spawn(self.service, &self.binary, &self.config_file, self.admin, &self.log)?;
        Ok(true)
    }

    /// Kills the process with SIGKILL.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.process.kill().await.map(drop)
    }

    /// Stops the process and waits for its end.
    ///
    /// # Errors
    /// When it does not end on SIGKILL.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.process.stop(Signal::TERM, STOP_WITHIN).await.map(drop)
    }
}

fn spawn(service: Service, binary: &Path, config_file: &Path, admin: u16, log: &Path) -> anyhow::Result<Process> {
    let mut command = Command::new(binary);
    command
        .arg("--config")
        .arg(config_file)
        .arg(service.name())
        .env("RIVERLOCK__ADMIN__LISTEN", format!("127.0.0.1:{admin}"));
    Process::spawn(service.name(), &command, log)
}
