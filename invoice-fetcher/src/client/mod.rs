//! Requests to Digital River, and checks of responses.

pub(crate) mod address;
pub(crate) mod download;
pub mod links;
pub(crate) mod media;
pub(crate) mod status;
