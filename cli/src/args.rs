//! The command line.

pub mod dead_letters;
pub mod invoices;
pub mod moment;
pub mod rebuild;
pub mod reconcile;
pub mod refold;
pub mod replay;
pub mod shipments;
pub mod trace;
pub mod webhooks;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// Digital River webhooks in, fulfilled orders and archived VAT invoices out.
#[derive(Debug, Parser)]
#[command(name = "riverlock", version, max_term_width = 100)]
pub struct Args {
    /// Configuration file (TOML); environment variables such as `RIVERLOCK__KAFKA__BROKERS` go over it
    #[arg(long, short, global = true, env = "RIVERLOCK_CONFIG")]
    pub config: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Receive webhooks: verify, write to Kafka, answer 202
    Ingest,
    /// Fold order events into orders, and publish what other systems need
    Processor,
    /// Queue, download, check and store VAT invoices
    InvoiceFetcher,
    /// Run the three services in one process
    Up,
    /// Create the topics that are missing and bring the tables to this version
    Setup,
    /// Prove that every acknowledged event has exactly one outcome
    Audit {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look at orders
    Orders {
        /// What to do with them
        #[command(subcommand)]
        command: OrdersCommand,
    },
    /// Fold orders again from their audited events, after a mistake in the code was put right
    Refold(refold::RefoldOptions),
    /// Build all tables again from the topics, compare them with the live ones, and take their place
    Rebuild(rebuild::RebuildOptions),
    /// Follow an event, or an order's events, from the webhook to their last effect, and verify them again
    Trace(trace::TraceOptions),
    /// Print what the services' APIs answer, as an OpenAPI document
    Openapi,
    /// Look at events whose sender was not believed, and admit those whose signature turns out to be right
    Quarantine {
        /// What to do with them
        #[command(subcommand)]
        command: QuarantineCommand,
    },
    /// Look at records that could not take effect, give them another try, or give them up
    DeadLetters {
        /// What to do with them
        #[command(subcommand)]
        command: dead_letters::DeadLettersCommand,
    },
    /// Look at invoices and credit memos, get them, have them tried again, link them
    Invoices {
        /// What to do with them
        #[command(subcommand)]
        command: invoices::InvoicesCommand,
    },
    /// Look at the webhooks that are registered at Digital River, and register what is configured
    Webhooks {
        /// What to do with them
        #[command(subcommand)]
        command: webhooks::WebhooksCommand,
    },
    /// Find the events that Digital River has and that never came, and write them to the raw topics
    Reconcile(Box<reconcile::ReconcileOptions>),
    /// Put records that were read before into the live state again: what is known does nothing, what is missing takes effect
    Replay(Box<replay::ReplayOptions>),
    /// Store shipments, which the processor reports to Digital River, and look at what became of them
    Shipments {
        /// What to do with them
        #[command(subcommand)]
        command: shipments::ShipmentsCommand,
    },
    /// A pretend Digital River
    Sandbox {
        /// What it does
        #[command(subcommand)]
        command: SandboxCommand,
    },
    /// Play orders from webhook to invoice on servers of their own, count everything, end
    Demo(DemoOptions),
    /// Run a local stack (PostgreSQL, Kafka, the services, the sandbox) until Ctrl-C, and keep its data
    Stack(StackOptions),
    /// Ask an address whether it is well; for container health checks
    Healthcheck {
        /// For example http://127.0.0.1:9464/readyz
        #[arg(long)]
        url: String,
    },
}

/// What to do with orders.
#[derive(Debug, Subcommand)]
pub enum OrdersCommand {
    /// Show an order: status, lines, events with their outcomes, messages, invoices
    Show {
        /// Digital River's id of the order
        order_id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// What to do with the quarantine.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// List what is kept, and whether it verifies with the secrets that are configured now
    List {
        /// Print JSON, one event per line
        #[arg(long)]
        json: bool,
    },
    /// Write what verifies to the topic of its type, where the consumers find it
    Release(ReleaseOptions),
}

/// What is released.
#[derive(Debug, clap::Args)]
pub struct ReleaseOptions {
    /// Everything that verifies
    #[arg(long, required_unless_present = "id", conflicts_with = "id")]
    pub all: bool,
    /// The event with this id; may be given again
    #[arg(long)]
    pub id: Vec<String>,
    /// Do it; without this it is only said what would be done
    #[arg(long)]
    pub apply: bool,
    /// Also what has the right signature, but came without the right password or token, which cannot be checked again
    #[arg(long)]
    pub signature_only: bool,
}

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }
}
