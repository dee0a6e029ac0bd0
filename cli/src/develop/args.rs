//! Arguments of `riverlock sandbox`, `demo` and `stack`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::terminal::out::Output;

/// The subcommands of `riverlock sandbox`.
#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Serve Digital River's API: files, events, webhooks, fulfillments, file links
    #[command(after_help = "Examples:
  riverlock --config riverlock.toml sandbox serve")]
    Serve,
    /// Send the events of generated orders to the configured address
    #[command(after_help = "Examples:
  riverlock sandbox play --orders 100
  riverlock sandbox play --orders 10000 --rate 500 --seed 7")]
    Play {
        /// Number of orders
        #[arg(long, default_value_t = 100)]
        orders: u64,
        /// Seed for the generated orders
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Maximum number of events per second
        #[arg(long)]
        rate: Option<std::num::NonZeroU32>,
        /// The output format
        #[command(flatten)]
        output: Output,
    },
    /// Print the signature header for a body, for use with curl
    #[command(after_help = "Examples:
  riverlock sandbox sign order.accepted.json")]
    Sign {
        /// The body; `-` is standard input
        file: PathBuf,
    },
}

/// The Kafka broker of a local stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BrokerKind {
    /// Apache Kafka
    Kafka,
    /// librdkafka's mock cluster: in memory, keeps nothing, 5 MB per partition
    Embedded,
}

/// The orders of a demo, and its broker.
#[derive(Debug, clap::Args)]
pub struct DemoOptions {
    /// Number of orders
    #[arg(long, default_value_t = 1_000)]
    pub orders: u64,
    /// Seed for the generated orders
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The broker
    #[arg(long, value_enum, default_value_t = BrokerKind::Kafka)]
    pub broker: BrokerKind,
}

/// The broker of a local stack.
#[derive(Debug, clap::Args)]
pub struct StackOptions {
    /// The broker
    #[arg(long, value_enum, default_value_t = BrokerKind::Kafka)]
    pub broker: BrokerKind,
}
