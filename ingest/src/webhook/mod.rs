//! Handling of requests, from the head to the answer.

pub(crate) mod arrival;
pub(crate) mod body;
pub(crate) mod floods;
pub(crate) mod handler;
pub(crate) mod odd;
pub(crate) mod quarantine;
pub(crate) mod reading;
pub(crate) mod state;
pub(crate) mod token_endpoint;
pub(crate) mod waiting;
