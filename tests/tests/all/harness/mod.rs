//! What several folders of tests share: topics, databases, projections, consumers, and a proxy before PostgreSQL.

use std::time::Duration;

use tokio::time::Instant;

pub(crate) mod install;
pub(crate) mod projection;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod topic;

/// The longest that any step of a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a condition holds; fails with `otherwise` after [`PATIENCE`].
pub(crate) async fn until(otherwise: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{otherwise}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
