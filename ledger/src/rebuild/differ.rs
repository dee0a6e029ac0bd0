//! How two groups of rows with one key differ. Pure.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;
use serde_json::Value;

use super::{events, tables::Rule};

/// What separates the parts of a key.
const KEY_SEPARATOR: char = '\u{1f}';

/// Rows with one key, as JSON.
pub(super) struct Group {
    pub(super) key: String,
    pub(super) rows: Vec<String>,
}

/// Rows with one key that are not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The table.
    pub table: &'static str,
    /// What the rows are found by.
    pub key: String,
    /// Whether there is a live row.
    pub live: bool,
    /// Whether there is a rebuilt row.
    pub rebuilt: bool,
    /// What differs, where both are there.
    pub changes: Vec<Change>,
}

/// A column that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The column.
    pub column: String,
    /// What is live.
    pub live: String,
    /// What was rebuilt.
    pub rebuilt: String,
}

impl Change {
    pub(super) fn new(column: &str, live: &dyn fmt::Display, rebuilt: &dyn fmt::Display) -> Self {
        Self { column: column.to_owned(), live: live.to_string(), rebuilt: rebuilt.to_string() }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.key)?;
        match (self.live, self.rebuilt) {
            (true, false) => write!(f, ": is live, and was not rebuilt"),
            (false, true) => write!(f, ": was rebuilt, and is not live"),
            _ => {
                for Change { column, live, rebuilt } in &self.changes {
                    write!(f, "\n    {column}: live {live}, rebuilt {rebuilt}")?;
                }
                Ok(())
            }
        }
    }
}

/// What differs between what is live and what was rebuilt under one key.
pub(super) fn differences(
    table: &'static str,
    rule: Rule,
    live: Option<Group>,
    rebuilt: Option<Group>,
) -> Option<Difference> {
    let (is_live, is_rebuilt) = (live.is_some(), rebuilt.is_some());
    let key = live.as_ref().or(rebuilt.as_ref())?.key.replace(KEY_SEPARATOR, "/");
    let changes = match (live, rebuilt) {
        (Some(live), Some(rebuilt)) if live.rows == rebuilt.rows => return None,
        (Some(live), Some(rebuilt)) => {
            let (live, rebuilt) = (parse(&live), parse(&rebuilt));
            let changes = match rule {
                Rule::Row => columns(&live, &rebuilt),
                Rule::Records => events::compare(&live, &rebuilt),
            };
            if changes.is_empty() {
                return None;
            }
            changes
        }
        _ => Vec::new(),
    };
    Some(Difference { table, key, live: is_live, rebuilt: is_rebuilt, changes })
}

fn parse(group: &Group) -> Vec<Value> {
    // PostgreSQL made it; what it should not have made is compared as a text.
    group.rows.iter().map(|row| serde_json::from_str(row).unwrap_or_else(|_| Value::String(row.clone()))).collect()
}

/// The columns in which two rows differ; of several rows, those that only one side has.
fn columns(live: &[Value], rebuilt: &[Value]) -> Vec<Change> {
    let ([Value::Object(live)], [Value::Object(rebuilt)]) = (live, rebuilt) else {
        let only = |a: &[Value], b: &[Value]| {
            a.iter().filter(|row| !b.contains(row)).map(Value::to_string).collect::<Vec<_>>()
        };
        return vec![Change {
            column: "rows".to_owned(),
            live: only(live, rebuilt).join(" "),
            rebuilt: only(rebuilt, live).join(" "),
        }];
    };
    let names: BTreeSet<&String> = live.keys().chain(rebuilt.keys()).collect();
    let differing = names.into_iter().filter(|name| live.get(*name) != rebuilt.get(*name));
    let show = |row: &serde_json::Map<String, Value>, name: &String| row.get(name).unwrap_or(&Value::Null).clone();
    differing.map(|name| Change::new(name, &show(live, name), &show(rebuilt, name))).collect()
}
