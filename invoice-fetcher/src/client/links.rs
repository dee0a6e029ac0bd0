//! Links to files for customers: `POST /file-links`.

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use riverlock_digital_river::http::address::is_loopback;
use riverlock_runtime::{ConfigError, Context};
use riverlock_schemas::{FileId, Mode};
use serde::Serialize;
use serde_json::{Value, json};
use url::Url;

use crate::{
    InvoiceFetcherConfig,
    account::{Account, spelling::Spelling},
    client::{address::Addresses, download::Client},
    problem::Problem,
};

/// Time limit of the request.
const DEADLINE: Duration = Duration::from_secs(30);

/// A link that a customer can open without an API key.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// The file.
    pub file_id: FileId,
    /// The URL for the customer.
    pub url: Url,
    /// The expiry time, as returned by Digital River.
    pub expires_time: String,
}

/// The link could not be created.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No account is configured for the file's mode.
    #[error("no account for {0} data is configured")]
    NoAccount(Mode),
    /// Digital River rejected the request.
    #[error("Digital River did not create a link: {0}")]
    Refused(String),
    /// Digital River's response contains no link for a customer.
    #[error("Digital River's response contains no link for a customer: {0}")]
    Answer(&'static str),
}

/// Creates a link to a file that is valid until `expires_at`.
///
/// # Errors
/// When there is no account for the file, or Digital River does not return a link.
pub async fn create(
    config: &InvoiceFetcherConfig,
    context: &Context,
    mode: Mode,
    file_id: FileId,
    expires_at: DateTime<Utc>,
) -> Result<Link, LinkError> {
    config.validate()?;
    let account = config.accounts().find(|(of, _)| *of == mode).ok_or(LinkError::NoAccount(mode))?;
    let account = Account::new(mode, &config.api_base_url, account.1)?;
    let client = Client::new(config, context.clock.clone())?;
    let expires_time = expires_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let deadline = Instant::now() + DEADLINE;
    let create = async |spelling: Spelling| {
        let wanted = json!({"fileId": spelling.write(file_id), "expiresTime": expires_time});
        client.create_link(&account, &wanted, deadline).await
    };
    let mut answer = create(Spelling::Plain).await;
    // The status for an unknown id is not documented; it may be either of the two.
    if matches!(answer, Err(Problem::NotFound | Problem::Status(400))) {
        answer = create(Spelling::Prefixed).await.or(answer);
    }
    let answer = answer.map_err(|problem| LinkError::Refused(problem.to_string()))?;
    let url = customer_url(&answer, config, file_id).map_err(LinkError::Answer)?;
    let expires_time =
        answer.get("expiresTime").and_then(Value::as_str).map_or(expires_time, crate::client::media::quote);
    Ok(Link { file_id, url, expires_time })
}

/// The link in a response, if it is suitable for a customer: encrypted, and not the file's own URL, which needs the key.
fn customer_url(answer: &Value, config: &InvoiceFetcherConfig, file_id: FileId) -> Result<Url, &'static str> {
    let url = answer.get("url").and_then(Value::as_str).ok_or("it has no `url`")?;
    let url = Url::parse(url).map_err(|_| "its `url` is invalid")?;
    if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(&config.api_base_url)) {
        return Err("its `url` does not begin with https://");
    }
    for base in [&config.api_base_url, &config.announced_base_url] {
        let addresses = Addresses::new(base.clone());
        let is_metadata = Spelling::ALL.iter().any(|spelling| url == addresses.metadata(file_id, *spelling));
        if is_metadata || addresses.is_content(url.as_str(), file_id) {
            return Err("its `url` is the file's own URL, which needs the key");
        }
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_needs_the_key_is_not_a_link() {
        let id = "6e5bf525-3907-40c5-86a9-f14ce4f33f35";
        let config = InvoiceFetcherConfig::default();
        let check = |url: &str| customer_url(&json!({"url": url}), &config, FileId::parse(id).unwrap());
        assert!(check("https://files.digitalriver.com/links/abc").is_ok());
        for url in [
            "",
            "x",
            "http://files.digitalriver.com/links/abc",
            "javascript:alert(1)",
            &format!("https://api.digitalriver.com/files/{id}/content"),
            &format!("https://api.digitalriver.com/files/{id}"),
            &format!("https://api.digitalriver.com/files/file_{id}"),
        ] {
            assert!(check(url).is_err(), "{url}");
        }
        assert!(customer_url(&json!({"id": 1}), &config, FileId::parse(id).unwrap()).is_err());
    }
}
