//! A peer's address as limits count it, and the networks that it may belong to.

use std::net::IpAddr;

use ipnet::IpNet;

/// Whom one address stands for: an IPv4 address, or the /64 of an IPv6 one, which is what one customer gets at least
/// (RFC 6177) and can choose addresses from at will.
///
/// IPv4 stands in ::/32, which belongs to nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressKey(u64);

impl From<IpAddr> for AddressKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u64::from(address.to_bits())),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64),
        }
    }
}

/// Whether `address` is in one of `networks`. What an IPv6 socket tells of IPv4 (::ffff:a.b.c.d) is an IPv4 address.
pub fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv4_address_stands_for_itself_and_an_ipv6_address_for_its_64() {
        let key = |text| AddressKey::from(address(text));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff::2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
        assert_ne!(key("32.1.13.184"), key("2001:db8::1"));
    }

    #[test]
    fn a_network_holds_its_addresses_however_they_are_told() {
        let networks = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        for inside in ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7"] {
            assert!(is_in(&networks, address(inside)), "{inside}");
        }
        for outside in ["11.0.0.1", "::1", "::10.1.2.3", "2001:db9::1"] {
            assert!(!is_in(&networks, address(outside)), "{outside}");
        }
        assert!(!is_in(&[], address("10.1.2.3")));
    }
}
