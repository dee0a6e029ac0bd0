//! A Prometheus server with the project's rules, which are made fast enough for a test.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use reqwest::{Client, Url};
use riverlock::develop::local::ServiceProcess;
use riverlock_sandbox::stack::{self, Process};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::tidy::{alerts, code::read};

/// How long the server may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Range of every rate and increase: ten scrapes.
const RANGE: &str = "[10s]";
/// Duration for which a condition must hold.
const HOLDS_FOR: &str = "for: 1s";

/// A running server.
pub(super) struct Prometheus {
    client: Client,
    address: String,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts a server that scrapes the services once a second.
    pub(super) async fn start(services: &[ServiceProcess]) -> Self {
        let folder = stack::temporary_dir().unwrap();
        let home = folder.path();
        write_rules(&home.join("rules"));
        std::fs::write(home.join("prometheus.yml"), configuration(services)).unwrap();
        let port = stack::ports::free_port().unwrap();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", home.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", home.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::spawn("prometheus", &command, &home.join("prometheus.log"));
        let process = process.expect("prometheus cannot be run (`deploy/setup prometheus`)");
        let client = Client::builder().timeout(Duration::from_secs(5)).no_proxy().build().unwrap();
        let address = format!("http://127.0.0.1:{port}");
        let ready = || async {
            let answer = client.get(format!("{address}/-/ready")).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        process.until_ready(START_LIMIT, ready).await.unwrap();
        let this = Self { client, address, _process: process, _folder: folder };
        // Targets are discovered seconds after the start; what happened before the first scrape is no increase.
        let begun = Instant::now();
        while this.series("up == 1").await < services.len() {
            assert!(begun.elapsed() < START_LIMIT, "not every service is scraped");
            sleep(Duration::from_millis(200)).await;
        }
        this
    }

    /// The data of an answer of the API.
    async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let url = Url::parse_with_params(&format!("{}{path}", self.address), parameters).unwrap();
        let answer = self.client.get(url).send().await.unwrap().text().await.unwrap();
        let value: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{answer}: {error}"));
        assert_eq!(value["status"], "success", "{parameters:?}: {value}");
        value["data"].clone()
    }

    /// The names of the alerts that are firing.
    pub(super) async fn firing(&self) -> BTreeSet<String> {
        let data = self.get("/api/v1/alerts", &[]).await;
        let alerts = data["alerts"].as_array().unwrap();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    /// The number of series that a query returns.
    pub(super) async fn series(&self, query: &str) -> usize {
        self.get("/api/v1/query", &[("query", query)]).await["result"].as_array().unwrap().len()
    }
}

fn configuration(services: &[ServiceProcess]) -> String {
    let mut text = "global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }\n".to_owned();
    text.push_str("rule_files: [rules/*.yml]\nscrape_configs:\n  - job_name: riverlock\n    static_configs:\n");
    for service in services {
        let (address, name) = (service.admin_url().replace("http://", ""), service.service.name());
        text.push_str(&format!("      - {{ targets: ['{address}'], labels: {{ service: {name} }} }}\n"));
    }
    text
}

/// Writes the rules with short durations. Ranges with an offset stay: they compare with earlier days.
fn write_rules(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let mut changed = 0;
    for file in alerts::files("deploy/prometheus/rules") {
        let mut text = String::new();
        for line in read(&file).lines() {
            let indent = &line[..line.len() - line.trim_start().len()];
            if line.trim_start().starts_with("for: ") {
                text.push_str(&format!("{indent}{HOLDS_FOR}\n"));
                changed += 1;
            } else if line.trim_start().starts_with("expr: ") && !line.contains(" offset ") {
                text.push_str(&with_short_ranges(line));
                text.push('\n');
            } else {
                text.push_str(line);
                text.push('\n');
            }
        }
        std::fs::write(folder.join(file.file_name().unwrap()), text).unwrap();
    }
    assert!(changed > 40, "only {changed} durations were shortened");
}

fn with_short_ranges(line: &str) -> String {
    let mut parts = line.split('[');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(RANGE);
        text.push_str(part.split_once(']').map_or("", |(_, rest)| rest));
    }
    text
}

/// Has the real promtool check a service's page.
pub(super) async fn check_page(admin_url: &str) {
    let client = Client::builder().timeout(Duration::from_secs(5)).no_proxy().build().unwrap();
    let page = client.get(format!("{admin_url}/metrics")).send().await.unwrap().text().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page");
    std::fs::write(&file, &page).unwrap();
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(std::fs::File::open(&file).unwrap());
    let output = promtool.output().expect("promtool cannot be run (`deploy/setup prometheus`)");
    let complaints = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{admin_url}: {complaints}");
    for needed in ["riverlock_build_info{", "riverlock_component_ready{"] {
        assert!(page.contains(needed), "{admin_url} has no {needed}");
    }
    assert!(
        !page.contains("riverlock_event_latency_seconds") || page.contains("le=\"604800\""),
        "the latency's buckets do not reach a week"
    );
}

#[test]
fn ranges_are_shortened() {
    assert_eq!(with_short_ranges("expr: a[30m] > b[1h] + c"), "expr: a[10s] > b[10s] + c");
}
