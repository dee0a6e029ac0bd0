//! The command line.

use std::{ffi::OsString, path::PathBuf, sync::LazyLock};

use clap::{
    ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ErrorKind, parser::ValueSource,
};

use crate::{
    develop::args::{DemoOptions, SandboxCommand, StackOptions},
    exit,
    look::{invoices::args as invoices, orders::args as orders, trace::args as trace},
    repair::{
        dead_letters::args as dead_letters, outbox::args as outbox, quarantine::args as quarantine,
        rebuild::args as rebuild, reconcile::args as reconcile, refold::args as refold, replay::args as replay,
    },
    run::{setup::args as setup, shipments::args as shipments, webhooks::args as webhooks},
    terminal::out::Output,
};

/// The version, with the commit where the build was told of it by `RIVERLOCK_COMMIT`.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("RIVERLOCK_COMMIT").filter(|commit| !commit.is_empty());
    let commit = commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
    format!("{}{commit}", env!("CARGO_PKG_VERSION"))
});

/// Digital River webhooks in, fulfilled orders and archived VAT invoices out.
#[derive(Debug, Parser)]
#[command(name = "riverlock", version = VERSION.as_str(), max_term_width = 100, after_help = exit::HELP)]
pub struct Args {
    /// Configuration file (TOML); environment variables such as `RIVERLOCK__KAFKA__BROKERS` go over it
    #[arg(long, short, global = true, env = "RIVERLOCK_CONFIG")]
    pub config: Option<PathBuf>,
    /// Log more to standard error: once what commands do, twice for details. Services log as `[telemetry]` says
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// The command
    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// What was asked for; the process ends, with a word about it, when that makes no sense.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::parsed(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Understands a command line, the program's name included.
    ///
    /// # Errors
    /// When it makes no sense, or asks for help.
    pub fn parsed(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(words)?;
        let args = Self::from_arg_matches(&matches)?;
        if args.command.has_own_configuration() && is_given(&matches, "config") {
            let reason = "--config is not used by this command: it writes a configuration of its own";
            return Err(command.error(ErrorKind::ArgumentConflict, reason));
        }
        Ok(args)
    }
}

/// Whether an option was typed, not only set in the environment.
fn is_given(matches: &ArgMatches, name: &str) -> bool {
    let here = matches.value_source(name) == Some(ValueSource::CommandLine);
    here || matches.subcommand().is_some_and(|(_, matches)| is_given(matches, name))
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
    /// Create the topics that are missing, show what differs of the others, and bring the tables to this version
    Setup(setup::SetupOptions),
    /// Prove that every acknowledged event has exactly one outcome: compare Kafka with PostgreSQL, record by record
    Audit {
        /// How to print it
        #[command(flatten)]
        output: Output,
    },
    /// List and show orders
    Orders {
        /// What to do with them
        #[command(subcommand)]
        command: orders::OrdersCommand,
    },
    /// Compute orders again from their recorded events, after a bug in the processor was fixed
    Refold(refold::RefoldOptions),
    /// Build all tables again from the topics, compare them with the live tables, and replace those
    Rebuild(rebuild::RebuildOptions),
    /// Show an event's or order's way from the webhook to its last effect, and verify the stored bytes again
    Trace(trace::TraceOptions),
    /// Print the OpenAPI document of the services' read APIs
    Openapi,
    /// Check the configuration
    Config {
        /// What to do with it
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// List events that failed authentication, and release those whose signature verifies now
    Quarantine {
        /// What to do with them
        #[command(subcommand)]
        command: quarantine::QuarantineCommand,
    },
    /// List records that could not be processed, and redrive or discard them
    DeadLetters {
        /// What to do with them
        #[command(subcommand)]
        command: dead_letters::DeadLettersCommand,
    },
    /// List messages that are not published, and retry parked ones
    Outbox {
        /// What to do with them
        #[command(subcommand)]
        command: outbox::OutboxCommand,
    },
    /// List, fetch, open, retry and link invoices and credit memos
    Invoices {
        /// What to do with them
        #[command(subcommand)]
        command: invoices::InvoicesCommand,
    },
    /// List the webhooks registered at Digital River, compare them with the configuration, and register them
    Webhooks {
        /// What to do with them
        #[command(subcommand)]
        command: webhooks::WebhooksCommand,
    },
    /// Compare Digital River's events, orders and documents with what is stored, and fetch missing events
    Reconcile(Box<reconcile::ReconcileOptions>),
    /// Process records again that were read before: known events do nothing, missing ones take effect
    Replay(Box<replay::ReplayOptions>),
    /// Add, list and retry shipments, which the processor reports to Digital River
    Shipments {
        /// What to do with them
        #[command(subcommand)]
        command: shipments::ShipmentsCommand,
    },
    /// Imitate Digital River: its API, its webhooks, its signatures
    Sandbox {
        /// What it does
        #[command(subcommand)]
        command: SandboxCommand,
    },
    /// Start a stack, play orders from webhook to invoice, verify everything, and end
    Demo(DemoOptions),
    /// Run a local stack (PostgreSQL, Kafka, the services, the sandbox) until Ctrl-C, and keep its data
    Stack(StackOptions),
    /// Request an address and fail unless it answers 2xx; for container health checks
    Healthcheck {
        /// For example http://127.0.0.1:9464/readyz
        #[arg(long)]
        url: String,
    },
}

impl Command {
    /// Whether it runs until it is asked to end, and logs as the configuration says.
    #[must_use]
    pub fn is_service(&self) -> bool {
        match self {
            Self::Ingest | Self::Processor | Self::InvoiceFetcher | Self::Up => true,
            Self::Sandbox { command } => matches!(command, SandboxCommand::Serve),
            _ => false,
        }
    }

    /// Whether it has signal handlers of its own, and finishes what it has in flight.
    #[must_use]
    pub fn ends_in_order(&self) -> bool {
        let plays = matches!(self, Self::Sandbox { command: SandboxCommand::Play { .. } });
        self.is_service() || self.has_own_configuration() || plays || matches!(self, Self::Replay(_))
    }

    /// Whether it starts servers of its own, and configures them itself.
    #[must_use]
    pub fn has_own_configuration(&self) -> bool {
        matches!(self, Self::Demo(_) | Self::Stack(_))
    }

    /// Whether it works without any configuration.
    #[must_use]
    pub fn needs_no_configuration(&self) -> bool {
        self.has_own_configuration() || matches!(self, Self::Openapi | Self::Healthcheck { .. })
    }
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check every section, and that its secrets can be read; nothing is connected to
    Check {
        /// How to print it
        #[command(flatten)]
        output: Output,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Args;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_configuration_that_would_not_be_used_is_refused() {
        for words in ["riverlock --config a.toml stack", "riverlock demo --config a.toml", "riverlock stack -c a.toml"]
        {
            let error = Args::parsed(words.split(' ')).unwrap_err().to_string();
            assert!(error.contains("configuration of its own"), "{words}: {error}");
        }
        assert!(Args::parsed(["riverlock", "stack"]).is_ok());
        assert!(Args::parsed("riverlock -c a.toml audit".split(' ')).is_ok());
    }

    #[test]
    fn one_flag_means_one_thing_in_every_command() {
        let mut meanings = std::collections::BTreeMap::<String, (bool, String)>::new();
        check(&Args::command(), &mut meanings);
        assert!(meanings.contains_key("apply") && meanings.contains_key("reason"), "the test showed nothing");
    }

    /// A flag takes a value everywhere or nowhere, but for [`OTHER_KIND`]. Whatever changes something has `--apply`, `--reason`
    /// and `--by`, but for [`NOT_RECORDED`].
    fn check(command: &clap::Command, meanings: &mut std::collections::BTreeMap<String, (bool, String)>) {
        let name = command.get_name().to_owned();
        let flags: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
        for argument in command.get_arguments().filter(|argument| argument.get_long().is_some()) {
            let flag = argument.get_long().unwrap_or_default().to_owned();
            let takes = argument.get_action().takes_values();
            if OTHER_KIND.contains(&(name.as_str(), flag.as_str())) {
                continue;
            }
            let (other, by) = meanings.entry(flag.clone()).or_insert_with(|| (takes, name.clone()));
            assert_eq!(*other, takes, "--{flag} of {name} is another kind of flag than that of {by}");
        }
        for needed in ["reason", "by"] {
            let has = flags.contains(&"apply") == flags.contains(&needed);
            assert!(has || NOT_RECORDED.contains(&name.as_str()), "{name}: {flags:?}");
        }
        for gone in ["why", "yes", "changed-since", "from", "older", "dry-run"] {
            let is_confirmed = gone == "yes" && CONFIRMED.contains(&name.as_str());
            assert!(!flags.contains(&gone) || is_confirmed, "{name}: {flags:?}");
        }
        command.get_subcommands().for_each(|command| check(command, meanings));
    }

    /// Flags that are of another kind elsewhere: `reconcile --orders` says what is compared, `demo --orders` how many are played.
    const OTHER_KIND: [(&str, &str); 1] = [("reconcile", "orders")];

    /// `webhooks apply` and `reconcile` bring about what the configuration says, and `shipments add` says what a warehouse did:
    /// they ask for no reason. Only a shipment records who added it.
    const NOT_RECORDED: [&str; 3] = ["apply", "reconcile", "add"];

    /// Commands that ask a person to type an address, unless `--yes` is given.
    const CONFIRMED: [&str; 2] = ["disable", "delete"];
}
