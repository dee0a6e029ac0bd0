//! Faults injected into running services: tests/README.md lists which fault each file injects.

mod cluster;
mod crash;
mod cut;
mod outage;
mod proof;
mod restore;
mod soak;
mod storm;
mod stuck;
mod trouble;
