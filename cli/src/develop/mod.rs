//! Commands for development and for trying Riverlock out.

pub mod args;
pub mod demo;
pub mod local;
pub(crate) mod openapi;
pub(crate) mod sandbox;
pub(crate) mod stack;
