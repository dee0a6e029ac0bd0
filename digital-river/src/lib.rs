//! The one client of Digital River's API.
//!
//! Every request to Digital River passes through [`Client`]: it adds the key of the mode and the headers that Digital River asks
//! for, keeps the rate limit that all requests of the process with one key share, repeats what may be repeated
//! ([`failure::repeat`] is the only place that decides), and keeps `x-dr-requestid` with every answer and error.
//!
//! Keys go to the configured host only: addresses are built from the configuration, redirects are not followed, proxies of the
//! environment are not used, anything but `https` is for loopback addresses only, and DNS answers inside private networks are
//! not connected to ([`resolver`]).

pub mod client;
pub mod config;
pub mod events;
pub mod failure;
pub mod fulfillments;
pub mod http;
pub mod lists;
pub mod metrics;
pub mod page;
pub mod webhooks;

pub use client::{Answer, Call, Client, Priority};
pub use config::{AccountConfig, DigitalRiverConfig};
pub use failure::{Error, Failure};
