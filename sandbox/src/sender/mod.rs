//! Sends events to a receiver as Digital River does, and counts what it answers.

pub mod deliver;
pub mod histogram;
pub mod play;
pub mod progress;
pub mod sign;
