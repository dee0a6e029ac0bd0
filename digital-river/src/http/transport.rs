//! HTTP clients that send secrets to the configured host and nowhere else.

use std::{
    error::Error as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use reqwest::{ClientBuilder, Proxy, Response, dns::Resolve, redirect::Policy};
use riverlock_runtime::{ConfigError, Secret};
use url::Url;

use crate::{
    failure::quote,
    http::{
        address::is_loopback,
        resolver::{GuardedResolver, SystemResolver},
    },
};

/// How this program presents itself: `User-Agent` and `upstream-application-id`. Source: Digital River, "API structure".
pub const APPLICATION: &str = concat!("riverlock/", env!("CARGO_PKG_VERSION"));

/// What an HTTP client may connect to.
#[derive(Clone, Debug)]
pub struct Network<'a> {
    /// The address that requests go to. Only `http` on loopback makes a client that sends anything but `https`.
    pub base: &'a Url,
    /// Networks besides the public ones that DNS answers may be in.
    pub private_networks: &'a [IpNet],
    /// The setting that names these networks, for errors.
    pub networks_setting: &'static str,
    /// A proxy, which gets an encrypted tunnel.
    pub proxy: Option<&'a Secret>,
    /// How long a connection may take to be established.
    pub connect_timeout: Duration,
}

/// An HTTP client over the system's resolver.
///
/// # Errors
/// When the proxy's address or the TLS set-up is wrong.
pub fn http_client(network: &Network<'_>) -> Result<reqwest::Client, ConfigError> {
    http_client_over(reqwest::Client::builder(), Arc::new(SystemResolver), network)
}

/// As [`http_client`], over a builder (for example with certificates of a test) and a resolver of the caller's.
///
/// # Errors
/// When the proxy's address or the TLS set-up is wrong.
pub fn http_client_over(
    builder: ClientBuilder,
    resolver: Arc<dyn Resolve>,
    network: &Network<'_>,
) -> Result<reqwest::Client, ConfigError> {
    let proxy = network.proxy.and_then(|proxy| Url::parse(proxy.expose()).ok());
    let proxy_host = proxy.and_then(|proxy| proxy.host_str().map(str::to_owned));
    let networks = network.private_networks.to_vec();
    let loopback = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))];
    let mut builder = builder
        .user_agent(APPLICATION)
        .redirect(Policy::none())
        .referer(false)
        .no_proxy()
        .https_only(!is_loopback(network.base))
        .dns_resolver(GuardedResolver::new(resolver, networks, proxy_host, network.networks_setting))
        .resolve_to_addrs("localhost", &loopback)
        .connect_timeout(network.connect_timeout)
        // Off in this build; set here so that no other crate's feature can switch decompression on.
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate();
    if let Some(proxy) = network.proxy {
        let proxy =
            Proxy::https(proxy.expose()).map_err(|_| ConfigError::refused("proxy", "is not the address of a proxy"))?;
        builder = builder.proxy(proxy);
    }
    // A machine without any root certificates can still use plain HTTP on loopback.
    if network.base.scheme() == "http" {
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| ConfigError::refused("api_base_url", describe(error)))
}

/// Reads a whole body of at most `bytes_max` bytes. The caller sets the time limit.
///
/// # Errors
/// When the connection breaks or the body is larger; the text says which.
pub async fn read_body(mut response: Response, bytes_max: usize) -> Result<Bytes, String> {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > bytes_max => {
                return Err(format!("the body has more than {bytes_max} bytes"));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body.freeze()),
            Err(error) => return Err(describe(error)),
        }
    }
}

/// An error with its causes, on one line and without the address (which may contain an id).
#[must_use]
pub fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    quote(&text)
}
