//! Where Redis is, as a URL says it: one server, the one that sentinels name, or a cluster.

use std::collections::BTreeMap;

use redis::{ClientTlsConfig, RedisConnectionInfo, TlsCertificates};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::node::{Node, Told, Way};
use super::sentinel::Sentinels;

/// How a URL may look.
const FORMS: &str = "write one such as `redis://127.0.0.1:6379/0`, `rediss://user:password@host:6379` \
    (TLS), `unix:///run/redis.sock`, `redis-sentinel://host:26379,host:26379/MASTER/0` or \
    `redis-cluster://host:6379,host:6379` (with TLS `rediss-sentinel://`, `rediss-cluster://`)";
const PORT: u16 = 6_379;
const SENTINEL_PORT: u16 = 26_379;

/// Where Redis is.
pub(super) enum Place {
    One(Node),
    Sentinels(Sentinels),
    /// Some of its servers, which know the others.
    Cluster(Vec<Node>, Way),
}

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    One,
    Sentinels,
    Cluster,
}

/// A URL taken apart. Several hosts stand between commas, which no parser of URLs takes.
struct Parts<'a> {
    user: &'a str,
    hosts: Vec<&'a str>,
    path: &'a str,
    said: BTreeMap<String, String>,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Self {
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let said = url::form_urlencoded::parse(query.as_bytes());
        Self {
            user,
            hosts: hosts.split(',').map(str::trim).collect(),
            path: path.trim_end_matches('/'),
            said: said.into_owned().collect(),
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.said.remove(name)
    }
}

impl Place {
    /// Where a URL leads to, and that for messages. Errors say what is wrong, and never repeat a part
    /// that may be a secret.
    pub(super) fn of(url: &SecretString) -> Told<(Self, String)> {
        let url = url.expose_secret();
        let wrong = || format!("the Redis URL is none: {FORMS}");
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let (shape, tls) = match scheme {
            "unix" => {
                let node = Node::of(url).map_err(|_| wrong())?;
                let place = node.place.clone();
                return Ok((Self::One(node), place));
            }
            "redis" | "valkey" => (Shape::One, false),
            "rediss" | "valkeys" => (Shape::One, true),
            "redis-sentinel" => (Shape::Sentinels, false),
            "rediss-sentinel" => (Shape::Sentinels, true),
            "redis-cluster" => (Shape::Cluster, false),
            "rediss-cluster" => (Shape::Cluster, true),
            _ => return Err(wrong()),
        };
        let mut parts = Parts::of(rest);
        if shape == Shape::One && parts.hosts.len() != 1 {
            return Err(format!(
                "the Redis URL names several hosts, and doesn't say what they are: {FORMS}"
            ));
        }
        let tls = certificates(&mut parts, tls)?;
        let (name, database) = match shape {
            Shape::One => ("", parts.path),
            Shape::Sentinels => parts.path.split_once('/').unwrap_or((parts.path, "")),
            Shape::Cluster => ("", parts.path),
        };
        if shape == Shape::Sentinels && name.is_empty() {
            return Err(format!("the Redis URL names no master: {FORMS}"));
        }
        if shape == Shape::Cluster && !matches!(database, "" | "0") {
            return Err(
                "a cluster has database 0 only: end the Redis URL after its hosts".to_owned(),
            );
        }
        let way = Way {
            settings: settings(parts.user, database, parts.take("protocol")).ok_or_else(wrong)?,
            tls,
        };
        let port = if shape == Shape::Sentinels {
            SENTINEL_PORT
        } else {
            PORT
        };
        let hosts: Option<Vec<_>> = parts.hosts.iter().map(|it| address(it, port)).collect();
        let hosts = hosts.ok_or_else(wrong)?;
        let to = |way: &Way| -> Told<Vec<Node>> {
            let nodes = hosts.iter().map(|(host, port)| way.to(host, *port));
            nodes.collect()
        };
        let place = match shape {
            Shape::One => Self::One(way.to(&hosts[0].0, hosts[0].1)?),
            Shape::Cluster => Self::Cluster(to(&way)?, way.clone()),
            Shape::Sentinels => {
                let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
                if let Some(user) = parts.take("sentinel_user") {
                    settings = settings.set_username(user);
                }
                if let Some(password) = parts.take("sentinel_password") {
                    settings = settings.set_password(password);
                }
                let tls = way.tls.clone();
                let all = to(&Way { settings, tls })?;
                Self::Sentinels(Sentinels::new(all, name.to_owned(), way.clone()))
            }
        };
        if let Some(strange) = parts.said.keys().next() {
            return Err(strange_option(strange));
        }
        let nodes = to(&way)?;
        let shown: Vec<&str> = nodes.iter().map(|it| &*it.place).collect();
        let slash = if name.is_empty() { "" } else { "/" };
        Ok((place, format!("{}{slash}{name}", shown.join(","))))
    }
}

fn strange_option(name: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let shown = match name.len() <= 24 && name.chars().all(word) {
        true => format!("`{name}`"),
        false => "an option".to_owned(),
    };
    format!(
        "the Redis URL says {shown}, which isn't known behind `?`: sslrootcert, sslcert and sslkey \
         with TLS, sentinel_user and sentinel_password with sentinels, protocol"
    )
}

/// User, password and database, as the driver reads them.
fn settings(user: &str, database: &str, protocol: Option<String>) -> Option<RedisConnectionInfo> {
    let at = if user.is_empty() { "" } else { "@" };
    let mut url = Url::parse(&format!("redis://{user}{at}h/{database}")).ok()?;
    if let Some(protocol) = protocol {
        url.query_pairs_mut().append_pair("protocol", &protocol);
    }
    let info = redis::IntoConnectionInfo::into_connection_info(url).ok()?;
    // the library's name and version are worth no right of their own
    Some(info.redis_settings().clone().set_skip_set_lib_name())
}

fn address(host: &str, port: u16) -> Option<(String, u16)> {
    let url = Url::parse(&format!("redis://{host}/")).ok()?;
    let host = match url.host()? {
        url::Host::Domain(it) => it.to_owned(),
        url::Host::Ipv4(it) => it.to_string(),
        url::Host::Ipv6(it) => it.to_string(),
    };
    let plain = !host.is_empty() && url.username().is_empty() && url.path() == "/";
    plain.then(|| (host, url.port().unwrap_or(port)))
}

/// Whom TLS trusts, and who we are; nothing without TLS.
fn certificates(parts: &mut Parts<'_>, tls: bool) -> Told<Option<TlsCertificates>> {
    let mut read = |name: &str| -> Told<Option<Vec<u8>>> {
        let Some(path) = parts.take(name) else {
            return Ok(None);
        };
        let read = std::fs::read(&path);
        let read = read.map_err(|why| format!("{name} of the Redis URL, {path}: {why}"))?;
        Ok(Some(read))
    };
    let root_cert = read("sslrootcert")?;
    let client_tls = match (read("sslcert")?, read("sslkey")?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig {
            client_cert,
            client_key,
        }),
        (None, None) => None,
        _ => return Err("sslcert and sslkey of the Redis URL go together".to_owned()),
    };
    if !tls && (root_cert.is_some() || client_tls.is_some()) {
        return Err(
            "the Redis URL names certificates, and begins without TLS: write rediss".to_owned(),
        );
    }
    Ok(tls.then_some(TlsCertificates {
        client_tls,
        root_cert,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(url: &str) -> String {
        Place::of(&url.into()).err().expect(url)
    }

    #[test]
    fn a_wrong_url_is_explained_and_not_repeated() {
        for url in [
            "http://u:hunter2@host",
            "redis://u:hunter2@host:notaport",
            "hunter2",
            "redis://u:hunter2@a:1,b:2",
            "redis-sentinel://u:hunter2@a:1,b:2",
            "redis-cluster://u:hunter2@a:1,b:notaport",
        ] {
            let error = wrong(url);
            assert!(error.contains("redis://127.0.0.1:6379/0"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        for (url, told) in [
            ("redis-cluster://a:1,b:2/3", "database 0"),
            ("redis://h/?ssl_cert_reqs=none", "`ssl_cert_reqs`"),
            ("redis://h/?hunter2%20hunter2=x", "an option"),
            ("redis://h/?sslrootcert=/dev/null", "rediss"),
            ("rediss://h/?sslcert=/dev/null", "together"),
            ("rediss://h/?sslrootcert=/none/such", "/none/such"),
            (
                "redis-cluster://h/?sentinel_password=hunter2",
                "`sentinel_password`",
            ),
        ] {
            let error = wrong(url);
            assert!(error.contains(told), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_place_holds_no_secret() {
        let of = |url: &str| Place::of(&url.into()).expect(url).1;
        assert_eq!(
            of("redis://u:hunter2@example.com:7000/1"),
            "example.com:7000"
        );
        assert_eq!(of("redis://[::1]:7000"), "[::1]:7000");
        assert_eq!(of("redis://example.com"), "example.com:6379");
        let sentinels = "redis-sentinel://u:p@a,b:7/main/2?sentinel_password=x";
        assert_eq!(of(sentinels), "a:26379,b:7/main");
        assert_eq!(of("rediss-cluster://u:p%40@a,b:7"), "a:6379,b:7");
        assert_eq!(of("unix:///run/redis.sock"), "/run/redis.sock");
    }

    #[test]
    fn user_password_and_database_are_read() {
        let settings = settings("me", "3", None).unwrap();
        assert_eq!((settings.username(), settings.db()), (Some("me"), 3));
        let settings = super::settings(":p%40", "", None).unwrap();
        assert_eq!(
            (settings.password(), settings.username()),
            (Some("p@"), None)
        );
        assert!(super::settings("", "x", None).is_none());
    }
}
