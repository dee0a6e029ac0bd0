//! Standard output, standard error and what they look like.
//!
//! Conventions of every command: lists are tables with headings on a terminal, and one line per entry with tabs between the
//! values in a pipe; `--json` prints JSON; times are RFC 3339 in UTC with milliseconds.

pub mod out;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod text;
