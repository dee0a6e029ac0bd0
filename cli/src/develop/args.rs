//! Arguments of `riverlock sandbox`, `demo` and `stack`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::terminal::out::Output;

/// What the sandbox does.
#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Serve Digital River's API: files, events, webhooks, fulfillments, file links
    Serve,
    /// Send the events of orders to the configured address, as Digital River does
    Play {
        /// How many orders
        #[arg(long, default_value_t = 100)]
        orders: u64,
        /// Decides everything about them
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Events per second at most
        #[arg(long)]
        rate: Option<std::num::NonZeroU32>,
        /// How to print what came of it
        #[command(flatten)]
        output: Output,
    },
    /// Print the signature header of a body, for curl
    Sign {
        /// The body; `-` is standard input
        file: PathBuf,
    },
}

/// Which Kafka a local stack runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BrokerKind {
    /// Apache Kafka
    Kafka,
    /// librdkafka's mock cluster: in memory, keeps nothing, 5 MB per partition
    Embedded,
}

/// What the demo plays, and on what.
#[derive(Debug, clap::Args)]
pub struct DemoOptions {
    /// How many orders
    #[arg(long, default_value_t = 1_000)]
    pub orders: u64,
    /// Decides everything about them
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What to run on
    #[arg(long, value_enum, default_value_t = BrokerKind::Kafka)]
    pub broker: BrokerKind,
}

/// What the stack runs on.
#[derive(Debug, clap::Args)]
pub struct StackOptions {
    /// What to run on
    #[arg(long, value_enum, default_value_t = BrokerKind::Kafka)]
    pub broker: BrokerKind,
}
