//! HTTP clients that send secrets only to the configured host.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use reqwest::{
    ClientBuilder, Proxy, RequestBuilder, Response,
    dns::Resolve,
    header::{self, HeaderValue},
    redirect::Policy,
};
use riverlock_runtime::{ConfigError, Secret, with_causes};
use url::Url;

use crate::{
    failure::quote,
    http::{
        address::is_loopback,
        resolver::{GuardedResolver, SystemResolver},
    },
};

/// Value of the headers `User-Agent` and `upstream-application-id`. Source: Digital River, "API structure".
pub const APPLICATION: &str = concat!("riverlock/", env!("CARGO_PKG_VERSION"));

/// Longest request id that is kept, in characters.
const REQUEST_ID_CHARS_MAX: usize = 100;

/// Network settings of an HTTP client.
#[derive(Clone, Debug)]
pub struct Network<'a> {
    /// The base URL of requests. The client only allows `https`, unless this is `http` on loopback.
    pub base: &'a Url,
    /// Networks that are allowed in addition to public addresses.
    pub private_networks: &'a [IpNet],
    /// The section of the configuration with these settings, for errors.
    pub section: &'static str,
    /// A proxy, which gets an encrypted tunnel.
    pub proxy: Option<&'a Secret>,
    /// How long establishing a connection may take.
    pub connect_timeout: Duration,
}

/// Creates an HTTP client with the system's resolver.
///
/// # Errors
/// When the proxy's URL or the TLS configuration is invalid.
pub fn http_client(network: &Network<'_>) -> Result<reqwest::Client, ConfigError> {
    http_client_over(reqwest::Client::builder(), Arc::new(SystemResolver), network)
}

/// Like [`http_client`], with the caller's builder (for example with test certificates) and resolver.
///
/// # Errors
/// When the proxy's URL or the TLS configuration is invalid.
pub fn http_client_over(
    builder: ClientBuilder,
    resolver: Arc<dyn Resolve>,
    network: &Network<'_>,
) -> Result<reqwest::Client, ConfigError> {
    let proxy = network.proxy.and_then(|proxy| Url::parse(proxy.expose()).ok());
    let proxy_host = proxy.and_then(|proxy| proxy.host_str().map(str::to_owned));
    let networks = network.private_networks.to_vec();
    let setting = |name: &str| format!("{}.{name}", network.section);
    let loopback = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))];
    let mut builder = builder
        .user_agent(APPLICATION)
        .redirect(Policy::none())
        .referer(false)
        .no_proxy()
        .https_only(!is_loopback(network.base))
        .dns_resolver(GuardedResolver::new(resolver, networks, proxy_host, setting("private_networks")))
        .resolve_to_addrs("localhost", &loopback)
        .connect_timeout(network.connect_timeout)
        // Disabled in this build; set explicitly so that no other crate's features can enable decompression.
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate();
    if let Some(proxy) = network.proxy {
        let proxy = Proxy::https(proxy.expose());
        builder = builder.proxy(proxy.map_err(|_| ConfigError::refused(setting("proxy"), "is not a valid proxy URL"))?);
    }
    // A machine without root certificates can still use plain HTTP on loopback.
    if network.base.scheme() == "http" {
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| ConfigError::refused(setting("api_base_url"), describe(error)))
}

/// The value of the `Authorization` header for a key. `setting` names the key in the configuration.
///
/// # Errors
/// When the key contains characters that are not allowed in a header.
pub fn authorization(key: &Secret, setting: &str) -> Result<HeaderValue, ConfigError> {
    let value = HeaderValue::from_str(&format!("Bearer {}", key.expose()));
    let refused = |_| ConfigError::refused(setting, "contains characters that are not allowed in a header");
    let mut value = value.map_err(refused)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Adds the headers that every request has: the key, the expected type, no compression, the id of this request and the name
/// of this application. Source: Digital River, "API structure".
pub fn with_headers(
    request: RequestBuilder,
    key: HeaderValue,
    accept: &'static str,
    upstream_id: &str,
) -> RequestBuilder {
    request
        .header(header::AUTHORIZATION, key)
        .header(header::ACCEPT, accept)
        .header(header::ACCEPT_ENCODING, "identity")
        .header("upstream-id", upstream_id)
        .header("upstream-application-id", APPLICATION)
}

/// Digital River's id of the request, `x-dr-requestid`.
#[must_use]
pub fn request_id(response: &Response) -> Option<String> {
    let id = response.headers().get("x-dr-requestid").and_then(|value| value.to_str().ok());
    id.map(|id| quote(id).chars().take(REQUEST_ID_CHARS_MAX).collect())
}

/// Reads a whole body of at most `bytes_max` bytes. The caller sets the time limit.
///
/// # Errors
/// When the connection breaks or the body is larger.
pub async fn read_body(mut response: Response, bytes_max: usize) -> Result<Bytes, String> {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > bytes_max => {
                return Err(format!("the body is longer than {bytes_max} bytes"));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body.freeze()),
            Err(error) => return Err(describe(error)),
        }
    }
}

/// An error with its causes, on one line and without the URL, which may contain an id.
#[must_use]
pub fn describe(error: reqwest::Error) -> String {
    quote(&with_causes(&error.without_url()))
}
