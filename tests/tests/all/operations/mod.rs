//! Setting up, migrating and running an install for years.

mod demo;
mod endurance;
mod former_topics;
mod indexes;
mod installs;
mod migrations;
mod monitoring;
mod setup;
mod signals;
