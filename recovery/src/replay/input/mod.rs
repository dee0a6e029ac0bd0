//! Reads the records of a plan, at a limited rate.

pub(crate) mod pace;
pub(crate) mod reading;
