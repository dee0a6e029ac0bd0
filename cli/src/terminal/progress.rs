//! Progress bars on standard error. They are hidden where standard error is not a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts `what`, for example `orders`. Its length is set once it is known.
pub(crate) fn counting(what: &str) -> anyhow::Result<ProgressBar> {
    bar(&format!("{{bar:40}} {{human_pos}}/{{human_len}} {what} {{msg}} {{per_sec}} {{elapsed}} (left: {{eta}})"))
}

/// A bar that shows which share of the work is done.
pub(crate) fn percent() -> anyhow::Result<ProgressBar> {
    bar("{bar:40} {percent}% {msg} {elapsed} (left: {eta})")
}

fn bar(template: &str) -> anyhow::Result<ProgressBar> {
    Ok(ProgressBar::new(0).with_style(ProgressStyle::with_template(template)?))
}
