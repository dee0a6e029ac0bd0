//! `riverlock webhooks` on the command line.

use clap::{Args, Subcommand};

use crate::{options::mode::ModeOption, terminal::out::Output};

/// What to do with the webhooks that are registered at Digital River.
#[derive(Debug, Subcommand)]
pub enum WebhooksCommand {
    /// List what is registered, configured or not
    List(LookOptions),
    /// Show one webhook, with its secrets masked
    Show {
        /// Its name in the configuration, or Digital River's id
        webhook: String,
        /// What is looked at
        #[command(flatten)]
        look: LookOptions,
    },
    /// Register one configured webhook
    Create(NamedOptions),
    /// Change one registered webhook so that it is as configured
    Update(NamedOptions),
    /// Have Digital River send again, for example after it disabled the webhook
    Enable(TargetOptions),
    /// Have Digital River send no more; asks for the address
    Disable(ConfirmedOptions),
    /// Delete a registration for good; asks for the address
    Delete(ConfirmedOptions),
    /// Compare what is registered with the configuration; exit code 0 only if nothing differs, 1 if something does
    Check {
        /// Also send a signed event of type `riverlock.probe` through each public address
        #[arg(long)]
        probe: bool,
        /// What is looked at
        #[command(flatten)]
        look: LookOptions,
    },
    /// Show what has to change so that everything configured is registered, and change it with --apply
    Apply {
        /// Do it; without this nothing is changed, and the exit code is 1 if something would be
        #[arg(long)]
        apply: bool,
        /// What is looked at
        #[command(flatten)]
        look: LookOptions,
    },
}

/// What is looked at, and how it is printed.
#[derive(Clone, Copy, Debug, Args)]
pub struct LookOptions {
    /// Only this mode; all that have an API key when absent
    #[arg(long, value_enum)]
    pub mode: Option<ModeOption>,
    /// How to print it
    #[command(flatten)]
    pub output: Output,
}

/// A configured webhook.
#[derive(Debug, Args)]
pub struct NamedOptions {
    /// Its name in the configuration
    pub name: String,
}

/// A registered webhook.
#[derive(Debug, Args)]
pub struct TargetOptions {
    /// Its name in the configuration, or Digital River's id
    pub webhook: String,
    /// The mode of the id; all that have an API key are searched when absent
    #[arg(long, value_enum)]
    pub mode: Option<ModeOption>,
}

/// A registered webhook whose change has to be confirmed.
#[derive(Debug, Args)]
pub struct ConfirmedOptions {
    /// Which one
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    /// Do not ask; for scripts
    #[arg(long)]
    pub yes: bool,
}
