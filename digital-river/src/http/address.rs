//! URLs: validation, and construction of the API's URLs.

use url::{Host, Url};

/// Why a URL is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither `https`, nor `http` on a loopback address.
    #[error("must begin with https://, or with http:// on a loopback address")]
    Scheme,
    /// The host is missing.
    #[error("must have a host")]
    Host,
    /// The URL contains a user or a password.
    #[error("must not contain a user or a password")]
    Credentials,
    /// The URL contains a query or a fragment.
    #[error("must not contain a query or a fragment")]
    Query,
}

/// Checks the URL of a server to which secrets are sent.
///
/// # Errors
/// When it is not `https` (or `http` on loopback), has no host, or has a user, a password, a query or a fragment.
pub fn check_secure(url: &Url) -> Result<(), AddressError> {
    if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(url)) {
        return Err(AddressError::Scheme);
    }
    check_base(url)
}

/// Checks that a URL can be extended by a path.
///
/// # Errors
/// When it has no host, or has a user, a password, a query or a fragment.
pub fn check_base(url: &Url) -> Result<(), AddressError> {
    if url.host().is_none() || url.cannot_be_a_base() {
        return Err(AddressError::Host);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(AddressError::Credentials);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(AddressError::Query);
    }
    Ok(())
}

/// Whether the URL's host is a loopback address. The HTTP client pins `localhost` to loopback.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// The base URL with path segments appended. Each segment is percent-encoded, so an id cannot change the path.
#[must_use]
pub fn join(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_or_loopback_without_credentials_is_allowed() {
        for (address, expected) in [
            ("https://api.digitalriver.com", Ok(())),
            ("http://127.0.0.1:8085/prefix", Ok(())),
            ("http://[::1]:1", Ok(())),
            ("http://localhost:1", Ok(())),
            ("http://api.digitalriver.com", Err(AddressError::Scheme)),
            ("http://localhost.example.com", Err(AddressError::Scheme)),
            ("http://10.0.0.1", Err(AddressError::Scheme)),
            ("ftp://127.0.0.1", Err(AddressError::Scheme)),
            ("https://user:password@example.com", Err(AddressError::Credentials)),
            ("https://example.com/?a=b", Err(AddressError::Query)),
            ("https://example.com/#a", Err(AddressError::Query)),
        ] {
            assert_eq!(check_secure(&Url::parse(address).unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn an_id_cannot_change_the_path() {
        let base = Url::parse("https://api.digitalriver.com/v1/").unwrap();
        assert_eq!(join(&base, &["webhooks", "a"]).as_str(), "https://api.digitalriver.com/v1/webhooks/a");
        let hostile = join(&base, &["webhooks", "a/../../files?x=1#y"]);
        assert!(hostile.as_str().starts_with("https://api.digitalriver.com/v1/webhooks/a%2F"), "{hostile}");
        assert_eq!((hostile.query(), hostile.fragment()), (None, None));
    }
}
