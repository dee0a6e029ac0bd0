//! HTTP for requests that carry secrets: addresses, name resolution, rate limits.

pub mod address;
pub mod limiter;
pub mod resolver;
pub mod retry_after;
pub mod transport;
