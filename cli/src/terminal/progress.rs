//! The progress bar of long commands. It goes to standard error, and is not there where that is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts `what`.
pub(crate) fn new(what: &str) -> anyhow::Result<ProgressBar> {
    let style = format!("{{bar:40}} {{human_pos}}/{{human_len}} {what} {{msg}} {{per_sec}} (left: {{eta}})");
    Ok(ProgressBar::new(0).with_style(ProgressStyle::with_template(&style)?))
}
