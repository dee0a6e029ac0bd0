#![doc = include_str!("../README.md")]

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
