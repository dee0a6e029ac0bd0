//! Runs a test again in a child process: with another environment, on another disk, or to be killed.

use std::ffi::OsStr;

use tokio::process::Command;

const ARGUMENT: &str = "RIVERLOCK_TEST_CHILD";

/// The argument from the parent; `None` in a process without such a parent.
pub(super) fn argument() -> Option<String> {
    std::env::var_os(ARGUMENT)?.into_string().ok()
}

/// The command that runs the test with this full name and an argument. The wrapper is a command that runs its arguments.
pub(super) fn command<S: AsRef<OsStr>>(wrapper: impl IntoIterator<Item = S>, test: &str, argument: &str) -> Command {
    let mut words: Vec<_> = wrapper.into_iter().map(|word| word.as_ref().to_owned()).collect();
    words.push(std::env::current_exe().unwrap().into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["--exact", "--nocapture", test]).env(ARGUMENT, argument).kill_on_drop(true);
    command
}

/// Runs the command, and fails unless the test ran and passed.
pub(super) async fn run(mut command: Command) {
    let output = command.output().await.unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("test result: ok. 1 passed"), "{text}");
}
