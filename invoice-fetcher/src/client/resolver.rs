//! DNS resolver that returns only public addresses and addresses in configured networks.
//!
//! Every connection resolves the name again and uses exactly the checked addresses, so there is no gap between check and use. A
//! response with a private address (from a poisoned cache, or after a change of the domain's owner) leads to no connection; a
//! server at a public address must still have the name's certificate.
//!
//! Not checked: IP addresses in the configuration (set deliberately), `localhost` (resolved without DNS), and the name of a
//! configured proxy (which is usually in the private network, and never sees the key).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// Networks that are not public. Source: IANA, "IPv4 Special-Purpose Address Registry", and multicast (RFC 5771).
const SPECIAL_V4: [Ipv4Net; 15] = [
    v4(0, 0, 0, 0, 8),       // this network
    v4(10, 0, 0, 0, 8),      // private
    v4(100, 64, 0, 0, 10),   // shared by carriers
    v4(127, 0, 0, 0, 8),     // loopback
    v4(169, 254, 0, 0, 16),  // link-local: metadata of clouds
    v4(172, 16, 0, 0, 12),   // private
    v4(192, 0, 0, 0, 24),    // protocol assignments
    v4(192, 0, 2, 0, 24),    // documentation
    v4(192, 88, 99, 0, 24),  // 6to4 relays
    v4(192, 168, 0, 0, 16),  // private
    v4(198, 18, 0, 0, 15),   // benchmarks
    v4(198, 51, 100, 0, 24), // documentation
    v4(203, 0, 113, 0, 24),  // documentation
    v4(224, 0, 0, 0, 4),     // multicast
    v4(240, 0, 0, 0, 4),     // reserved, and broadcast
];

/// All public addresses. Source: IANA, "IPv6 Global Unicast Address Space".
const PUBLIC_V6: Ipv6Net = v6(0x2000, 0, 3);

/// Networks in [`PUBLIC_V6`] that are not public. Source: IANA, "IPv6 Special-Purpose Address Registry".
const SPECIAL_V6: [Ipv6Net; 4] = [
    v6(0x2001, 0, 23),     // protocol assignments, including Teredo
    v6(0x2001, 0xdb8, 32), // documentation
    v6(0x2002, 0, 16),     // 6to4: any IPv4 address
    v6(0x3fff, 0, 20),     // documentation
];

/// IPv4 addresses in NAT64 networks (RFC 6052).
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 96);

/// The system's resolver.
pub(crate) struct System;

impl Resolve for System {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The caller sets the port.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// A resolver that removes addresses to which connections are not allowed.
pub(crate) struct GuardedResolver {
    inner: Arc<dyn Resolve>,
    networks: Vec<IpNet>,
    /// The proxy's name.
    exempt: Option<String>,
}

impl GuardedResolver {
    pub(crate) fn new(inner: Arc<dyn Resolve>, networks: Vec<IpNet>, exempt: Option<String>) -> Self {
        Self { inner, networks, exempt }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let (found, networks) = (self.inner.resolve(name), self.networks.clone());
        if self.exempt.as_ref().is_some_and(|exempt| exempt.eq_ignore_ascii_case(&host)) {
            return found;
        }
        Box::pin(async move {
            let (good, bad): (Vec<SocketAddr>, Vec<_>) =
                found.await?.partition(|address| is_allowed(address.ip(), &networks));
            if let Some(bad) = bad.first() {
                tracing::warn!(
                    "{host} resolves to {}, which is not public and in none of invoice_fetcher.private_networks",
                    bad.ip()
                );
            }
            match (good.is_empty(), bad.first()) {
                (true, Some(bad)) => Err(Box::new(refused(&host, bad.ip())) as _),
                _ => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}

fn refused(host: &str, address: IpAddr) -> io::Error {
    io::Error::other(format!("{host} resolves to {address}, which is not public; see invoice_fetcher.private_networks"))
}

/// Whether an address is public, or in one of the networks.
fn is_allowed(address: IpAddr, networks: &[IpNet]) -> bool {
    // The address to which the kernel connects: `::ffff:127.0.0.1` is 127.0.0.1.
    let address = address.to_canonical();
    let is_public = match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) if NAT64.contains(&address) => {
            let [.., a, b, c, d] = address.octets();
            is_public_v4(Ipv4Addr::new(a, b, c, d))
        }
        IpAddr::V6(address) => {
            PUBLIC_V6.contains(&address) && !SPECIAL_V6.iter().any(|special| special.contains(&address))
        }
    };
    is_public || networks.iter().any(|network| network.contains(&address))
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !SPECIAL_V4.iter().any(|special| special.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_and_configured_networks_are_allowed() {
        let networks = ["10.1.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()];
        for (address, expected) in [
            ("54.204.214.106", true),
            ("223.255.255.255", true),
            ("2a00:1450:4001:81b::200e", true),
            ("::ffff:54.204.214.106", true),
            ("64:ff9b::36cc:d66a", true),
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("fd00:1::7", true),
            ("0.0.0.0", false),
            ("10.2.0.1", false),
            ("100.100.100.200", false),
            ("127.0.0.1", false),
            ("127.255.255.254", false),
            ("169.254.169.254", false),
            ("172.31.255.255", false),
            ("192.168.0.1", false),
            ("198.19.0.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:169.254.169.254", false),
            ("::127.0.0.1", false),
            ("64:ff9b::7f00:1", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("64:ff9b:1::1", false),
            ("2001::1", false),
            ("2001:db8::1", false),
            ("2002:7f00:1::1", false),
            ("fd00:ec2::254", false),
            ("fe80::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(is_allowed(address.parse().unwrap(), &networks), expected, "{address}");
        }
    }
}
