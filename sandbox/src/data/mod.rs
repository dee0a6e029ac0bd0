//! Generated data: orders, their events and their documents, as pure functions of a seed.

pub mod life;
pub(crate) mod order;
pub(crate) mod payload;
pub mod pdf;
pub(crate) mod seed;
