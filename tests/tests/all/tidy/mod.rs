//! The rules of the source tree and of the pages, checked by reading files as text.

pub(crate) mod code;
mod pages;
