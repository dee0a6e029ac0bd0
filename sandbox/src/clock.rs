//! The time as a parameter. Only [`Clock::system`] reads the machine's clock.

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};

/// Returns the present time, UTC.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl Clock {
    /// The machine's clock; the only place in this crate that reads it.
    #[expect(clippy::disallowed_methods, reason = "the only place that reads the clock; all others take a `Clock`")]
    pub fn system() -> Self {
        Self::from_fn(Utc::now)
    }

    /// A clock from a function.
    pub fn from_fn(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The present.
    pub fn now(&self) -> DateTime<Utc> {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Clock")
    }
}
