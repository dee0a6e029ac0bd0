//! Commands that start services, or prepare what they need.

pub(crate) mod config_check;
pub(crate) mod healthcheck;
pub mod services;
pub mod setup;
pub mod shipments;
pub mod webhooks;
