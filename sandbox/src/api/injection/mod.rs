//! Faults on request: of downloads, and of calls to the API.

pub(crate) mod calls;
pub(crate) mod downloads;
