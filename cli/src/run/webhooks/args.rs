//! Arguments of `riverlock webhooks`.

use clap::{Args, Subcommand};

use crate::{options::mode::ModeOption, terminal::out::Output};

/// The subcommands of `riverlock webhooks`.
#[derive(Debug, Subcommand)]
pub enum WebhooksCommand {
    /// List registered webhooks, whether they are configured or not
    #[command(after_help = "Examples:
  riverlock webhooks list --mode live")]
    List(ViewOptions),
    /// Show a registered webhook with masked secrets
    #[command(after_help = "Examples:
  riverlock webhooks show orders-live")]
    Show {
        /// The name in the configuration, or Digital River's id
        webhook: String,
        /// The mode and the output format
        #[command(flatten)]
        view: ViewOptions,
    },
    /// Register one configured webhook
    ///
    /// There is no dry run.
    #[command(after_help = "Examples:
  riverlock webhooks create orders-live")]
    Create(WebhookName),
    /// Change one registered webhook to match the configuration
    ///
    /// There is no dry run.
    #[command(after_help = "Examples:
  riverlock webhooks update orders-live")]
    Update(WebhookName),
    /// Enable a webhook, for example after Digital River disabled it
    ///
    /// There is no dry run.
    #[command(after_help = "Examples:
  riverlock webhooks enable orders-live")]
    Enable(WebhookSelector),
    /// Disable a webhook
    ///
    /// Digital River then sends no more events to its address. Asks for confirmation.
    #[command(after_help = "Examples:
  riverlock webhooks disable orders-live")]
    Disable(ConfirmationOptions),
    /// Delete a webhook permanently
    ///
    /// Deletes the registration and its signing secrets. Asks for confirmation.
    #[command(after_help = "Examples:
  riverlock webhooks delete orders-live")]
    Delete(ConfirmationOptions),
    /// Compare registered webhooks with the configuration
    ///
    /// The exit code is 1 if something differs.
    #[command(after_help = "Examples:
  riverlock webhooks check
  riverlock webhooks check --probe --mode live")]
    Check {
        /// Also send a signed event of type `riverlock.probe` through each public address
        #[arg(long)]
        probe: bool,
        /// The mode and the output format
        #[command(flatten)]
        view: ViewOptions,
    },
    /// Register and change webhooks to match the configuration
    ///
    /// Dry run unless --apply is given. The exit code of a dry run is 1 if something would change.
    #[command(after_help = "Examples:
  riverlock webhooks apply
  riverlock webhooks apply --apply")]
    Apply {
        /// Apply the changes (default: dry run)
        #[arg(long)]
        apply: bool,
        /// The mode and the output format
        #[command(flatten)]
        view: ViewOptions,
    },
}

/// Which webhooks are read, and the output format.
#[derive(Clone, Copy, Debug, Args)]
pub struct ViewOptions {
    /// Only this mode [default: every mode with an API key]
    #[arg(long, value_enum)]
    pub mode: Option<ModeOption>,
    /// The output format
    #[command(flatten)]
    pub output: Output,
}

/// A configured webhook.
#[derive(Debug, Args)]
pub struct WebhookName {
    /// The name in the configuration
    pub name: String,
}

/// A registered webhook.
#[derive(Debug, Args)]
pub struct WebhookSelector {
    /// The name in the configuration, or Digital River's id
    pub webhook: String,
    /// The mode of the id [default: every mode with an API key is searched]
    #[arg(long, value_enum)]
    pub mode: Option<ModeOption>,
}

/// A registered webhook, and whether its change needs no confirmation.
#[derive(Debug, Args)]
pub struct ConfirmationOptions {
    /// The webhook
    #[command(flatten)]
    pub(crate) target: WebhookSelector,
    /// Do not ask for confirmation; for scripts
    #[arg(long)]
    pub yes: bool,
}
