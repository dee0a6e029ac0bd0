//! Differences between a stored order and the recomputed one. Pure: no I/O.

use std::{collections::BTreeMap, fmt};

use riverlock_schemas::{
    Mode,
    members::{Differing, differing},
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::store::{ORDERS, Part, Rows};
use crate::domain::OrderKey;

/// The column of `orders` that holds the lines.
const LINES: &str = "lines";

/// The differences of one order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderDiff {
    /// The order.
    pub order_id: String,
    /// Test or live.
    pub mode: Mode,
    /// Rows and columns that differ.
    pub changes: Vec<Change>,
    /// Kinds of messages that were never written.
    pub effects: Vec<&'static str>,
    /// Positions of records that were ignored when they arrived and are applied by the current code.
    pub newly_applied: Vec<String>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The table and, if an order can have several rows in it, the row's key. A line of the order is shown as a row of
    /// `order_lines`.
    pub row: String,
    /// The column, or the line's field; `None` when the whole row is missing on one side.
    pub column: Option<String>,
    /// The stored value.
    pub stored: Value,
    /// The recomputed value.
    pub refolded: Value,
}

impl fmt::Display for OrderDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {} ({})", self.order_id, self.mode)?;
        for change in &self.changes {
            write!(f, "\n  {change}")?;
        }
        for position in &self.newly_applied {
            write!(f, "\n  {position}: was ignored, is applied now")?;
        }
        for effect in &self.effects {
            write!(f, "\n  message {effect}: missing")?;
        }
        Ok(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, column, stored, refolded } = self;
        match (column, stored) {
            (Some(column), _) => write!(f, "{row}.{column}: stored {stored}, refolded {refolded}"),
            (None, Value::Null) => write!(f, "{row}: not stored, refolded {refolded}"),
            (None, _) => write!(f, "{row}: stored {stored}, not supported by any event"),
        }
    }
}

/// Compares an order's rows.
pub(super) fn changes(parts: &[Part], stored: &Rows, refolded: &Rows) -> Vec<Change> {
    parts.iter().flat_map(|part| changes_of(part, stored.get(&part.table), refolded.get(&part.table))).collect()
}

fn changes_of(part: &Part, stored: Option<&Vec<String>>, refolded: Option<&Vec<String>>) -> Vec<Change> {
    if stored == refolded {
        return Vec::new();
    }
    let (stored, refolded) = (NamedRows::new(part, stored), NamedRows::new(part, refolded));
    let mut changes = between(&stored.rows, &refolded.rows);
    changes.extend(between(&stored.lines, &refolded.lines));
    changes
}

/// Rows by name, for example `order_lines[1]`.
type ByName = BTreeMap<String, Map<String, Value>>;

/// An order's rows in one table, and its lines, which are stored as JSON in the order's row.
#[derive(Default)]
struct NamedRows {
    rows: ByName,
    lines: ByName,
}

impl NamedRows {
    fn new(part: &Part, rows: Option<&Vec<String>>) -> Self {
        let mut named = Self::default();
        for row in rows.into_iter().flatten() {
            let mut row: Map<String, Value> = serde_json::from_str(row).unwrap_or_default();
            if part.table != ORDERS {
                let key = part.key.iter().map(|column| row.get(column).map_or_else(String::new, show));
                let name = format!("{}[{}]", part.table, key.collect::<Vec<_>>().join("/"));
                named.rows.insert(name, row);
                continue;
            }
            // A CHECK constraint admits only an object.
            if let Some(Value::Object(lines)) = row.remove(LINES) {
                let line = |(line_id, line)| {
                    (format!("order_lines[{line_id}]"), serde_json::from_value(line).unwrap_or_default())
                };
                named.lines.extend(lines.into_iter().map(line));
            }
            named.rows.insert(ORDERS.to_owned(), row);
        }
        named
    }
}

fn show(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn between(stored: &ByName, refolded: &ByName) -> Vec<Change> {
    let mut changes = Vec::new();
    for (row, before) in stored {
        match refolded.get(row) {
            Some(after) => changes.extend(columns(row, before, after)),
            None => changes.push(whole(row, Some(before), None)),
        }
    }
    let added = refolded.iter().filter(|(row, _)| !stored.contains_key(*row));
    changes.extend(added.map(|(row, after)| whole(row, None, Some(after))));
    changes
}

fn columns(row: &str, stored: &Map<String, Value>, refolded: &Map<String, Value>) -> Vec<Change> {
    let change = |(column, stored, refolded): Differing<'_>| Change {
        row: row.to_owned(),
        column: Some(column.to_owned()),
        stored: stored.cloned().unwrap_or_default(),
        refolded: refolded.cloned().unwrap_or_default(),
    };
    differing(stored, refolded).map(change).collect()
}

fn whole(row: &str, stored: Option<&Map<String, Value>>, refolded: Option<&Map<String, Value>>) -> Change {
    let value = |row: Option<&Map<String, Value>>| row.map_or(Value::Null, |row| Value::Object(row.clone()));
    Change { row: row.to_owned(), column: None, stored: value(stored), refolded: value(refolded) }
}

impl OrderDiff {
    pub(super) fn new(key: &OrderKey, changes: Vec<Change>) -> Self {
        Self {
            order_id: key.order_id.as_str().to_owned(),
            mode: key.mode,
            changes,
            effects: Vec::new(),
            newly_applied: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.effects.is_empty() && self.newly_applied.is_empty()
    }
}
