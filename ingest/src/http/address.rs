//! The client address of a request. No I/O.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

use crate::config::AddressRanges;

/// The header to which each proxy appends the address of its client.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The client of a request, as far as it can be determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// The peer address of the connection or, if that is a trusted proxy, the last address in `X-Forwarded-For` that is not
    /// a trusted proxy's. Anyone could have written the entries before that one.
    pub(crate) address: IpAddr,
    /// Whether the address is the client's. It is a proxy's if every address that can be parsed is a trusted proxy's.
    pub(crate) is_named: bool,
}

/// Determines the client of a request that was received from `peer`.
pub(crate) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &AddressRanges) -> Client {
    let mut address = peer.to_canonical();
    if !trusted.contains(address) {
        return Client { address, is_named: true };
    }
    let values = headers.get_all(FORWARDED_FOR).iter().rev();
    let hops = values.flat_map(|value| value.to_str().unwrap_or("?").rsplit(','));
    for hop in hops {
        // An entry that cannot be parsed was written by the proxy found so far; nothing before it can be trusted.
        let Some(hop) = parse(hop.trim()) else { break };
        address = hop;
        if !trusted.contains(address) {
            return Client { address, is_named: true };
        }
    }
    Client { address, is_named: false }
}

/// The key of limits per address: an IPv4 address or an IPv6 /64, because the owner of one of its addresses has all 2^64.
pub(crate) fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        // Never equal to an IPv4 address: no global prefix has 32 leading zeros.
        IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or(u64::MAX),
    }
}

/// Parses an address with or without a port.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn forwarded_addresses_are_used_only_if_a_trusted_proxy_added_them() {
        let trusted = AddressRanges::try_from(vec!["10.0.0.0/8".to_owned(), "2001:db8::/32".to_owned()]).unwrap();
        for (peer, values, expected) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["54.204.214.106, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["54.204.214.106", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9, 10.0.0.2 ,10.0.0.3"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9:4711, [2001:db8::1]:443, [2001:db8::2]"], "203.0.113.9"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["203.0.113.9,"], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
            }
            let found = client(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(found.address.to_string(), expected, "{peer} {values:?}");
        }
    }

    #[test]
    fn a_trusted_proxy_without_a_forwarded_address_is_not_the_client() {
        let trusted = AddressRanges::try_from(vec!["10.0.0.0/8".to_owned()]).unwrap();
        for (peer, value, is_named) in [
            ("192.0.2.1", "", true),
            ("10.0.0.1", "", false),
            ("10.0.0.1", "nonsense", false),
            ("10.0.0.1", "203.0.113.9,", false),
            ("10.0.0.1", "203.0.113.9", true),
            ("10.0.0.1", "10.0.0.9", false),
            ("10.0.0.1", "203.0.113.9, unknown, 10.0.0.2", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
            assert_eq!(client(peer.parse().unwrap(), &headers, &trusted).is_named, is_named, "{peer} {value:?}");
        }
    }
}
