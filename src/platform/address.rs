//! Which URLs of a user may be followed: public addresses only, by one rule for what is spelled in
//! a URL and for what a name leads to.
//!
//! A URL is read once, by the parser that the client uses, too: the many spellings of one address
//! (decimal, octal, hexadecimal, shortened, mapped, full-width) are one there.

use crate::sabotage;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use url::{Host, Url};

/// A longer URL isn't followed.
pub const URL_MAX: usize = 2_048;

/// What may be followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// `http://` too.
    pub http: bool,
    /// Addresses that may be connected to although they aren't public, each with its port.
    pub allow: Vec<SocketAddr>,
}

impl Policy {
    /// Reads a URL that a user gave, or another server redirects to.
    ///
    /// # Errors
    /// Why it isn't followed; without the URL, which may hold secrets.
    pub fn check(&self, text: &str) -> Result<Url, String> {
        if URL_MAX < text.len() {
            return Err(format!("the URL is longer than {URL_MAX} bytes"));
        }
        let mut url = Url::parse(text).map_err(|e| format!("that is no URL: {e}"))?;
        url.set_fragment(None);
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL holds a user or a password; media must be public".to_owned());
        }
        let port = url.port_or_known_default().unwrap_or(0);
        let allowed = self.allow.iter().any(|it| it.port() == port);
        match url.scheme() {
            "https" | "http" if allowed => {}
            "https" if port == 443 => {}
            "http" if port == 80 && self.http => {}
            "http" if !self.http => {
                return Err("the URL begins with http://; only https:// is followed (media.fetch_http allows both)".to_owned());
            }
            "https" | "http" => {
                return Err(format!(
                    "the URL names port {port}; only the usual ones are followed (media.fetch_allow names exceptions)"
                ));
            }
            _ => return Err("only https:// is followed".to_owned()),
        }
        let literal = match url.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            Some(Host::Domain(name)) if is_name(name) => None,
            _ => return Err("the URL names no host".to_owned()),
        };
        match literal {
            Some(ip) if !self.may_dial(SocketAddr::new(ip, port)) => Err(not_public()),
            _ => Ok(url),
        }
    }

    /// Whether an address may be connected to.
    pub fn may_dial(&self, to: SocketAddr) -> bool {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let allowed = |it: &SocketAddr| SocketAddr::new(it.ip().to_canonical(), it.port()) == to;
        self.allow.iter().any(allowed) || (matches!(to.port(), 80 | 443) && is_public(to.ip()))
    }
}

/// Whether it can be somebody's name: one with nothing between two dots, or of dots alone, can't, and
/// may be a number to another parser (`127.0..`).
fn is_name(host: &str) -> bool {
    let labels = host.strip_suffix('.').unwrap_or(host);
    labels.split('.').all(|it| !it.is_empty())
}

/// What is said of an address that isn't public; not which: that would map a network for a stranger.
pub fn not_public() -> String {
    "the URL leads to an address that isn't public (media.fetch_allow names exceptions)".to_owned()
}

/// Networks of IPv4 that aren't public, or aren't anybody's: RFC 6890 and its successors at IANA,
/// multicast, and the address at which Azure's hosts answer their guests.
const CLOSED: [(Ipv4Addr, u32); 18] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 31, 196, 0), 24),
    (Ipv4Addr::new(192, 52, 193, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(192, 175, 48, 0), 24),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Networks within 2000::/3 that aren't public, or lead to IPv4 by a detour: protocol assignments with
/// Teredo, documentation, 6to4, the 6bone. All else that is public in IPv6 lies in 2000::/3.
const CLOSED6: [(Ipv6Addr, u32); 5] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Whether an address is one of the public internet.
pub fn is_public(ip: IpAddr) -> bool {
    if sabotage!("fetch.addresses") {
        return true;
    }
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let within =
                |(net, bits): &(Ipv4Addr, u32)| (ip.to_bits() ^ net.to_bits()) >> (32 - bits) == 0;
            !CLOSED.iter().any(within)
        }
        IpAddr::V6(ip) => {
            let within =
                |(net, bits): &(Ipv6Addr, u32)| (ip.to_bits() ^ net.to_bits()) >> (128 - bits) == 0;
            let global = ip.to_bits() >> 125 == 1;
            // ISATAP (RFC 5214, 6.1) carries an IPv4 address in its last half
            let [.., a, b, _, _] = ip.segments();
            let isatap = matches!(a, 0 | 0x0200) && b == 0x5efe;
            global && !isatap && !CLOSED6.iter().any(within)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for closed in [
            "0.0.0.0",
            "10.1.2.3",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.255",
            "168.63.129.16",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:10.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::a00:1",
            "100::1",
            "2001::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2a00:1450::5efe:127.0.0.1",
            "2a00:1450::200:5efe:a00:1",
        ] {
            assert!(!is_public(closed.parse().unwrap()), "{closed}");
        }
        for open in [
            "1.1.1.1",
            "93.184.216.34",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2606:4700::1111",
            "2a00:1450:4001::200e",
            "2001:200::1",
        ] {
            assert!(is_public(open.parse().unwrap()), "{open}");
        }
    }

    #[test]
    fn urls_are_refused_by_their_spelling() {
        let policy = Policy::default();
        for (url, why) in [
            ("http://example.com/", "http://"),
            ("https://example.com:8443/", "port 8443"),
            ("https://u:p@example.com/", "password"),
            ("https://u@example.com/", "user"),
            ("ftp://example.com/", "only https"),
            ("file:///etc/passwd", "only https"),
            ("//example.com", "no URL"),
            ("https:///", "no URL"),
            ("https://./", "no host"),
            ("https://0177.0.../", "no host"),
            ("https://a..example/", "no host"),
            ("https://\u{ff0e}/", "no host"),
            ("https://[fe80::1%25eth0]/", "no URL"),
            ("https://2130706433/", "isn't public"),
            ("https://0x7f.1/", "isn't public"),
            ("https://0177.0.0.01/", "isn't public"),
            ("https://[::ffff:7f00:1]/", "isn't public"),
            ("https://①②⑦.0.0.1/", "isn't public"),
            ("https://127.0.0.1\\@example.com/", "isn't public"),
        ] {
            let e = policy.check(url).unwrap_err();
            assert!(e.contains(why), "{url}: {e}");
        }
        let long = format!("https://example.com/{}", "x".repeat(URL_MAX));
        assert!(policy.check(&long).is_err());
        let url = policy.check("HTTPS://Example.com:443/a?b#c").unwrap();
        assert_eq!(url.as_str(), "https://example.com/a?b");
    }

    #[test]
    fn an_exception_is_one_address_with_its_port() {
        let policy = Policy {
            http: false,
            allow: vec!["127.0.0.1:8080".parse().unwrap()],
        };
        assert!(policy.check("http://127.0.0.1:8080/x").is_ok());
        assert!(policy.check("http://[::ffff:127.0.0.1]:8080/x").is_ok());
        assert!(policy.check("http://localhost:8080/x").is_ok());
        assert!(!policy.may_dial("127.0.0.2:8080".parse().unwrap()));
        assert!(!policy.may_dial("127.0.0.1:443".parse().unwrap()));
        assert!(!policy.may_dial("1.1.1.1:8080".parse().unwrap()));
        assert!(policy.check("http://127.0.0.2:8080/").is_err());
        assert!(policy.check("http://127.0.0.1/").is_err());
    }
}
