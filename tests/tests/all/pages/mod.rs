//! Pages with recorded output, and reference pages that are generated from the code.

mod account;
mod recipes;
pub(crate) mod recorded;
mod references;
