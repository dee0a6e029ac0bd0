//! A limit on how long a test takes.

use std::{
    io::Write as _,
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

/// Far more than the slowest test takes on a busy machine.
const TEST_LIMIT: Duration = Duration::from_mins(25);

/// While it lives, the test that made it is timed. One that hangs ends the whole run and says what hangs: a thread that is
/// blocked cannot be ended alone, and a run that never ends tells nothing.
pub(crate) struct Limit {
    _ended: mpsc::Sender<()>,
}

impl Limit {
    /// Starts to count.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn start() -> std::io::Result<Self> {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let (ended, end) = mpsc::channel::<()>();
        std::thread::Builder::new().name("limit".to_owned()).spawn(move || {
            if end.recv_timeout(TEST_LIMIT) == Err(RecvTimeoutError::Timeout) {
                let minutes = TEST_LIMIT.as_secs() / 60;
                // Not by a macro: the harness keeps what those print until the test has ended.
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

/// Name of every thread, and where in the kernel it waits.
fn threads() -> Vec<String> {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks.map(|task| format!("{} in {}", read(task.path().join("comm")), read(task.path().join("wchan")))).collect()
}
