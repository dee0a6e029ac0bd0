//! The time as a parameter. Everything in this crate is told what time it is; only [`Clock::system`] asks the machine.

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};

/// Answers with the present time, UTC.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl Clock {
    /// The machine's own clock: the one place of this crate that reads it.
    #[expect(clippy::disallowed_methods, reason = "this is the edge: everything else is handed a clock")]
    pub fn system() -> Self {
        Self::from_fn(Utc::now)
    }

    /// A clock of the caller's making.
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
