//! The command line.

use std::{ffi::OsString, path::PathBuf, sync::LazyLock};

use clap::{ArgMatches, FromArgMatches as _, Parser, Subcommand, error::ErrorKind, parser::ValueSource};

use crate::{
    develop::args::{DemoOptions, SandboxCommand, StackOptions},
    exit, help,
    look::{invoices::args::InvoicesCommand, orders::args::OrdersCommand, trace::args::TraceOptions},
    repair::{
        dead_letters::args::DeadLettersCommand, outbox::args::OutboxCommand, quarantine::args::QuarantineCommand,
        rebuild::args::RebuildOptions, reconcile::args::ReconcileOptions, refold::args::RefoldOptions,
        replay::args::ReplayOptions,
    },
    run::{setup::args::SetupOptions, shipments::args::ShipmentsCommand, webhooks::args::WebhooksCommand},
    terminal::out::Output,
};

/// The version, with the commit if the build set `RIVERLOCK_COMMIT`.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("RIVERLOCK_COMMIT").filter(|commit| !commit.is_empty());
    let commit = commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
    format!("{}{commit}", env!("CARGO_PKG_VERSION"))
});

/// Turn Digital River's webhooks into fulfilled orders and archived VAT invoices
#[derive(Debug, Parser)]
#[command(name = "riverlock", version = VERSION.as_str(), after_help = exit::HELP)]
pub struct Args {
    /// Configuration file (TOML); environment variables such as RIVERLOCK__KAFKA__BROKERS override it
    #[arg(
        long,
        short,
        global = true,
        env = "RIVERLOCK_CONFIG",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub config: Option<PathBuf>,
    /// Log more to standard error; -vv for details. Services log as `[telemetry]` configures
    #[arg(long, short, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// The command
    #[command(subcommand)]
    pub command: Command,
}

impl Args {
    /// Parses the command line of this process. Help and errors end the process.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::parsed(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Parses a command line, which begins with the program's name.
    ///
    /// # Errors
    /// When it is invalid, or asks for help or the version.
    pub fn parsed(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let mut command = help::with_help::<Self>();
        let matches = command.try_get_matches_from_mut(words)?;
        let args = Self::from_arg_matches(&matches)?;
        if args.command.has_own_configuration() && is_given(&matches, "config") {
            let reason = "--config is not used by this command: it writes a configuration of its own";
            return Err(command.error(ErrorKind::ArgumentConflict, reason));
        }
        Ok(args)
    }
}

/// Whether an option is on the command line and not only in the environment.
fn is_given(matches: &ArgMatches, name: &str) -> bool {
    let here = matches.value_source(name) == Some(ValueSource::CommandLine);
    here || matches.subcommand().is_some_and(|(_, matches)| is_given(matches, name))
}

/// The commands. The help shows them in the groups of [`help::GROUPS`].
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create topics and tables, or bring them to this version
    ///
    /// Creates missing topics, reports settings of existing topics that differ from the configuration, and migrates the
    /// tables. Running it again changes nothing.
    #[command(after_help = "Examples:
  riverlock setup
  riverlock setup --apply-topic-settings
  riverlock setup --new-cluster lkc-4711 --republish-since 36h")]
    Setup(SetupOptions),
    /// Check the configuration
    Config {
        /// The subcommand
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Receive webhooks: verify them, write them to Kafka, answer 202
    #[command(after_help = "Examples:
  riverlock --config riverlock.toml ingest")]
    Ingest,
    /// Compute orders from events, and publish messages for other systems
    #[command(after_help = "Examples:
  riverlock --config riverlock.toml processor")]
    Processor,
    /// Download, check and store VAT invoices
    #[command(after_help = "Examples:
  riverlock --config riverlock.toml invoice-fetcher")]
    InvoiceFetcher,
    /// Run the three services in one process
    #[command(after_help = "Examples:
  riverlock --config riverlock.toml up")]
    Up,
    /// List, check and register webhooks at Digital River
    Webhooks {
        /// The subcommand
        #[command(subcommand)]
        command: WebhooksCommand,
    },
    /// Store shipments, which the processor reports to Digital River
    Shipments {
        /// The subcommand
        #[command(subcommand)]
        command: ShipmentsCommand,
    },
    /// Check a health endpoint; for container health checks
    #[command(after_help = "Examples:
  riverlock healthcheck --url http://127.0.0.1:9464/readyz")]
    Healthcheck {
        /// The address, which must answer 2xx
        #[arg(long)]
        url: String,
    },
    /// List and show orders
    Orders {
        /// The subcommand
        #[command(subcommand)]
        command: OrdersCommand,
    },
    /// List, save, verify, retry and link invoices and credit memos
    Invoices {
        /// The subcommand
        #[command(subcommand)]
        command: InvoicesCommand,
    },
    /// Trace an event or order from the webhook to its last effect
    ///
    /// Reads the stored records from Kafka again and verifies their hashes and signatures. The exit code is 1 if a record was
    /// changed or nothing is known about the id.
    #[command(after_help = "Examples:
  riverlock trace 204440790336
  riverlock trace 5d2c6a5e-2b40-4c1f-9a55-3f1f6a7f2c11 --as event --json")]
    Trace(TraceOptions),
    /// Prove that every acknowledged event has exactly one outcome
    ///
    /// Compares every record in Kafka with its outcome in PostgreSQL. Read-only. The exit code is 1 if a record is lost or
    /// has no outcome.
    #[command(after_help = "Examples:
  riverlock audit
  riverlock audit --json")]
    Audit {
        /// The output format
        #[command(flatten)]
        output: Output,
    },
    /// List, show, redrive and discard records that could not be processed
    DeadLetters {
        /// The subcommand
        #[command(subcommand)]
        command: DeadLettersCommand,
    },
    /// List messages that are not published, and retry parked ones
    Outbox {
        /// The subcommand
        #[command(subcommand)]
        command: OutboxCommand,
    },
    /// List quarantined events, and release those whose signatures verify now
    Quarantine {
        /// The subcommand
        #[command(subcommand)]
        command: QuarantineCommand,
    },
    /// Find events that Digital River never delivered, and fetch them
    ///
    /// Compares Digital River's list of events (or orders, or documents) with what is stored. Dry run unless --apply is given.
    #[command(after_help = "Examples:
  riverlock reconcile --since 24h
  riverlock reconcile --since 24h --apply
  riverlock reconcile --documents --since 90d")]
    Reconcile(Box<ReconcileOptions>),
    /// Replay past records: apply missing events and skip the others
    ///
    /// A dry run shows what would change and stores it as a plan. `riverlock replay --plan HASH --apply` executes exactly
    /// that plan; `riverlock replay --plan HASH` shows its progress.
    #[command(after_help = "Examples:
  riverlock replay --order 204440790336
  riverlock replay --type order.accepted --since 24h
  riverlock replay --plan ab89a1889122bc08 --apply --reason 'the consumer was stopped too long'")]
    Replay(Box<ReplayOptions>),
    /// Recompute orders from their stored events, after a bug fix
    ///
    /// Compares the recomputed orders with the stored ones. Dry run unless --apply is given. May run beside the services.
    #[command(after_help = "Examples:
  riverlock refold 204440790336
  riverlock refold --since 2h --apply --reason 'release 0.1.1 fixes the completion'")]
    Refold(RefoldOptions),
    /// Rebuild all tables from the topics, compare them, then swap
    ///
    /// Builds the tables in a schema of their own and compares them with the live tables. With --apply they replace the live
    /// tables, which are kept in another schema. A rebuild that was interrupted continues when it is run again.
    #[command(after_help = "Examples:
  riverlock rebuild
  riverlock rebuild --apply --reason 'release 0.1.1 fixes the conflicts'")]
    Rebuild(RebuildOptions),
    /// Imitate Digital River: API, webhooks and signatures
    Sandbox {
        /// The subcommand
        #[command(subcommand)]
        command: SandboxCommand,
    },
    /// Start a stack, play orders from webhook to invoice, verify everything, stop
    #[command(after_help = "Examples:
  riverlock demo
  riverlock demo --orders 100000 --seed 7")]
    Demo(DemoOptions),
    /// Run a local stack until Ctrl-C, and keep its data
    ///
    /// Starts PostgreSQL, Kafka, the services and the sandbox on fixed ports of the loopback interface.
    #[command(after_help = "Examples:
  riverlock stack
  riverlock stack --broker embedded")]
    Stack(StackOptions),
    /// Print the OpenAPI document of the read APIs
    #[command(after_help = "Examples:
  riverlock openapi")]
    Openapi,
}

impl Command {
    /// Whether the command runs until it is stopped, and logs as the configuration says.
    #[must_use]
    pub fn is_service(&self) -> bool {
        match self {
            Self::Ingest | Self::Processor | Self::InvoiceFetcher | Self::Up => true,
            Self::Sandbox { command } => matches!(command, SandboxCommand::Serve),
            _ => false,
        }
    }

    /// Whether the command handles signals itself and completes work in flight.
    #[must_use]
    pub fn handles_signals(&self) -> bool {
        let plays = matches!(self, Self::Sandbox { command: SandboxCommand::Play { .. } });
        self.is_service() || self.has_own_configuration() || plays || matches!(self, Self::Replay(_))
    }

    /// Whether the command starts servers and configures them itself.
    #[must_use]
    pub fn has_own_configuration(&self) -> bool {
        matches!(self, Self::Demo(_) | Self::Stack(_))
    }

    /// Whether the command works without a configuration.
    #[must_use]
    pub fn needs_no_configuration(&self) -> bool {
        self.has_own_configuration() || matches!(self, Self::Openapi | Self::Healthcheck { .. })
    }
}

/// The subcommands of `riverlock config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check every section, and that its secrets can be read
    ///
    /// Connects to nothing. The exit code is 1 if a section is wrong.
    #[command(after_help = "Examples:
  riverlock --config riverlock.toml config check")]
    Check {
        /// The output format
        #[command(flatten)]
        output: Output,
    },
}

#[cfg(test)]
mod tests {
    use super::{Args, help};

    #[test]
    fn the_command_line_is_consistent() {
        help::with_help::<Args>().debug_assert();
    }

    #[test]
    fn a_configuration_that_would_not_be_used_is_rejected() {
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
        check(&help::with_help::<Args>(), &mut meanings);
        assert!(meanings.contains_key("apply") && meanings.contains_key("reason"), "the test showed nothing");
    }

    /// A flag takes a value in every command or in none, except for [`OTHER_KIND`]. Commands that change something have
    /// `--apply`, `--reason` and `--by`, except for [`NOT_RECORDED`].
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

    /// Flags of another kind elsewhere: `reconcile --orders` selects what is compared, `demo --orders` a number.
    const OTHER_KIND: [(&str, &str); 1] = [("reconcile", "orders")];

    /// Commands without a reason: `webhooks apply` and `reconcile` implement the configuration, and `shipments add` records
    /// what a warehouse did. Only a shipment records who added it.
    const NOT_RECORDED: [&str; 3] = ["apply", "reconcile", "add"];

    /// Commands that ask for confirmation unless `--yes` is given.
    const CONFIRMED: [&str; 2] = ["disable", "delete"];
}
