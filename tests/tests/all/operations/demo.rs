//! `riverlock demo`.

use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

use riverlock_sandbox::stack::{Process, Signal, kafka_for_test};
use riverlock_tests::binary;

use crate::pages::recorded::{Page, is_recording};

fn demo(orders: &str, broker: &str) -> Output {
    Command::new(binary().unwrap())
        .args(["demo", "--orders", orders, "--broker", broker])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn assert_balanced(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let audit = text.lines().find(|line| line.starts_with("audit: ")).unwrap_or_else(|| panic!("{text}"));
    assert!(audit.ends_with(" OK") && audit.contains(" conflict=0 dead=0"), "{audit}");
    assert!(!audit.contains("acknowledged=0 "), "{audit}");
}

#[test]
fn the_demo_balances_on_apache_kafka() {
    if !kafka_for_test("the_demo_balances_on_apache_kafka") {
        return;
    }
    let output = demo(if is_recording() { "1000" } else { "80" }, "kafka");
    assert_balanced(&output);
    let mut readme = Page::open("README.md");
    readme.block_like("demo", &String::from_utf8_lossy(&output.stdout), without_what_differs);
    readme.end();
}

/// The invariant part of the demo's output: steps, the table's first column, and the form of the audit's line.
fn without_what_differs(printed: &str) -> String {
    let lines = printed.lines().filter(|line| !line.starts_with("  "));
    let first_column = |line: &str| line.split("  ").next().unwrap_or_default().to_owned() + "\n";
    lines.map(first_column).collect()
}

#[test]
fn the_demo_balances_on_the_embedded_broker() {
    let output = demo("80", "embedded");
    assert_balanced(&output);
    assert!(String::from_utf8_lossy(&output.stdout).contains("KEEPS NOTHING"));
}

#[test]
fn the_embedded_broker_is_not_given_more_than_it_holds() {
    let output = demo("100000", "embedded");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("BROKER=kafka"), "{text}");
}

/// Processes whose command line or open files contain the demo's folder.
fn processes_in(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(line) = std::fs::read(entry.path().join("cmdline"))
            && String::from_utf8_lossy(&line).contains(folder)
        {
            found.push(name);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_demo_stops_everything_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("demo.log");
    let mut command = Command::new(binary().unwrap());
    command.args(["demo", "--orders", "1200", "--broker", "embedded"]);
    let demo = Process::spawn("demo", &command, &log).unwrap();
    let playing = || async { std::fs::read_to_string(&log).is_ok_and(|text| text.contains("playing")) };
    demo.until_ready(Duration::from_secs(60), playing).await.unwrap();
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", demo.pid())).unwrap();
    let started: Vec<String> = std::fs::read_dir("/tmp")
        .unwrap()
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .filter(|path| path.contains("/riverlock-"))
        .filter(|path| !processes_in(path).is_empty())
        .collect();
    assert!(!started.is_empty(), "nothing was started: {children}");
    let mine: Vec<&String> =
        started.iter().filter(|path| processes_in(path).iter().any(|pid| is_child_of(pid, demo.pid()))).collect();
    assert_eq!(mine.len(), 1, "the demo has one folder: {started:?}");
    let home = mine[0].clone();

    let status = demo.stop(Signal::INT, Duration::from_secs(60)).await.unwrap();
    assert!(!status.success(), "an interrupted demo fails");
    assert_eq!(processes_in(&home), Vec::<String>::new(), "something was left running");
    assert!(!std::path::Path::new(&home).exists(), "the demo's folder was left behind");
}

fn is_child_of(pid: &str, parent: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|ppid| ppid.trim() == parent.to_string()))
}
