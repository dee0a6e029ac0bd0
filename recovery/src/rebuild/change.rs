//! A column that differs.

use std::fmt;

use serde::Serialize;

/// A column that differs, or a member of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The column; what is in it, after a point.
    pub column: String,
    /// What is live.
    pub live: String,
    /// What was rebuilt.
    pub rebuilt: String,
}

impl Change {
    pub(crate) fn new(column: &str, live: &dyn fmt::Display, rebuilt: &dyn fmt::Display) -> Self {
        Self { column: column.to_owned(), live: live.to_string(), rebuilt: rebuilt.to_string() }
    }
}
