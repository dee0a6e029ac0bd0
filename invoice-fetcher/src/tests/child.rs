//! A test that runs again in a process of its own: in another environment, on another disk, or to be killed.

use std::ffi::OsStr;

use tokio::process::Command;

const TOLD: &str = "RIVERLOCK_TEST_CHILD";

/// What the parent told this process; nothing in a process that has no such parent.
pub(super) fn told() -> Option<String> {
    std::env::var_os(TOLD)?.into_string().ok()
}

/// The command that runs one test (its full name) and tells it something. A wrapper ends with what runs its arguments.
pub(super) fn command<S: AsRef<OsStr>>(wrapper: impl IntoIterator<Item = S>, test: &str, told: &str) -> Command {
    let mut words: Vec<_> = wrapper.into_iter().map(|word| word.as_ref().to_owned()).collect();
    words.push(std::env::current_exe().unwrap().into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["--exact", "--nocapture", test]).env(TOLD, told).kill_on_drop(true);
    command
}

/// Runs it, and fails unless the test ran and passed.
pub(super) async fn run(mut command: Command) {
    let output = command.output().await.unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("test result: ok. 1 passed"), "{text}");
}
