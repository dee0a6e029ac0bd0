//! Where a request comes from: pure.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

use crate::config::AddressRanges;

/// The header in which proxies say whom they speak for, each after what it was given.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The sender's address: that of the connection, or, if a trusted proxy is at its other end, the last address in
/// `X-Forwarded-For` that is not a trusted proxy's. What stands before it anyone may have written.
pub(crate) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &AddressRanges) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted.contains(client) {
        return client;
    }
    let values = headers.get_all(FORWARDED_FOR).iter().rev();
    let hops = values.flat_map(|value| value.to_str().unwrap_or("?").rsplit(','));
    for hop in hops {
        // What cannot be read came through the proxy before it, which is as far as anyone can know.
        let Some(address) = parse(hop.trim()) else { break };
        client = address;
        if !trusted.contains(client) {
            break;
        }
    }
    client
}

/// An address, with a port or without.
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
    fn forwarded_addresses_count_only_as_far_as_trusted_proxies_vouch_for_them() {
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
            assert_eq!(found.to_string(), expected, "{peer} {values:?}");
        }
    }
}
