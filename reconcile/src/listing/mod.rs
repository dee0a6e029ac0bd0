//! Reads Digital River's lists completely: time windows, and their pages.

pub mod walk;
pub mod windows;
