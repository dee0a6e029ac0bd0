//! DNS resolution restricted to public addresses and configured networks.
//!
//! Every connection resolves the name again, and the addresses are checked where the connection takes them from, so there
//! is no gap between check and use. A private address (a poisoned cache, a name with a new owner) is not connected to; a
//! server at a public address must still present a certificate for the name.
//!
//! Not checked: an IP address in the configuration itself, `localhost` (pinned to loopback), and the name of a configured
//! proxy, which is usually in a private network and only sees an encrypted tunnel.

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

/// IPv4 networks that are not public. Source: IANA, "IPv4 Special-Purpose Address Registry", and multicast (RFC 5771).
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

/// The public part of IPv6. Source: IANA, "IPv6 Global Unicast Address Space".
const PUBLIC_V6: Ipv6Net = v6(0x2000, 0, 3);

/// Networks inside [`PUBLIC_V6`] that are not public. Source: IANA, "IPv6 Special-Purpose Address Registry".
const SPECIAL_V6: [Ipv6Net; 4] = [
    v6(0x2001, 0, 23),     // protocol assignments, Teredo among them
    v6(0x2001, 0xdb8, 32), // documentation
    v6(0x2002, 0, 16),     // 6to4: any IPv4 address
    v6(0x3fff, 0, 20),     // documentation
];

/// IPv4 addresses embedded in IPv6 by NAT64 (RFC 6052).
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 96);

/// The system's resolver.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The connector sets the port.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// A resolver that drops private addresses.
pub struct GuardedResolver {
    inner: Arc<dyn Resolve>,
    networks: Vec<IpNet>,
    /// The name whose addresses are not checked: the proxy's.
    exempt: Option<String>,
    /// The setting that allows networks, for errors.
    setting: String,
}

impl GuardedResolver {
    /// Checks the answers of `inner`. `networks` are allowed in addition to public addresses, answers for the name `exempt`
    /// (a proxy) are not checked, and `setting` is the configuration key for errors.
    pub fn new(inner: Arc<dyn Resolve>, networks: Vec<IpNet>, exempt: Option<String>, setting: String) -> Self {
        Self { inner, networks, exempt, setting }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let (found, networks, setting) = (self.inner.resolve(name), self.networks.clone(), self.setting.clone());
        if self.exempt.as_ref().is_some_and(|exempt| exempt.eq_ignore_ascii_case(&host)) {
            return found;
        }
        Box::pin(async move {
            let (allowed, refused): (Vec<SocketAddr>, Vec<_>) =
                found.await?.partition(|address| is_allowed(address.ip(), &networks));
            if let Some(first) = refused.first() {
                tracing::warn!("{host} resolves to {}, which is neither public nor in {setting}", first.ip());
            }
            match (allowed.is_empty(), refused.first()) {
                (true, Some(first)) => Err(Box::new(not_public_error(&host, first.ip(), &setting)) as _),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

fn not_public_error(host: &str, address: IpAddr, setting: &str) -> io::Error {
    io::Error::other(format!("{host} resolves to {address}, which is not public; see {setting}"))
}

/// Whether an address is public, or in one of the networks.
pub fn is_allowed(address: IpAddr, networks: &[IpNet]) -> bool {
    // The kernel connects to the canonical form: `::ffff:127.0.0.1` is 127.0.0.1.
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
