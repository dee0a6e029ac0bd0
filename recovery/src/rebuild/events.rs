//! Comparison of an event's rows in `events`. Pure.
//!
//! The first record of an event that is read decides its outcome, and which one that is varies: partitions are read
//! concurrently, and a replay may come first. So both sides must have the same records with the same bodies, and the
//! outcomes of each side must be consistent: one record has the event's outcome; every other one is a duplicate if it
//! does not contradict that record, and a conflict if it contradicts any record. If both sides chose the same body, the
//! outcome must be the same. Every other difference is reported.
//!
//! The content digest is stored for one record of each body, so the two sides may have it at different records; records
//! stored before digests existed have none. Without digests, a duplicate and a conflict cannot be distinguished, and
//! either is accepted.

use std::collections::BTreeMap;

use riverlock_schemas::{Mode, events::content::Content};
use serde_json::{Map, Value};

use super::Change;

/// The columns that depend on which record was read first.
const OUTCOME: [&str; 2] = ["outcome", "reason"];
/// The content digest; see [`riverlock_ledger::spellings`].
const CONTENT: &str = "content";

type EventKey = (i64, i64, i64);
type JsonRow = Map<String, Value>;

/// Returns the differences between the rows of one event.
#[must_use]
pub fn compare(live: &[Value], rebuilt: &[Value]) -> Vec<Change> {
    let (live, rebuilt) = (by_position(live), by_position(rebuilt));
    let mut changes = Vec::new();
    for (position, row) in &live {
        match rebuilt.get(position) {
            None => changes.push(Change::new(&name(*position), &text(row, "outcome"), &"no row")),
            Some(other) => changes.extend(other_columns(*position, row, other)),
        }
    }
    let added = rebuilt.iter().filter(|(position, _)| !live.contains_key(position));
    changes.extend(added.map(|(position, row)| Change::new(&name(*position), &"no row", &text(row, "outcome"))));
    if changes.is_empty() && !are_consistent(&live, &rebuilt) {
        for (position, row) in &live {
            let other = &rebuilt[position];
            if OUTCOME.iter().any(|column| row.get(*column) != other.get(*column)) {
                changes.push(Change::new(&name(*position), &outcome(row), &outcome(other)));
            }
        }
    }
    changes
}

fn by_position(rows: &[Value]) -> BTreeMap<EventKey, &JsonRow> {
    let number = |row: &JsonRow, column: &str| row.get(column).and_then(Value::as_i64).unwrap_or(-1);
    let position = |row: &JsonRow| (number(row, "topic_id"), number(row, "partition"), number(row, "record_offset"));
    rows.iter().filter_map(Value::as_object).map(|row| (position(row), row)).collect()
}

/// Returns the differing columns that do not depend on the order of reading.
fn other_columns(position: EventKey, live: &JsonRow, rebuilt: &JsonRow) -> Vec<Change> {
    let differs = |column: &&String| match column.as_str() {
        CONTENT => {
            content(live).zip(content(rebuilt)).is_some_and(|(live, rebuilt)| live.contradicts(&rebuilt).is_some())
        }
        column => !OUTCOME.contains(&column) && live.get(column) != rebuilt.get(column),
    };
    let change = |column: &String| {
        Change::new(&format!("{} {column}", name(position)), &text(live, column), &text(rebuilt, column))
    };
    live.keys().filter(differs).map(change).collect()
}

/// Whether the outcomes of both sides are consistent with the same records, whichever was read first.
fn are_consistent(live: &BTreeMap<EventKey, &JsonRow>, rebuilt: &BTreeMap<EventKey, &JsonRow>) -> bool {
    let (Some(live_first), Some(rebuilt_first)) = (first(live), first(rebuilt)) else { return false };
    let same_body = live_first.get("body_sha256") == rebuilt_first.get("body_sha256");
    !same_body || OUTCOME.iter().all(|column| live_first.get(*column) == rebuilt_first.get(*column))
}

/// Returns the record that decided the event's outcome, if the other outcomes are consistent with it.
fn first<'a>(rows: &BTreeMap<EventKey, &'a JsonRow>) -> Option<&'a JsonRow> {
    let repeats = |row: &JsonRow| matches!(text(row, "outcome").as_str(), "duplicate" | "conflict");
    let mut firsts = rows.values().filter(|row| !repeats(row));
    let (first, None) = (firsts.next()?, firsts.next()) else { return None };
    // The digest is stored with one record of each body.
    let mut contents: BTreeMap<String, Content> = BTreeMap::new();
    for row in rows.values() {
        if let Some(content) = content(row) {
            contents.insert(text(row, "body_sha256"), content);
        }
    }
    let of = |row: &JsonRow| contents.get(&text(row, "body_sha256"));
    let contradicts = |row: &JsonRow, other: &JsonRow| Some(of(row)?.contradicts(of(other)?).is_some());
    let follows = |row: &JsonRow| {
        if row.get("body_sha256") == first.get("body_sha256") {
            return text(row, "outcome") == "duplicate";
        }
        match text(row, "outcome").as_str() {
            "duplicate" => contradicts(row, first) != Some(true),
            _ => rows.values().any(|other| contradicts(row, other) != Some(false)),
        }
    };
    rows.values().filter(|row| repeats(row)).all(|row| follows(row)).then_some(*first)
}

fn content(row: &JsonRow) -> Option<Content> {
    let digits = row.get(CONTENT)?.as_str()?.strip_prefix("\\x")?;
    let live_mode = row.get("live_mode").and_then(Value::as_bool);
    let known = Content::of_parts(
        row.get("event_type").and_then(Value::as_str).unwrap_or_default(),
        live_mode.map(Mode::from_live),
        row.get("order_id").and_then(Value::as_str),
    );
    Content::unpack_hex(digits, &known)
}

fn name((topic_id, partition, offset): EventKey) -> String {
    format!("record {topic_id}/{partition}/{offset}")
}

fn outcome(row: &JsonRow) -> String {
    match row.get("reason") {
        None | Some(Value::Null) => text(row, "outcome"),
        Some(_) => format!("{}({})", text(row, "outcome"), text(row, "reason")),
    }
}

fn text(row: &JsonRow, column: &str) -> String {
    match row.get(column) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A record with a body: `a` and its spelling `A` have the same content, and `b` contradicts both.
    fn row(partition: i64, offset: i64, body: &str, outcome: &str, reason: Option<&str>) -> Value {
        let content = Content::of_parts("order.accepted", None, Some(&body.to_lowercase()));
        let digits: String = content.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        json!({"topic_id": 1, "partition": partition, "record_offset": offset, "event_id": "e", "body_sha256": body,
               "content": format!("\\x{digits}"), "outcome": outcome, "reason": reason})
    }

    fn without_content(mut row: Value) -> Value {
        row["content"] = Value::Null;
        row
    }

    fn applied(partition: i64, offset: i64, body: &str) -> Value {
        row(partition, offset, body, "applied", None)
    }

    fn repeats(partition: i64, offset: i64, body: &str, outcome: &str) -> Value {
        row(partition, offset, body, outcome, None)
    }

    #[test]
    fn the_order_in_which_an_events_records_were_read_does_not_matter() {
        let one = [applied(0, 1, "a"), repeats(1, 5, "a", "duplicate")];
        let other = [repeats(0, 1, "a", "duplicate"), applied(1, 5, "a")];
        assert_eq!(compare(&one, &other), []);
        let one = [applied(0, 1, "a"), repeats(1, 5, "b", "conflict"), repeats(1, 6, "a", "duplicate")];
        let other = [repeats(0, 1, "a", "conflict"), applied(1, 5, "b"), repeats(1, 6, "a", "conflict")];
        assert_eq!(compare(&one, &other), []);
    }

    #[test]
    fn spellings_are_duplicates_unless_they_contradict_each_other() {
        let one =
            [applied(0, 1, "a"), repeats(1, 5, "A", "duplicate"), without_content(repeats(1, 6, "A", "duplicate"))];
        let other = [repeats(0, 1, "a", "duplicate"), applied(1, 5, "A"), repeats(1, 6, "A", "duplicate")];
        assert_eq!(compare(&one, &other), []);
        // It is unknown whether the spelling was read before or after the contradicting body.
        let all =
            |of_spelling: &str| [applied(0, 1, "a"), repeats(1, 5, "A", of_spelling), repeats(1, 6, "b", "conflict")];
        assert_eq!(compare(&all("duplicate"), &all("conflict")), []);
        let wrong = [applied(0, 1, "a"), repeats(1, 5, "A", "conflict")];
        assert_ne!(compare(&wrong, &[applied(0, 1, "a"), repeats(1, 5, "A", "duplicate")]), []);
        // Earlier versions called every other body a conflict and stored no digest.
        let former = [without_content(applied(0, 1, "a")), without_content(repeats(1, 5, "A", "conflict"))];
        assert_eq!(compare(&former, &[applied(0, 1, "a"), repeats(1, 5, "A", "duplicate")]), []);
    }

    #[test]
    fn every_other_difference_is_reported() {
        let good = [applied(0, 1, "a"), repeats(0, 5, "a", "duplicate")];
        for (bad, column) in [
            (vec![applied(0, 1, "a")], "record 1/0/5"),
            (vec![applied(0, 1, "a"), repeats(0, 6, "a", "duplicate")], "record 1/0/6"),
            (vec![applied(0, 1, "b"), repeats(0, 5, "a", "duplicate")], "record 1/0/1 body_sha256"),
            (vec![row(0, 1, "a", "dead", Some("shape")), repeats(0, 5, "a", "duplicate")], "record 1/0/1"),
            (vec![applied(0, 1, "a"), repeats(0, 5, "a", "conflict")], "record 1/0/5"),
            (vec![applied(0, 1, "a"), applied(0, 5, "a")], "record 1/0/5"),
            (vec![repeats(0, 1, "a", "duplicate"), repeats(0, 5, "a", "duplicate")], "record 1/0/1"),
            (vec![row(0, 1, "a", "duplicate", None), row(0, 5, "a", "ignored", Some("mode"))], "record 1/0/1"),
        ] {
            for changes in [compare(&good, &bad), compare(&bad, &good)] {
                assert!(changes.iter().any(|change| change.column == column), "{bad:?}: {changes:?}");
            }
        }
        assert_eq!(compare(&good, &good), []);
    }
}
