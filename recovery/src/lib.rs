#![doc = include_str!("../README.md")]

pub mod audit;
pub mod dead_letters;
pub mod metrics;
#[doc(hidden)]
pub mod periodic;
pub mod rebuild;
pub mod replay;
pub mod size;
