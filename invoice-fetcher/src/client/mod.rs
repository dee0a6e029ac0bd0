//! Requests to Digital River, and what their answers say.

pub(crate) mod address;
pub(crate) mod download;
pub mod links;
pub(crate) mod media;
pub(crate) mod resolver;
pub(crate) mod retry_after;
