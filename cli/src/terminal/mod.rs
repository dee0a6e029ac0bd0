//! What commands write to a terminal or a pipe.

pub mod out;
pub(crate) mod progress;
