//! `docs/reference/topics.md`: its tables name every topic, header and message.

use std::collections::BTreeSet;

use riverlock_runtime::kafka::{KafkaConfig, topics};

use crate::tidy::code::{read, root};

const PAGE: &str = "docs/reference/topics.md";

/// Values of headers, which are not names.
const VALUES: [&str; 6] = ["ORIGIN_WEBHOOK", "ORIGIN_QUARANTINE", "ORIGIN_RECONCILE", "TRUE", "PASSED", "FAILED"];

/// The words in backticks in the first column of the table under a heading.
fn listed(page: &str, heading: &str) -> BTreeSet<String> {
    let rest = page.split(heading).nth(1).unwrap_or_else(|| panic!("{PAGE} has no {heading}"));
    let rows = rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let first = rows.skip(2).filter_map(|row| row.split('|').nth(1));
    first.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn the_page_has_every_topic_header_and_message() {
    let page = read(&root().join(PAGE));
    assert_eq!(
        listed(&page, "## Topics\n"),
        topics::names(&KafkaConfig::default()).into_iter().collect(),
        "topics of the page, and topics that setup creates"
    );

    let code = read(&root().join("schemas/src/kafka/record.rs"));
    let constant = |line: &str| {
        let (name, value) = line.strip_prefix("pub const ")?.split_once(": &str = \"")?;
        (!VALUES.contains(&name)).then(|| value.trim_end_matches("\";").to_owned())
    };
    let headers: BTreeSet<String> = code.lines().filter_map(constant).collect();
    assert!(headers.len() > 10, "only {headers:?} were found: the test showed nothing");
    assert_eq!(listed(&page, "## Headers of a raw record\n"), headers, "headers on the page, and headers in the code");

    let files = std::fs::read_dir(root().join("schemas/json/message")).unwrap().flatten();
    let messages: BTreeSet<String> =
        files.filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".json")?.to_owned())).collect();
    assert_eq!(listed(&page, "## Messages\n"), messages, "messages on the page, and messages with a schema");
}
