//! Talks to Digital River's files API. The only place where the key is used.
//!
//! Invariants:
//! - the key goes to the configured host and nowhere else: addresses are built from the configuration, redirects are not
//!   followed, proxies of the environment are not used (one from the configuration gets an encrypted tunnel), anything but
//!   `https` is for loopback addresses only, and a name that leads into the own network is not followed (`resolver.rs`);
//! - everything that is read has a size limit, a slowest rate and a deadline;
//! - nothing is decompressed: limits hold for the bytes that came, and the bytes that came are what is stored.

use std::{
    error::Error as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use reqwest::{ClientBuilder, Proxy, RequestBuilder, Response, dns::Resolve, header, redirect::Policy};
use riverlock_runtime::{Clock, ConfigError};
use riverlock_schemas::FileId;
use serde_json::Value;
use tokio::time::timeout_at;
use url::Url;
use uuid::Uuid;

use crate::{
    InvoiceFetcherConfig, RetryConfig,
    account::{Account, FileRequest, Key, evidence::Endpoint},
    client::{
        address::{self, Addresses, LINKS_PATH_END, Spelling},
        media::{self, quote},
        resolver::{GuardedResolver, System},
    },
    config::is_loopback,
    fetch::plan,
    problem::Problem,
};

/// How Digital River shall know this program. Source: Digital River, "Request headers".
const APPLICATION: &str = concat!("riverlock/", env!("CARGO_PKG_VERSION"));

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take to begin.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a body may come as slowly as it likes.
const RATE_GRACE: Duration = Duration::from_secs(5);

/// Largest metadata that is read, bytes. Digital River's have some 400.
const METADATA_BYTES_MAX: usize = 64 * 1024;

/// Asks Digital River.
pub(crate) struct Client {
    http: reqwest::Client,
    addresses: Addresses,
    retry: RetryConfig,
    rate_min_bytes_per_second: u64,
    clock: Arc<dyn Clock>,
}

/// A document that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestedDocument {
    pub(crate) file_id: FileId,
    /// Whether its last attempt was answered 429.
    pub(crate) was_throttled: bool,
}

/// What Digital River knows of a file. Everything may be missing: Digital River asks for tolerant readers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// Its size, bytes.
    pub(crate) size_bytes: Option<u64>,
    /// Its purpose, in Digital River's words.
    pub(crate) purpose: Option<String>,
}

impl Client {
    pub(crate) fn new(config: &InvoiceFetcherConfig, clock: Arc<dyn Clock>) -> Result<Self, ConfigError> {
        Self::over(reqwest::Client::builder(), Arc::new(System), config, clock)
    }

    /// A client over a resolver, and with trust in certificates, of the caller's own.
    pub(crate) fn over(
        http: ClientBuilder,
        resolver: Arc<dyn Resolve>,
        config: &InvoiceFetcherConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConfigError> {
        let base = &config.api_base_url;
        let proxy = config.proxy.as_ref().and_then(|proxy| Url::parse(proxy.expose()).ok());
        let proxy = proxy.and_then(|proxy| proxy.host_str().map(str::to_owned));
        let loopback = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))];
        let mut http = http
            .user_agent(APPLICATION)
            .redirect(Policy::none())
            .referer(false)
            .no_proxy()
            .https_only(!is_loopback(base))
            .dns_resolver(GuardedResolver::new(resolver, config.private_networks.clone(), proxy))
            .resolve_to_addrs("localhost", &loopback)
            .connect_timeout(CONNECT_TIMEOUT);
        // Off in this build; said here so that no other crate's feature can switch decompression on.
        http = http.no_gzip().no_brotli().no_zstd().no_deflate();
        if let Some(proxy) = &config.proxy {
            // The proxy sees where the connection goes; what goes through it is encrypted, the key included.
            let proxy = Proxy::https(proxy.expose())
                .map_err(|_| ConfigError::refused("invoice_fetcher.proxy", "is no address of a proxy"))?;
            http = http.proxy(proxy);
        }
        let http = http.build().map_err(|error| ConfigError::refused("invoice_fetcher.api_base_url", chain(&error)))?;
        Ok(Self {
            http,
            addresses: Addresses::new(base.clone()),
            retry: config.retry.clone(),
            rate_min_bytes_per_second: config.rate_min_bytes_per_second,
            clock,
        })
    }

    /// `GET /files/{id}`.
    ///
    /// # Errors
    /// When Digital River does not answer with a description of this file, or says that it is no PDF.
    pub(crate) async fn metadata(
        &self,
        account: &Account,
        wanted: &RequestedDocument,
        deadline: Instant,
    ) -> Result<Metadata, Problem> {
        let response = self.ask(account, wanted, Endpoint::Metadata, deadline).await?;
        read_metadata(&self.text(response, deadline).await?, wanted.file_id)
    }

    /// `GET /files/{id}/content`, up to where the body begins.
    ///
    /// # Errors
    /// When Digital River does not answer with what can be a PDF of at most `bytes_max` bytes.
    pub(crate) async fn content(
        &self,
        account: &Account,
        wanted: &RequestedDocument,
        bytes_max: u64,
        deadline: Instant,
    ) -> Result<Body, Problem> {
        let response = self.ask(account, wanted, Endpoint::Content, deadline).await?;
        media::judge_head(response.headers())?;
        if response.content_length().is_some_and(|length| length > bytes_max) {
            return Err(Problem::TooLarge { bytes_max });
        }
        Ok(Body::new(response, self.rate_min_bytes_per_second))
    }

    /// `POST /file-links`.
    ///
    /// # Errors
    /// When Digital River does not answer with JSON.
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
        serde_json::from_slice(&text).map_err(|error| Problem::Metadata(format!("it is no JSON: {error}")))
    }

    /// The answer about a document, up to where the body begins. A file that is not found is asked for again with its id in
    /// the other spelling.
    async fn ask(
        &self,
        account: &Account,
        wanted: &RequestedDocument,
        endpoint: Endpoint,
        deadline: Instant,
    ) -> Result<Response, Problem> {
        let first = account.spelling();
        let result = self.ask_spelled(account, wanted, endpoint, first, deadline).await;
        if !matches!(result, Err(Problem::NotFound)) {
            return result;
        }
        match self.ask_spelled(account, wanted, endpoint, first.other(), deadline).await {
            Ok(response) => {
                account.set_spelling(first.other());
                Ok(response)
            }
            Err(problem @ (Problem::Throttled { .. } | Problem::ThrottledAlone { .. } | Problem::Closed { .. })) => {
                Err(problem)
            }
            // Whatever else is answered about an id that Digital River may not write at all says nothing about the document.
            Err(_) => result,
        }
    }

    /// One request about a document through the account's gate, up to where the body begins. Where its answer may concern
    /// all documents, that is found out before this returns.
    async fn ask_spelled(
        &self,
        account: &Account,
        wanted: &RequestedDocument,
        endpoint: Endpoint,
        spelling: Spelling,
        deadline: Instant,
    ) -> Result<Response, Problem> {
        account.admit(deadline).await?;
        let RequestedDocument { file_id, was_throttled } = *wanted;
        let asked = FileRequest { file_id, endpoint, was_throttled, key: account.key(), sent: Instant::now() };
        let result = self.head_of(&asked.key, endpoint, (file_id, spelling), deadline).await;
        let suspicion = account.learn(&asked, result.as_ref().err());
        let Err(problem) = result else { return result };
        if let Some(suspicion) = suspicion {
            self.check(account, suspicion, &asked, &problem).await;
        }
        Err(match problem {
            Problem::Unauthorized | Problem::Forbidden if account.is_key_refused() => Problem::KeyRefused,
            Problem::Throttled { wait } if was_throttled && account.is_open() => Problem::ThrottledAlone { wait },
            problem => problem,
        })
    }

    /// The answer to a request about a file, up to where the body begins. No gate is passed and nothing is learnt.
    pub(crate) async fn head_of(
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
        accept: &str,
        deadline: Instant,
    ) -> Result<Response, Problem> {
        let request = request
            .header(header::AUTHORIZATION, key.as_ref())
            .header(header::ACCEPT, accept)
            .header(header::ACCEPT_ENCODING, "identity")
            .header("upstream-id", Uuid::new_v4().to_string())
            .header("upstream-application-id", APPLICATION);
        let until = deadline.min(Instant::now() + HEAD_TIMEOUT);
        let response = timeout_at(until.into(), request.send())
            .await
            .map_err(|_| Problem::Deadline("waiting for an answer"))?
            .map_err(|error| Problem::Transport(chain(&error.without_url())))?;
        let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        // 201 is the answer to a POST, and to nothing else.
        let status = match response.status().as_u16() {
            201 if response.url().path().ends_with(LINKS_PATH_END) => 200,
            status => status,
        };
        plan::judge_status(status, retry_after, &self.retry, self.clock.now())?;
        Ok(response)
    }

    /// A short body, whole.
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

/// A body that must not come too slowly.
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

    /// How long the body is, when the answer says so.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When they do not come, come too slowly, or not before the deadline.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Result<Option<Bytes>, Problem> {
        let patience = plan::patience(self.received, self.rate_min_bytes_per_second, RATE_GRACE);
        let until = self.begun.checked_add(patience).unwrap_or(deadline).min(deadline);
        match timeout_at(until.into(), self.response.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                self.received = self.received.saturating_add(bytes.len() as u64);
                Ok(Some(bytes))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(Problem::Broken { received: self.received, reason: chain(&error.without_url()) }),
            Err(_) if until == deadline => Err(Problem::Deadline("receiving the body")),
            Err(_) => Err(Problem::TooSlow { received: self.received, elapsed: self.begun.elapsed() }),
        }
    }
}

/// Reads what Digital River knows of a file. What is missing or of another kind than documented is passed over.
fn read_metadata(text: &[u8], file_id: FileId) -> Result<Metadata, Problem> {
    let value: Value =
        serde_json::from_slice(text).map_err(|error| Problem::Metadata(format!("it is no JSON: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(Problem::Metadata("it is no JSON object".to_owned()));
    };
    let field = |name| fields.get(name).and_then(Value::as_str);
    if let Some(id) = field("id").filter(|id| !address::names(id, file_id)) {
        return Err(Problem::Metadata(format!("it is that of another file, {}", quote(id))));
    }
    if let Some(file_type) = field("type").filter(|file_type| !media::is_pdf_type(file_type)) {
        return Err(Problem::FileType(quote(file_type)));
    }
    Ok(Metadata {
        size_bytes: fields.get("size").and_then(Value::as_u64),
        purpose: field("purpose").map(str::to_owned),
    })
}

/// An error with its causes, on one line.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_read_tolerantly() {
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
