//! A column whose live and rebuilt values differ.

use std::fmt;

use serde::Serialize;

/// A column, or a member of a JSON column, whose live and rebuilt values differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// Name of the column, or the path of the member: `lines.l.quantity`.
    pub column: String,
    /// The live value.
    pub live: String,
    /// The rebuilt value.
    pub rebuilt: String,
}

impl Change {
    pub(crate) fn new(column: &str, live: &dyn fmt::Display, rebuilt: &dyn fmt::Display) -> Self {
        Self { column: column.to_owned(), live: live.to_string(), rebuilt: rebuilt.to_string() }
    }
}
