//! Which URLs are followed: nothing that is let through spells an address of a closed network, and
//! what is refused isn't told.
//!
//! The networks are spelled here once more, by other means than the guard's own table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use presswork::platform::address::{Policy, URL_MAX};
use url::{Host, Url};

/// Stands in what is refused, and in nothing that is told.
const CANARY: &str = "c4n4ry7d1e";

/// Panics unless what the bytes spell is public, or refused without a word of it.
///
/// The first byte says what is allowed beside the public addresses: nothing, `http://`, one address.
pub fn holds(bytes: &[u8]) {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let text = String::from_utf8_lossy(rest);
    let exception = SocketAddr::from(([10, 0, 0, 7], 9_000));
    let policy = Policy {
        http: first & 1 == 1,
        allow: (first & 2 == 2).then_some(exception).into_iter().collect(),
    };
    match policy.check(&text) {
        Ok(url) => {
            assert!(text.len() <= URL_MAX);
            followed(&policy, &url);
            // a URL is read once: what came of it is read as the same
            if url.as_str().len() <= URL_MAX {
                assert_eq!(policy.check(url.as_str()).as_ref(), Ok(&url));
            }
        }
        Err(why) => assert!(!why.is_empty()),
    }
    for secret in [
        format!("{text}{CANARY}"),
        format!("https://{CANARY}@{text}"),
        format!("https://{text}/{CANARY}"),
    ] {
        if let Err(why) = policy.check(&secret) {
            assert!(!why.contains(CANARY), "{why}");
        }
    }
}

fn followed(policy: &Policy, url: &Url) {
    let port = url
        .port_or_known_default()
        .expect("https and http have one");
    let excepted = policy.allow.iter().any(|it| it.port() == port);
    match url.scheme() {
        "https" => assert!(port == 443 || excepted),
        "http" => assert!((policy.http && port == 80) || excepted),
        other => panic!("{other} is followed"),
    }
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
    let literal = match url.host().expect("a URL that is followed names a host") {
        Host::Ipv4(ip) => IpAddr::V4(ip),
        Host::Ipv6(ip) => IpAddr::V6(ip),
        Host::Domain(name) => return nameable(name),
    };
    let to = SocketAddr::new(literal, port);
    let allowed = policy
        .allow
        .iter()
        .any(|it| *it == SocketAddr::new(literal.to_canonical(), port));
    assert!(allowed || !closed(literal), "{url}");
    assert!(policy.may_dial(to), "{url}");
}

/// A name that a resolver would take for an address would never be looked at.
fn nameable(name: &str) {
    let plain = name.trim_end_matches('.');
    assert!(!plain.is_empty(), "an empty name");
    assert!(plain.parse::<IpAddr>().is_err(), "{name}");
    let last = plain.rsplit('.').next().unwrap_or(plain);
    let hex = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let number = |it: &str| it.bytes().all(|c| c.is_ascii_digit());
    let number16 = |it: &str| it.bytes().all(|c| c.is_ascii_hexdigit());
    assert!(!number(last) && !hex.is_some_and(number16), "{name}");
}

fn closed(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => closed4(ip),
        IpAddr::V6(ip) => closed6(ip),
    }
}

fn closed4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_unspecified()
        || ip.is_broadcast()
        || ip.is_documentation()
        || ip.is_multicast()
        || a == 0
        || 240 <= a
        || (a == 100 && b & 0xC0 == 64)
        || (a == 198 && b & 0xFE == 18)
        || (a == 192 && b == 0 && c == 0)
        || ip == Ipv4Addr::new(168, 63, 129, 16)
}

/// Also where an IPv4 address that is closed stands within: mapped, compatible, translated, 6to4,
/// Teredo, ISATAP.
fn closed6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let inner =
        |high: u16, low: u16| closed4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    let last = inner(s[6], s[7]);
    match s {
        [0, 0, 0, 0, 0, 0xFFFF, ..] => last,
        [0, 0, 0, 0, ..] => true,
        [0x64, 0xFF9B, ..] => true,
        [0x2002, high, low, ..] if inner(high, low) => true,
        [0x2001, 0, ..] => true,
        [_, _, _, _, 0 | 0x200, 0x5EFE, ..] if last => true,
        [0x2001, 0xDB8, ..] => true,
        _ => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || s[0] & 0xFFC0 == 0xFEC0
        }
    }
}
