//! Differences between two groups of rows with the same key. Pure.

use std::fmt;

use riverlock_schemas::members::differing;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::rebuild::change::Change;

use super::{events, tables::Rule};

/// Separator of the parts of a key.
const KEY_SEPARATOR: char = '\u{1f}';

/// Rows with the same key, as JSON.
pub(super) struct Group {
    pub(super) key: String,
    pub(super) rows: Vec<String>,
}

/// Rows with the same key that differ between the live and the rebuilt tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Name of the table.
    pub table: &'static str,
    /// Key of the rows.
    pub key: String,
    /// Whether there is a live row.
    pub live: bool,
    /// Whether there is a rebuilt row.
    pub rebuilt: bool,
    /// The differing columns, if there are rows on both sides.
    pub changes: Vec<Change>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.key)?;
        match (self.live, self.rebuilt) {
            (true, false) => write!(f, ": exists only in the live tables"),
            (false, true) => write!(f, ": exists only in the rebuilt tables"),
            _ => {
                for Change { column, live, rebuilt } in &self.changes {
                    write!(f, "\n    {column}: live {live}, rebuilt {rebuilt}")?;
                }
                Ok(())
            }
        }
    }
}

/// Returns the difference between the live and the rebuilt rows of a key, if there is one.
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
    // PostgreSQL wrote the JSON; if it cannot be parsed nevertheless, it is compared as text.
    group.rows.iter().map(|row| serde_json::from_str(row).unwrap_or_else(|_| Value::String(row.clone()))).collect()
}

/// Returns the columns in which two rows differ; for several rows, the rows that only one side has.
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
    let mut changes = Vec::new();
    members("", live, rebuilt, &mut changes);
    changes
}

/// Collects the differences between two objects. For a column that is an object, such as an order's lines, only the
/// differing members are reported.
fn members(of: &str, live: &Map<String, Value>, rebuilt: &Map<String, Value>, changes: &mut Vec<Change>) {
    for (name, live, rebuilt) in differing(live, rebuilt) {
        let path = format!("{of}{name}");
        match (live, rebuilt) {
            (Some(Value::Object(live)), Some(Value::Object(rebuilt))) => {
                members(&format!("{path}."), live, rebuilt, changes);
            }
            _ => changes.push(Change::new(&path, live.unwrap_or(&Value::Null), rebuilt.unwrap_or(&Value::Null))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_differing_members_of_an_object_are_reported() {
        let group = |row: &str| Some(Group { key: "o\u{1f}false".to_owned(), rows: vec![row.to_owned()] });
        let live = r#"{"status":"ready","details":{"a":1},"lines":{"l":{"quantity":3,"state":"paid"},"ghost":{}}}"#;
        let rebuilt =
            r#"{"status":"ready","details":null,"lines":{"l":{"quantity":2,"state":"paid"},"m":{"quantity":1}}}"#;
        let difference = differences("orders", Rule::Row, group(live), group(rebuilt)).unwrap();
        assert_eq!(
            difference.to_string(),
            "orders o/false
    details: live {\"a\":1}, rebuilt null
    lines.ghost: live {}, rebuilt null
    lines.l.quantity: live 3, rebuilt 2
    lines.m: live null, rebuilt {\"quantity\":1}"
        );
        assert_eq!(differences("orders", Rule::Row, group(live), group(live)), None);
    }
}
