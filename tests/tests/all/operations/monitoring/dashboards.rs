//! Dashboards as code: their form, and that every query returns data on a running stack.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::prometheus::Prometheus;
use crate::tidy::{alerts, code::read};

/// How long a query may return nothing: until enough was scraped.
const PATIENCE: Duration = Duration::from_secs(30);

/// Queries without data on a healthy stack, with the reason.
const RARE: [(&str, &str); 2] = [
    ("Time since the last successful audit", "the first audit runs after five minutes"),
    ("Shipment reports", "no account at Digital River is configured"),
];

/// Values of the variables that Grafana replaces.
const VARIABLES: [(&str, &str); 2] = [("$__rate_interval", "5m"), ("$job", ".+")];

struct Panel {
    board: String,
    title: String,
    value: Value,
    queries: Vec<String>,
}

/// The boards with their files' names.
fn boards() -> Vec<(String, Value)> {
    let files = alerts::files("deploy/grafana/dashboards");
    let board = |file: &std::path::PathBuf| {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_str(&read(file)).unwrap())
    };
    files.iter().map(board).collect()
}

fn panels() -> Vec<Panel> {
    let mut found = Vec::new();
    for (board, value) in boards() {
        for panel in value["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
            let targets = panel["targets"].as_array().unwrap();
            let queries = targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
            let title = panel["title"].as_str().unwrap().to_owned();
            found.push(Panel { board: board.clone(), title, value: panel.clone(), queries });
        }
    }
    assert!(found.len() > 40, "only {} panels were found", found.len());
    found
}

/// Asks a real Prometheus every query of every dashboard.
pub(super) async fn check_all(prometheus: &Prometheus) {
    let mut asked = 0;
    let mut empty = BTreeSet::new();
    let until = Instant::now() + PATIENCE;
    for panel in panels() {
        for query in &panel.queries {
            let query = VARIABLES.iter().fold(query.clone(), |query, (name, value)| query.replace(name, value));
            asked += 1;
            let is_rare = RARE.iter().any(|(title, _)| *title == panel.title);
            loop {
                if prometheus.series(&query).await > 0 || is_rare {
                    break;
                }
                if Instant::now() > until {
                    empty.insert(format!("{}, {}: {query}", panel.board, panel.title));
                    break;
                }
                sleep(Duration::from_millis(500)).await;
            }
        }
    }
    assert!(asked > 60, "only {asked} queries were asked");
    assert!(empty.is_empty(), "queries without data: {empty:#?}");
}

#[test]
fn dashboards_have_the_form_that_grafana_expects_everywhere() {
    let mut uids = BTreeSet::new();
    for (name, board) in boards() {
        assert_eq!(board["uid"], name.as_str(), "the uid is the file's name, so that links stay valid");
        assert!(uids.insert(name.clone()));
        assert!(board["id"].is_null(), "{name} has an id of one Grafana");
        let variables: Vec<&str> =
            board["templating"]["list"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
        assert_eq!(variables, ["datasource", "job", "runbooks"], "{name}");
    }
    assert_eq!(uids.len(), 4);
    let known: BTreeSet<String> = alerts::alerts().into_iter().map(|alert| alert.name).collect();
    for Panel { board, title, value, queries } in panels() {
        assert_eq!(value["datasource"]["uid"], "${datasource}", "{board}, {title}");
        assert!(value["fieldConfig"]["defaults"]["unit"].is_string(), "{board}, {title} has no unit");
        assert!(value["description"].as_str().is_some_and(|text| text.len() > 5), "{board}, {title}: no description");
        assert!(!queries.is_empty(), "{board}, {title} asks nothing");
        for query in queries {
            let is_selected =
                query.contains("job=~\"$job\"") || query.contains("riverlock:") || query.contains("ALERTS");
            assert!(is_selected, "{board}, {title} ignores the variable `job`: {query}");
            assert!(!query.contains("rate(") || query.contains("[$__rate_interval]"), "{board}, {title}: {query}");
        }
        for link in value["links"].as_array().into_iter().flatten() {
            let name = link["title"].as_str().unwrap();
            assert!(known.contains(name), "{board}, {title} links to {name}, which is no alert");
            assert_eq!(link["url"], format!("${{runbooks}}/{name}.md"));
        }
    }
}
