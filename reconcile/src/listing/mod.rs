//! Reading Digital River's lists completely: windows of time, and their pages.

pub mod walk;
pub mod windows;
