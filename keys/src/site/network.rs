//! The networks that a machine is on.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest name of a network interface (`IFNAMSIZ` of Linux without its end).
const MAX_INTERFACE: usize = 15;

/// One network of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its interface.
    #[serde(rename = "match")]
    pub interface: Interface,
    /// Who is on it.
    pub role: NetworkRole,
    /// The machine's address on it.
    pub address: Address,
    /// The router, where the machine is to use one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// Who is on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkRole {
    /// Customers.
    Public,
    /// Other machines of the site.
    Lan,
    /// Operators.
    Management,
}

impl NetworkRole {
    /// The role's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Lan => "lan",
            Self::Management => "management",
        }
    }
}

/// Whether a text is an address or the name of a host, as the portal takes it into links: labels of letters, digits and dashes.
pub(super) fn is_host(text: &str) -> bool {
    let plain = |label: &str| label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let label = |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && plain(label);
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.split('.').all(label))
}

/// What a text of a plan should have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not {0}")]
pub struct Malformed(&'static str);

macro_rules! as_text {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = Malformed;
            fn try_from(text: String) -> Result<Self, Malformed> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}

/// An interface: by the address that is built into it, which stays with the card, or by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Interface {
    /// `52:54:00:12:34:56`.
    Mac([u8; 6]),
    /// `enp1s0`, or with a `*` for any rest: `enp*`.
    Name(String),
}
as_text!(Interface);

impl FromStr for Interface {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.contains(':') {
            let mut mac = [0; 6];
            let mut parts = text.split(':');
            for byte in &mut mac {
                let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
                *byte = part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or(Malformed("a MAC address"))?;
            }
            return if parts.next().is_none() { Ok(Self::Mac(mac)) } else { Err(Malformed("a MAC address")) };
        }
        let stem = text.strip_suffix('*').unwrap_or(text);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if text.is_empty() || text.len() > MAX_INTERFACE || !stem.bytes().all(plain) {
            return Err(Malformed("a MAC address or the name of an interface, of which only the end may be *"));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac([a, b, c, d, e, g]) => write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A machine's address on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// What the network's DHCP server or router says.
    Dhcp,
    /// This one.
    Static(Prefix),
}
as_text!(Address);

impl FromStr for Address {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text == "dhcp" { Ok(Self::Dhcp) } else { text.parse().map(Self::Static) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dhcp => f.write_str("dhcp"),
            Self::Static(prefix) => prefix.fmt(f),
        }
    }
}

/// An address with the length of its network's prefix: `10.83.1.2/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Bits of it that are the network's.
    pub length: u8,
}
as_text!(Prefix);

impl Prefix {
    /// The network that it is in, as `10.83.1.0/24`.
    #[must_use]
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
        };
        Self { address, ..self }
    }

    /// Whether all of `other` is in this network.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.length <= other.length
            && Self { length: self.length, ..other }.network() == self.network()
    }
}

/// This address alone.
impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for Prefix {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = Malformed("an address with a prefix length, such as 10.83.1.2/24");
        let (address, length) = text.split_once('/').ok_or(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed)?;
        let length: u8 = length.parse().map_err(|_| malformed)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if length > most || address.is_multicast() { Err(malformed) } else { Ok(Self { address, length }) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same<T: FromStr<Err = Malformed> + fmt::Display>(texts: &[&str]) {
        for text in texts {
            assert_eq!(text.parse::<T>().map(|v| v.to_string()).as_deref(), Ok(*text));
        }
    }

    fn refused<T: FromStr<Err = Malformed>>(texts: &[&str]) {
        for text in texts {
            assert!(text.parse::<T>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn interfaces() {
        same::<Interface>(&["52:54:00:ab:cd:ef", "enp1s0", "enp*", "*", "abcdefghijklmno"]);
        assert_eq!("52:54:00:AB:CD:EF".parse(), Ok(Interface::Mac([0x52, 0x54, 0, 0xab, 0xcd, 0xef])));
        refused::<Interface>(&["", "e*1", "e th", "eth0\n[Network]", "52:54:00:ab:cd", "52:54:00:ab:cd:ef:01"]);
        refused::<Interface>(&["5:54:00:ab:cd:ef", "+2:54:00:ab:cd:ef", "abcdefghijklmnop", "eth\"0"]);
    }

    #[test]
    fn hosts() {
        let long = |n: usize| "x".repeat(n);
        for good in ["ftp.example.com", "localhost", "1a-b", "192.0.2.1", "2001:db8::1", &long(63)] {
            assert!(is_host(good), "{good}");
        }
        let longest = [long(63), long(63), long(63), long(61)].join(".");
        assert!(is_host(&longest) && !is_host(&format!("{longest}x")));
        for bad in [
            "",
            ".",
            "a..b",
            "ftp.",
            "my_ftp",
            "-a",
            "a b",
            "ftp.example.com/x",
            "user@ftp",
            "gr\u{fc}n",
            "[::1]",
            &long(64),
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_in_a_network() {
        let within = |a: &str, b: &str| a.parse::<Prefix>().unwrap().contains(b.parse().unwrap());
        assert!(
            within("10.1.0.9/24", "10.1.0.0/24")
                && within("10.1.0.0/24", "10.1.0.7/32")
                && within("0.0.0.0/0", "10.1.0.7/32")
        );
        assert!(
            !within("10.1.0.0/24", "10.1.0.0/23")
                && !within("10.1.0.0/24", "10.1.1.0/24")
                && !within("::/0", "10.1.0.7/32")
        );
        let one = Prefix::from("2001:db8::7".parse::<IpAddr>().unwrap());
        assert_eq!(one.to_string(), "2001:db8::7/128");
        assert!(within("2001:db8::/32", "2001:db8::7/128"));
    }

    #[test]
    fn addresses() {
        same::<Address>(&["dhcp", "10.83.1.2/24", "0.0.0.0/0", "fd00::2/64", "10.0.0.1/32", "::1/128"]);
        refused::<Address>(&[
            "DHCP",
            "10.83.1.2",
            "10.83.1/24",
            "10.0.0.1/33",
            "::1/129",
            "10.0.0.1/-1",
            "224.0.0.1/4",
        ]);
    }

    #[test]
    fn networks() {
        for (address, network) in [
            ("10.83.1.2/24", "10.83.1.0/24"),
            ("10.83.1.2/32", "10.83.1.2/32"),
            ("10.83.1.2/0", "0.0.0.0/0"),
            ("fd00:1:2:3::9/64", "fd00:1:2:3::/64"),
            ("fd00::9/0", "::/0"),
        ] {
            assert_eq!(address.parse::<Prefix>().map(|p| p.network().to_string()).as_deref(), Ok(network));
        }
    }
}
