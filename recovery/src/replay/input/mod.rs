//! Reading the records of a plan, and at which rate.

pub(crate) mod pace;
pub(crate) mod reading;
