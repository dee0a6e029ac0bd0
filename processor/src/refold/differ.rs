//! How an order as it is stored differs from what its events say. Pure.

use std::{collections::BTreeMap, fmt};

use riverlock_schemas::Mode;
use serde::Serialize;
use serde_json::{Map, Value};

use super::store::{ORDERS, Part, Rows};
use crate::domain::OrderKey;

/// An order that is stored otherwise than its events say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderDiff {
    /// The order.
    pub order_id: String,
    /// Test or live.
    pub mode: Mode,
    /// What differs.
    pub changes: Vec<Change>,
    /// Messages that other systems should have had, and have not.
    pub effects: Vec<&'static str>,
    /// Records that were ignored when they came, and take part with today's code.
    pub newly_applied: Vec<String>,
}

/// Something that is stored otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The table and, where an order has several rows in it, the row.
    pub row: String,
    /// The column; `None` when the whole row is missing on one side.
    pub column: Option<String>,
    /// What is stored.
    pub stored: Value,
    /// What the events say.
    pub refolded: Value,
}

impl fmt::Display for OrderDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {} ({})", self.order_id, self.mode)?;
        for change in &self.changes {
            write!(f, "\n  {change}")?;
        }
        for position in &self.newly_applied {
            write!(f, "\n  {position}: was ignored, and takes part")?;
        }
        for effect in &self.effects {
            write!(f, "\n  message {effect}: fires")?;
        }
        Ok(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, column, stored, refolded } = self;
        match (column, stored) {
            (Some(column), _) => write!(f, "{row}.{column}: stored {stored}, refolded {refolded}"),
            (None, Value::Null) => write!(f, "{row}: is not stored, refolded {refolded}"),
            (None, _) => write!(f, "{row}: stored {stored}, and no event says so"),
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
    let (stored, refolded) = (by_key(part, stored), by_key(part, refolded));
    let mut changes = Vec::new();
    for (row, before) in &stored {
        match refolded.get(row) {
            Some(after) => changes.extend(columns(row, before, after)),
            None => changes.push(whole(row, Some(before), None)),
        }
    }
    let added = refolded.iter().filter(|(row, _)| !stored.contains_key(*row));
    changes.extend(added.map(|(row, after)| whole(row, None, Some(after))));
    changes
}

/// Rows by what they are called.
fn by_key(part: &Part, rows: Option<&Vec<String>>) -> BTreeMap<String, Map<String, Value>> {
    let parsed = rows.into_iter().flatten().map(|row| serde_json::from_str(row).unwrap_or_default());
    let name = |row: &Map<String, Value>| {
        let key = part.key.iter().map(|column| row.get(column).map_or_else(String::new, show)).collect::<Vec<_>>();
        if part.table == ORDERS { ORDERS.to_owned() } else { format!("{}[{}]", part.table, key.join("/")) }
    };
    parsed.map(|row: Map<String, Value>| (name(&row), row)).collect()
}

fn show(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn columns(row: &str, stored: &Map<String, Value>, refolded: &Map<String, Value>) -> Vec<Change> {
    let differing = stored.iter().filter(|(column, value)| refolded.get(*column) != Some(value));
    let change = |(column, value): (&String, &Value)| Change {
        row: row.to_owned(),
        column: Some(column.clone()),
        stored: value.clone(),
        refolded: refolded.get(column).cloned().unwrap_or_default(),
    };
    differing.map(change).collect()
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
