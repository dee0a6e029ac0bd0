//! A child process that never outlives this one.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, anyhow};
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use tokio::sync::watch;

use super::usage;

pub use rustix::process::Signal;

/// Lines of a log that an error shows.
const TAIL_LINES: usize = 20;
/// Bytes of a log that are read to find them.
const TAIL_BYTES: u64 = 16 * 1024;
/// The interval at which a server's readiness is checked.
const READY_POLL: Duration = Duration::from_millis(50);
/// How long the kernel may take to end a killed process.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// A child process with its own process group, whose stdout and stderr are appended to a file.
///
/// It ends with this one: on drop its whole group is killed, and when this process is itself killed, the kernel kills the
/// child (`setpriv --pdeathsig`).
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    /// Offset in the log at which this run begins.
    log_start: u64,
    pid: Pid,
    /// Set once the child has been reaped; held while a signal is sent, so that none can reach a later owner of the pid.
    reaped: Arc<Mutex<bool>>,
    exit: watch::Receiver<Option<ExitStatus>>,
    keeper: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command` (program, arguments, environment added to ours, working directory), under `name` in messages.
    /// Its stdin, stdout and stderr are set here.
    ///
    /// # Errors
    ///
    /// When the log cannot be opened or `setpriv` cannot be started. A program that does not exist shows as an early exit.
    pub fn spawn(name: &str, command: &Command, log: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening the log {}", log.display()))?;
        let log_start = file.metadata().with_context(|| format!("reading {}", log.display()))?.len();
        let guarded = guarded(command, file).with_context(|| format!("preparing {name}"))?;

        let reaped = Arc::new(Mutex::new(false));
        let (exit_sender, exit) = watch::channel(None);
        let (started_sender, started) = mpsc::channel();
        let keeper_reaped = Arc::clone(&reaped);
        let keeper = std::thread::Builder::new()
            .name(format!("keeper of {name}"))
            .spawn(move || keep(guarded, &started_sender, &keeper_reaped, &exit_sender))
            .with_context(|| format!("starting the thread that keeps {name}"))?;
        let pid = started
            .recv()
            .with_context(|| format!("the thread that keeps {name} ended"))?
            .with_context(|| format!("starting {name} under setpriv (Debian: util-linux)"))?;
        tracing::debug!(process.name = name, process.pid = pid.as_raw_nonzero().get(), "process started");
        Ok(Self { name: name.to_owned(), log: log.to_path_buf(), log_start, pid, reaped, exit, keeper: Some(keeper) })
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// The file that holds its output.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it is running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// If the thread that waits for the process has ended, which does not happen in practice.
    pub async fn wait(&self) -> Result<ExitStatus> {
        let mut exit = self.exit.clone();
        let status = *exit.wait_for(Option::is_some).await.with_context(|| format!("waiting for {}", self.name))?;
        status.with_context(|| format!("waiting for {}", self.name))
    }

    /// Sends a signal to the process, without its children. Does nothing if it has ended.
    pub fn signal(&self, signal: Signal) {
        let reaped = self.lock();
        if !*reaped {
            // Fails only if the process has just ended.
            let _gone = kill_process(self.pid, signal);
        }
    }

    /// Sends `signal`, waits up to `grace` for the end, then kills the whole group. The status shows which of the two ended
    /// it.
    ///
    /// # Errors
    ///
    /// If it does not end even by SIGKILL.
    pub async fn stop(&self, signal: Signal, grace: Duration) -> Result<ExitStatus> {
        self.signal(signal);
        if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
            return status;
        }
        tracing::warn!(process.name = self.name, grace_seconds = grace.as_secs(), "process did not stop, killing it");
        self.kill().await
    }

    /// Kills the process, its group and its descendants, and waits until they have ended.
    ///
    /// # Errors
    ///
    /// If it does not end because the kernel blocks it.
    pub async fn kill(&self) -> Result<ExitStatus> {
        let descendants = self.kill_now();
        let status = tokio::time::timeout(KILL_LIMIT, self.wait())
            .await
            .with_context(|| format!("{} (pid {}) does not end by SIGKILL", self.name, self.pid()))??;
        let deadline = Instant::now() + KILL_LIMIT;
        while descendants.iter().any(|pid| usage::is_alive(pid.as_raw_nonzero().get())) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(status)
    }

    /// Waits until `check` returns true.
    ///
    /// # Errors
    ///
    /// If the process ends before, or after `limit`; the error shows the end of its log.
    pub async fn until_ready<F, R>(&self, limit: Duration, mut check: F) -> Result<()>
    where
        F: FnMut() -> R,
        R: Future<Output = bool>,
    {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = *self.exit.borrow() {
                return Err(self.failure(&format!("ended before it was ready ({status})")));
            }
            if check().await {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.failure(&format!("was not ready after {} s", limit.as_secs())));
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// An error with a message about this process and the last lines of its log.
    #[must_use]
    pub fn failure(&self, what: &str) -> Error {
        let tail = tail(&self.log, self.log_start).unwrap_or_else(|error| format!("(not readable: {error})"));
        anyhow!("{} {what}; the end of {}:\n{tail}", self.name, self.log.display())
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.reaped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills without waiting. PostgreSQL's children leave the group (they call setsid), so they are killed by pid.
    fn kill_now(&self) -> Vec<Pid> {
        let reaped = self.lock();
        if *reaped {
            return Vec::new();
        }
        let descendants: Vec<Pid> = usage::descendants(self.pid()).into_iter().filter_map(Pid::from_raw).collect();
        // Each fails only if there is no process left.
        let _gone = kill_process_group(self.pid, Signal::KILL);
        for pid in &descendants {
            let _gone = kill_process(*pid, Signal::KILL);
        }
        descendants
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_now();
        if let Some(keeper) = self.keeper.take() {
            // The thread ends as soon as the child has ended, so that its folder can be removed.
            let _panicked = keeper.join();
        }
    }
}

/// `command` under `setpriv`, with its own process group, writing to `log`.
fn guarded(command: &Command, log: File) -> Result<Command> {
    let mut guarded = Command::new("setpriv");
    guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => guarded.env(key, value),
            None => guarded.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        guarded.current_dir(folder);
    }
    let stderr = log.try_clone().context("sharing the log")?;
    guarded.stdin(Stdio::null()).stdout(log).stderr(stderr).process_group(0);
    Ok(guarded)
}

/// Starts the child and waits for its end, in a dedicated thread: `--pdeathsig` fires when the *thread* that started the
/// child ends, so it must not be one of tokio's.
fn keep(
    mut command: Command,
    started: &mpsc::Sender<std::io::Result<Pid>>,
    reaped: &Mutex<bool>,
    exit: &watch::Sender<Option<ExitStatus>>,
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            // The receiver waits for this message.
            let _alone = started.send(Err(error));
            return;
        }
    };
    let pid = Pid::from_child(&child);
    // If the receiver was dropped, the child still has to be reaped.
    let _alone = started.send(Ok(pid));
    // Waits without reaping, so that the pid is not reused before the lock is held.
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {}
    let status = reap(&mut child, reaped);
    exit.send_replace(status);
}

fn reap(child: &mut Child, reaped: &Mutex<bool>) -> Option<ExitStatus> {
    let mut reaped = reaped.lock().unwrap_or_else(PoisonError::into_inner);
    *reaped = true;
    child.wait().ok()
}

/// The last lines of a log, of those after `start`.
fn tail(log: &Path, start: u64) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn an_early_exit_shows_the_end_of_its_own_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, "an earlier run\n").unwrap();
        let process = Process::spawn("counter", &shell("seq 1 100; exit 3"), &log).unwrap();
        process.wait().await.unwrap();
        let error = process.until_ready(Duration::from_secs(5), async || false).await.unwrap_err().to_string();
        assert!(error.contains("counter ended before it was ready (exit status: 3)"), "{error}");
        assert!(error.ends_with("\n99\n100") && error.contains("\n81\n") && !error.contains("\n80\n"), "{error}");
        assert!(!error.contains("earlier"), "{error}");
    }

    #[tokio::test]
    async fn a_process_that_ignores_the_signal_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let child_file = folder.path().join("child");
        let script = format!("trap '' TERM; setsid sleep 1000 & echo $! > {}; wait; wait", child_file.display());
        let process = Process::spawn("deaf", &shell(&script), &folder.path().join("log")).unwrap();
        let is_written = || std::fs::read_to_string(&child_file).is_ok_and(|pid| pid.ends_with('\n'));
        process.until_ready(Duration::from_secs(5), async || is_written()).await.unwrap();
        let child = std::fs::read_to_string(&child_file).unwrap().trim().parse().unwrap();
        assert!(usage::is_alive(child) && process.is_running());

        let status = process.stop(Signal::TERM, Duration::from_millis(100)).await.unwrap();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
        assert!(!usage::is_alive(child) && !process.is_running());
    }

    #[tokio::test]
    async fn a_process_that_handles_the_signal_stops_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::spawn("sleeper", &shell("exec sleep 1000"), &folder.path().join("log")).unwrap();
        let status = process.stop(Signal::TERM, Duration::from_secs(5)).await.unwrap();
        assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    }
}
