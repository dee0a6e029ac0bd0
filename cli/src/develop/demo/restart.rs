//! Restarts of processes that have ended, as an orchestrator does them.

use std::time::Duration;

use crate::{develop::local::Local, terminal::out};

/// How often progress is shown, and processes are checked.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Restarts processes that have ended, and prints their names.
pub(super) async fn restart_ended(local: &mut Local) -> anyhow::Result<()> {
    let restarted = local.restart_ended().await?;
    if !restarted.is_empty() {
        out::line(&format!("had ended and was restarted: {}", restarted.join(", ")));
    }
    Ok(())
}
