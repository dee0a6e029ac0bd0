//! Client addresses and TLS.

use std::{fmt, net::IpAddr, path::PathBuf};

use ipnet::{IpNet, Ipv4Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Stands for [`DIGITAL_RIVER_RANGES`] in a list of addresses.
pub const DIGITAL_RIVER: &str = "digital-river";

/// Addresses from which Digital River sends.
///
/// Source: the safelist in Digital River's documentation of webhooks, as of November 2026.
pub const DIGITAL_RIVER_RANGES: [&str; 13] = [
    "54.204.214.106/32",
    "100.25.55.35/32",
    "3.94.74.169/32",
    "52.207.145.30/32",
    "35.167.151.150/32",
    "50.112.167.211/32",
    "52.36.133.196/32",
    "54.68.3.105/32",
    "52.19.155.167/32",
    "34.241.30.95/32",
    "209.87.180.0/24",
    "217.65.128.0/24",
    "210.242.154.0/29",
];

/// Addresses and ranges of addresses, such as `192.0.2.7`, `192.0.2.0/24` and `digital-river`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
#[schemars(with = "Vec<String>", inline)]
pub struct AddressRanges(Vec<IpNet>);

/// A text is neither an address nor a range nor the name of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRange(String);

impl fmt::Display for NoRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not an address, not a range such as 192.0.2.0/24, and not `{DIGITAL_RIVER}`", self.0)
    }
}

impl TryFrom<Vec<String>> for AddressRanges {
    type Error = NoRange;

    fn try_from(texts: Vec<String>) -> Result<Self, NoRange> {
        let mut ranges = Vec::new();
        for text in texts {
            if text == DIGITAL_RIVER {
                ranges.extend(DIGITAL_RIVER_RANGES.iter().filter_map(|range| range.parse::<IpNet>().ok()));
                continue;
            }
            let range = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            ranges.push(canonical(range.map_err(|_| NoRange(text))?));
        }
        Ok(Self(ranges))
    }
}

/// Converts an IPv4-mapped IPv6 range, such as `::ffff:10.0.0.0/104`, to an IPv4 range, because addresses are compared in
/// that form.
fn canonical(range: IpNet) -> IpNet {
    /// Bits before the IPv4 address.
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(v6) = range else { return range };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(MAPPED_BITS));
    v4.and_then(|(address, bits)| Ipv4Net::new(address, bits).ok()).map_or(range, IpNet::V4)
}

impl From<AddressRanges> for Vec<String> {
    fn from(ranges: AddressRanges) -> Self {
        ranges.0.iter().map(ToString::to_string).collect()
    }
}

impl AddressRanges {
    /// Whether there are no ranges.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the ranges contains an address. An IPv4-mapped IPv6 address is treated as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|range| range.contains(&address))
    }
}

/// TLS on the listener, if no proxy terminates it. The files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate and its intermediates.
    #[schemars(example = &"/etc/riverlock/tls.pem")]
    pub certificate: PathBuf,
    /// PEM file with the private key.
    #[schemars(example = &"/etc/riverlock/tls.key")]
    pub key: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Result<AddressRanges, NoRange> {
        texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>().try_into()
    }

    #[test]
    fn addresses_ranges_and_digital_rivers_list_are_parsed() {
        let list = ranges(&["192.0.2.7", "10.0.0.0/8", "2001:db8::/32", DIGITAL_RIVER]).unwrap();
        for inside in ["192.0.2.7", "10.255.1.2", "2001:db8::1", "::ffff:10.1.1.1", "209.87.180.255", "210.242.154.7"] {
            assert!(list.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["192.0.2.8", "11.0.0.0", "2001:db9::1", "::ffff:11.1.1.1", "209.87.181.0", "210.242.154.8"] {
            assert!(!list.contains(outside.parse().unwrap()), "{outside}");
        }
        let mapped = ranges(&["::ffff:10.0.0.0/104", "::ffff:192.0.2.7"]).unwrap();
        assert!(mapped.contains("10.1.2.3".parse().unwrap()) && mapped.contains("::ffff:192.0.2.7".parse().unwrap()));
        assert!(!mapped.contains("11.1.2.3".parse().unwrap()));
        assert_eq!(Vec::from(list).len(), 3 + DIGITAL_RIVER_RANGES.len(), "every entry of the list is a range");
        for wrong in ["", "digital river", "10.0.0.0/33", "example.com", "10.0.0"] {
            assert!(ranges(&[wrong]).is_err(), "{wrong}");
        }
    }
}
