#![doc = include_str!("../README.md")]

pub mod accept;
pub mod admin;
pub mod api;
pub mod backoff;
mod causes;
pub mod clock;
pub mod config;
pub mod health;
pub mod kafka;
pub mod reload;
pub mod shutdown;
pub mod telemetry;

pub use crate::kafka::closing::ConsumerGuard;
pub use backoff::Backoff;
pub use causes::with_causes;
pub use clock::{Clock, SystemClock};
pub use config::{ConfigError, Secret};
pub use health::{Component, Health};
pub use shutdown::Shutdown;

/// Defined here so that the services, their tests and their benchmarks use the same allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Facilities that a process provides to its services.
#[derive(Clone)]
pub struct Context {
    /// Where services report their health.
    pub health: Health,
    /// Shutdown signals, and tracking of tasks.
    pub shutdown: Shutdown,
    /// The clock.
    pub clock: std::sync::Arc<dyn Clock>,
}

impl Context {
    /// A context with the system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self { health: Health::default(), shutdown: Shutdown::new(), clock: std::sync::Arc::new(SystemClock) }
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}
