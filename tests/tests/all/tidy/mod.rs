//! The rules of the source tree, its language and its pages, checked by reading files as text.

pub(crate) mod alerts;
pub(crate) mod code;
mod dependencies;
mod language;
mod pages;
mod structure;
