//! Client of Digital River's files API, the only module that uses the API key.
//!
//! Invariants:
//! - the key is sent only to the configured host: URLs are built from the configuration, redirects are not followed, proxies
//!   from the environment are not used (a configured one forwards an encrypted tunnel), unencrypted requests are sent only to
//!   loopback addresses, and connections to private addresses are rejected (`riverlock_digital_river::http`);
//! - every body has a size limit, a minimum rate and a deadline;
//! - bodies are not decompressed: limits apply to the received bytes, and these are stored.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use reqwest::{ClientBuilder, RequestBuilder, Response, dns::Resolve, header};
use riverlock_digital_river::http::{
    resolver::SystemResolver,
    transport::{Network, describe, http_client_over, request_id, with_headers},
};
use riverlock_runtime::{Clock, ConfigError};
use riverlock_schemas::FileId;
use serde_json::Value;
use tokio::time::timeout_at;
use uuid::Uuid;

use crate::{
    InvoiceFetcherConfig, RetryConfig,
    account::{Account, FileRequest, Key, evidence::Endpoint, spelling::Spelling},
    client::{
        address::{self, Addresses, LINKS_PATH_END},
        media::{self, quote},
        status,
    },
    problem::Problem,
};

/// Time limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for the beginning of a response.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// Time during which the minimum rate of a body is not checked.
const RATE_GRACE: Duration = Duration::from_secs(5);

/// Maximum size of metadata, bytes. Digital River's has about 400.
const METADATA_BYTES_MAX: usize = 64 * 1024;

/// An HTTP client for Digital River's files API.
pub(crate) struct Client {
    http: reqwest::Client,
    addresses: Addresses,
    retry: RetryConfig,
    rate_min_bytes_per_second: u64,
    clock: Arc<dyn Clock>,
}

/// A document to request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestedDocument {
    pub(crate) file_id: FileId,
    /// Whether its previous attempt was answered with 429.
    pub(crate) was_throttled: bool,
}

/// Metadata of a file. Every field is optional, because Digital River requires tolerant readers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Its size, bytes.
    pub(crate) size_bytes: Option<u64>,
    /// Its purpose, as named by Digital River.
    pub(crate) purpose: Option<String>,
}

impl Client {
    pub(crate) fn new(config: &InvoiceFetcherConfig, clock: Arc<dyn Clock>) -> Result<Self, ConfigError> {
        Self::over(reqwest::Client::builder(), Arc::new(SystemResolver), config, clock)
    }

    /// Creates a client with a given resolver and HTTP settings.
    pub(crate) fn over(
        http: ClientBuilder,
        resolver: Arc<dyn Resolve>,
        config: &InvoiceFetcherConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let network = Network {
            base: &config.api_base_url,
            private_networks: &config.private_networks,
            section: "invoice_fetcher",
            proxy: config.proxy.as_ref(),
            connect_timeout: CONNECT_TIMEOUT,
        };
        let http = http_client_over(http, resolver, &network)?;
        Ok(Self {
            http,
            addresses: Addresses::new(config.api_base_url.clone()),
            retry: config.retry.clone(),
            rate_min_bytes_per_second: config.rate_min_bytes_per_second,
            clock,
        })
    }

    /// `GET /files/{id}`.
    ///
    /// # Errors
    /// When Digital River does not return metadata of this file, or the file is not a PDF.
    pub(crate) async fn metadata(
        &self,
        account: &Account,
        wanted: &RequestedDocument,
        deadline: Instant,
    ) -> Result<Metadata, Problem> {
        let response = self.request_file(account, wanted, Endpoint::Metadata, deadline).await?;
        read_metadata(&self.text(response, deadline).await?, wanted.file_id)
    }

    /// `GET /files/{id}/content`, without reading the body.
    ///
    /// # Errors
    /// When the response cannot contain a PDF of at most `bytes_max` bytes.
    pub(crate) async fn content(
        &self,
        account: &Account,
        wanted: &RequestedDocument,
        bytes_max: u64,
        deadline: Instant,
    ) -> Result<Body, Problem> {
        let response = self.request_file(account, wanted, Endpoint::Content, deadline).await?;
        media::check_head(response.headers())?;
        if response.content_length().is_some_and(|length| length > bytes_max) {
            return Err(Problem::TooLarge { bytes_max });
        }
        Ok(Body::new(response, self.rate_min_bytes_per_second))
    }

    /// `POST /file-links`.
    ///
    /// # Errors
    /// When the request fails or the response is not JSON.
    pub(crate) async fn create_link(
        &self,
        account: &Account,
        wanted: &Value,
        deadline: Instant,
    ) -> Result<Value, Problem> {
        account.admit(deadline).await?;
        let request = self.http.post(self.addresses.file_links()).json(wanted);
        let response = self.send(&account.key(), request, "application/json", deadline).await?;
        let text = self.text(response, deadline).await?;
        serde_json::from_slice(&text).map_err(|error| Problem::Metadata(format!("it is not JSON: {error}")))
    }

    /// Requests a document without reading the body. If the file is not found, it is requested with the other spelling of its
    /// id.
    async fn request_file(
        &self,
        account: &Account,
        wanted: &RequestedDocument,
        endpoint: Endpoint,
        deadline: Instant,
    ) -> Result<Response, Problem> {
        let first = account.spelling();
        let result = self.request_spelling(account, wanted, endpoint, first, deadline).await;
        if !matches!(result, Err(Problem::NotFound)) {
            return result;
        }
        match self.request_spelling(account, wanted, endpoint, first.other(), deadline).await {
            Ok(response) => {
                account.set_spelling(first.other());
                Ok(response)
            }
            Err(problem @ (Problem::Throttled { .. } | Problem::ThrottledAlone { .. } | Problem::Closed { .. })) => {
                Err(problem)
            }
            // Other responses to an unknown spelling prove nothing about the document.
            Err(_) => result,
        }
    }

    /// Sends one request for a document within the account's rate limit, without reading the body. If the response raises a
    /// suspicion about the account, this is checked before the function returns.
    async fn request_spelling(
        &self,
        account: &Account,
        wanted: &RequestedDocument,
        endpoint: Endpoint,
        spelling: Spelling,
        deadline: Instant,
    ) -> Result<Response, Problem> {
        account.admit(deadline).await?;
        let RequestedDocument { file_id, was_throttled } = *wanted;
        let sent_request = FileRequest { file_id, endpoint, was_throttled, key: account.key(), sent: Instant::now() };
        let result = self.response_head(&sent_request.key, endpoint, (file_id, spelling), deadline).await;
        let suspicion = account.record(&sent_request, result.as_ref().err());
        let Err(problem) = result else { return result };
        if let Some(suspicion) = suspicion {
            self.check(account, suspicion, &sent_request, &problem).await;
        }
        Err(match problem {
            Problem::Unauthorized | Problem::Forbidden if account.is_key_rejected() => Problem::KeyRefused,
            Problem::Throttled { wait } if was_throttled && account.is_open() => Problem::ThrottledAlone { wait },
            problem => problem,
        })
    }

    /// Requests a file without reading the body, without the account's rate limit and without recording evidence.
    pub(crate) async fn response_head(
        &self,
        key: &Key,
        endpoint: Endpoint,
        (file_id, spelling): (FileId, Spelling),
        deadline: Instant,
    ) -> Result<Response, Problem> {
        let (url, accept) = match endpoint {
            Endpoint::Metadata => (self.addresses.metadata(file_id, spelling), "application/json"),
            Endpoint::Content => (self.addresses.content(file_id, spelling), "application/pdf"),
        };
        self.send(key, self.http.get(url), accept, deadline).await
    }

    async fn send(
        &self,
        key: &Key,
        request: RequestBuilder,
        accept: &'static str,
        deadline: Instant,
    ) -> Result<Response, Problem> {
        let upstream_id = Uuid::new_v4().to_string();
        let request = with_headers(request, key.as_ref().clone(), accept, &upstream_id);
        let until = deadline.min(Instant::now() + HEAD_TIMEOUT);
        let response = timeout_at(until.into(), request.send())
            .await
            .map_err(|_| Problem::Deadline("waiting for the response"))?
            .map_err(|error| Problem::Transport(describe(error)))?;
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        // 201 is valid only as the response to a POST.
        let status = match response.status().as_u16() {
            201 if response.url().path().ends_with(LINKS_PATH_END) => 200,
            status => status,
        };
        tracing::debug!(
            upstream_id,
            dr_request_id = request_id(&response),
            status,
            "{} is answered with {status}",
            response.url().path()
        );
        status::check_status(status, retry_after, &self.retry, self.clock.now())?;
        Ok(response)
    }

    /// Reads a complete short body.
    async fn text(&self, response: Response, deadline: Instant) -> Result<BytesMut, Problem> {
        let mut body = Body::new(response, self.rate_min_bytes_per_second);
        let mut text = BytesMut::new();
        while let Some(bytes) = body.next(deadline).await? {
            if text.len() + bytes.len() > METADATA_BYTES_MAX {
                return Err(Problem::Metadata(format!("more than {METADATA_BYTES_MAX} bytes")));
            }
            text.extend_from_slice(&bytes);
        }
        Ok(text)
    }
}

/// A body with a minimum rate.
pub(crate) struct Body {
    response: Response,
    content_length: Option<u64>,
    rate_min_bytes_per_second: u64,
    begun: Instant,
    received: u64,
}

impl Body {
    fn new(response: Response, rate_min_bytes_per_second: u64) -> Self {
        let content_length = response.content_length();
        Self { response, content_length, rate_min_bytes_per_second, begun: Instant::now(), received: 0 }
    }

    /// The `Content-Length` of the response, if present.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// Receives the next bytes; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks, the rate is too low, or the deadline passes.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Result<Option<Bytes>, Problem> {
        let patience = status::patience(self.received, self.rate_min_bytes_per_second, RATE_GRACE);
        let until = self.begun.checked_add(patience).unwrap_or(deadline).min(deadline);
        match timeout_at(until.into(), self.response.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                self.received = self.received.saturating_add(bytes.len() as u64);
                Ok(Some(bytes))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(Problem::Broken { received: self.received, reason: describe(error) }),
            Err(_) if until == deadline => Err(Problem::Deadline("receiving the body")),
            Err(_) => Err(Problem::TooSlow { received: self.received, elapsed: self.begun.elapsed() }),
        }
    }
}

/// Parses metadata. Fields that are missing or have an unexpected type are ignored.
fn read_metadata(text: &[u8], file_id: FileId) -> Result<Metadata, Problem> {
    let value: Value =
        serde_json::from_slice(text).map_err(|error| Problem::Metadata(format!("it is not JSON: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(Problem::Metadata("it is not a JSON object".to_owned()));
    };
    let field = |name| fields.get(name).and_then(Value::as_str);
    if let Some(id) = field("id").filter(|id| !address::names(id, file_id)) {
        return Err(Problem::Metadata(format!("it belongs to another file, {}", quote(id))));
    }
    if let Some(file_type) = field("type").filter(|file_type| !media::is_pdf_type(file_type)) {
        return Err(Problem::FileType(quote(file_type)));
    }
    Ok(Metadata {
        size_bytes: fields.get("size").and_then(Value::as_u64),
        purpose: field("purpose").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_parsed_tolerantly() {
        let id = "6e5bf525-3907-40c5-86a9-f14ce4f33f35";
        let file_id = FileId::parse(id).unwrap();
        let read = |text: String| read_metadata(text.as_bytes(), file_id);
        let full = format!(r#"{{"id":"{id}","size":7,"type":"PDF","purpose":"customer_invoice","links":[]}}"#);
        let expected = Metadata { size_bytes: Some(7), purpose: Some("customer_invoice".to_owned()) };
        assert_eq!(read(full).unwrap(), expected);
        for id in [format!("file_{id}"), id.replace('-', ""), id.to_uppercase(), format!(" file_{id} "), String::new()]
        {
            read(format!(r#"{{"id":"{id}"}}"#)).unwrap_or_else(|problem| panic!("{id}: {problem}"));
        }
        for text in ["{}", r#"{"id":null,"size":"7","type":1,"purpose":[]}"#, r#"{"size":-1}"#] {
            assert_eq!(read(text.to_owned()).unwrap(), Metadata::default(), "{text}");
        }
        for (text, reason) in [
            ("", "metadata"),
            ("<html>", "metadata"),
            ("[]", "metadata"),
            (r#"{"id":"another"}"#, "metadata"),
            (r#"{"type":"zip"}"#, "file_type"),
        ] {
            assert_eq!(read(text.to_owned()).unwrap_err().reason(), reason, "{text}");
        }
    }
}
