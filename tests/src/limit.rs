//! A time limit for each test.

use std::{
    io::Write as _,
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

/// Far more than the slowest test takes on a busy machine.
const TEST_LIMIT: Duration = Duration::from_mins(25);

/// The time limit of the test that created it, until it is dropped. A test that exceeds it ends the whole run and prints
/// where its threads wait, because a blocked thread cannot be ended alone.
pub(crate) struct Limit {
    _ended: mpsc::Sender<()>,
}

impl Limit {
    /// Starts the time limit of the current test.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn start() -> std::io::Result<Self> {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let (ended, end) = mpsc::channel::<()>();
        std::thread::Builder::new().name("limit".to_owned()).spawn(move || {
            if end.recv_timeout(TEST_LIMIT) == Err(RecvTimeoutError::Timeout) {
                let minutes = TEST_LIMIT.as_secs() / 60;
                // Not by a macro: the test harness holds back what those print until the test has ended.
                let told = write!(
                    std::io::stderr(),
                    "{test} has not ended after {minutes} minutes. Threads of this process:\n  {}\n",
                    threads().join("\n  ")
                );
                drop(told);
                std::process::exit(1);
            }
        })?;
        Ok(Self { _ended: ended })
    }
}

/// The name of every thread, and where in the kernel it waits.
fn threads() -> Vec<String> {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks.map(|task| format!("{} in {}", read(task.path().join("comm")), read(task.path().join("wchan")))).collect()
}
