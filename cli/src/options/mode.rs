//! Live or test data as an option.

use clap::ValueEnum;
use riverlock_schemas::Mode;

/// Test or live data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeOption {
    /// Live data
    Live,
    /// Test data
    Test,
}

impl From<ModeOption> for Mode {
    fn from(mode: ModeOption) -> Self {
        Self::from_live(mode == ModeOption::Live)
    }
}
