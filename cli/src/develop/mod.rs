//! Commands for people who develop Riverlock or try it out.

pub mod args;
pub mod demo;
pub mod local;
pub(crate) mod openapi;
pub(crate) mod sandbox;
pub(crate) mod stack;
