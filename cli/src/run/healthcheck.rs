//! `riverlock healthcheck`: a request to a health endpoint, for images without curl.

use std::{process::ExitCode, time::Duration};

use crate::out;

/// The time limit of the request.
const TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) async fn run(url: &str) -> anyhow::Result<ExitCode> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
    let answer = client.get(url).send().await?;
    let (status, body) = (answer.status(), answer.text().await.unwrap_or_default());
    out::print(&format!("{status} {body}\n"));
    Ok(if status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
