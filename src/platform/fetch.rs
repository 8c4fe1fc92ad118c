//! A GET of a URL that a user gave: every hop checked, by spelling and by address, and the address
//! that was checked is the one connected to.
//!
//! The client asks its resolver for names only, never about addresses in a URL: those are checked
//! before. What a name leads to is checked within the resolver, whose answer is what is dialled: no
//! second look-up could say otherwise. Nothing of ours goes along: no credential, no cookie.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED, LOCATION,
};
use reqwest::{Client, Response};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::address::{Policy, not_public};
use super::http::{Answer, FIRST_BYTE, IDLE_READ, builder, chain, not_answered};
use super::limits::come_back;
use crate::clock::Clock;
use crate::json::Digest;
use crate::outcome::{Class, Failure, Scope};

/// Redirects that are followed at most.
const HOPS_MAX: usize = 3;
/// A validator that is longer isn't kept.
const VALIDATOR_MAX: usize = 1_024;

/// Where names are looked up.
pub trait Names: Send + Sync + 'static {
    /// All addresses of a name.
    fn look_up(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's own names: `/etc/hosts`, DNS.
pub struct SystemNames;

impl Names for SystemNames {
    fn look_up(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let name = name.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|it| it.ip()).collect())
        })
    }
}

/// The client for URLs of users.
pub struct Fetch {
    policy: Arc<Policy>,
    clock: Clock,
    /// By port: what a name may lead to depends on it.
    clients: BTreeMap<u16, Client>,
}

/// What was known of a URL when it was last fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The digest of the URL that answered at last: its validators are sent to no other.
    pub landed: Digest,
    /// The answer's `ETag`.
    pub etag: Option<String>,
    /// The answer's `Last-Modified`.
    pub last_modified: Option<String>,
}

/// What a fetch got.
pub enum Got {
    /// What is known is still so.
    Same,
    /// A file.
    File(Box<File>),
}

/// A file on its way.
pub struct File {
    /// What is to be remembered of it.
    pub known: Known,
    /// Its declared media type.
    pub mime: Option<String>,
    response: Response,
    host: String,
    deadline: Instant,
    left: u64,
}

/// Says that a name leads nowhere that may be connected to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Closed(String);

/// Looks names up, and lets only those addresses through that may be dialled at one port.
struct Guard {
    names: Arc<dyn Names>,
    policy: Arc<Policy>,
    port: u16,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let found = self.names.look_up(name.as_str());
        let (policy, port) = (self.policy.clone(), self.port);
        Box::pin(async move {
            let mut found = found.await?;
            let none = found.is_empty();
            found.retain(|ip| policy.may_dial(SocketAddr::new(*ip, port)));
            if found.is_empty() && !none {
                return Err(Closed(not_public()).into());
            }
            let found = found.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(Box::new(found) as Addrs)
        })
    }
}

impl Fetch {
    /// A client that follows what `policy` lets through.
    ///
    /// # Errors
    /// When the system's certificates can't be read.
    pub fn new(policy: Policy, names: Arc<dyn Names>, clock: Clock) -> anyhow::Result<Self> {
        let policy = Arc::new(policy);
        let ports = policy.allow.iter().map(SocketAddr::port);
        let ports: BTreeSet<u16> = ports.chain([80, 443]).collect();
        let mut clients = BTreeMap::new();
        for port in ports {
            let guard = Guard {
                names: names.clone(),
                policy: policy.clone(),
                port,
            };
            let client = builder(0).dns_resolver(Arc::new(guard)).build()?;
            clients.insert(port, client);
        }
        Ok(Self {
            policy,
            clock,
            clients,
        })
    }

    /// What may be followed.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Fetches a URL. The file's bytes are taken by [`File::next`], at most `most` of them, all within
    /// `time` from now.
    ///
    /// # Errors
    /// Permanent when it may not be followed, isn't there or is too large; transient when its server
    /// can't be reached, or says to come later.
    pub async fn get(
        &self,
        url: &str,
        known: Option<&Known>,
        most: u64,
        time: Duration,
    ) -> Result<Got, Failure> {
        let deadline = Instant::now() + time;
        let mut url = self.policy.check(url).map_err(closed)?;
        for _ in 0..=HOPS_MAX {
            let landed = Digest::of_bytes(url.as_str().as_bytes());
            let known = known.filter(|it| it.landed == landed);
            let response = self.ask(&url, known, deadline).await?;
            let status = response.status().as_u16();
            match status {
                301 | 302 | 303 | 307 | 308 => url = self.next_hop(&url, response.headers())?,
                304 if known.is_some() => return Ok(Got::Same),
                200 => {
                    return file(response, &url, landed, most, deadline)
                        .map(|it| Got::File(Box::new(it)));
                }
                _ => return Err(self.not_there(&response, &url)),
            }
        }
        let message = format!("the URL redirects more than {HOPS_MAX} times");
        Err(Failure::permanent("url_redirects", message))
    }

    /// One request, one answer's head.
    async fn ask(
        &self,
        url: &Url,
        known: Option<&Known>,
        deadline: Instant,
    ) -> Result<Response, Failure> {
        let host = url.host_str().unwrap_or("the server");
        let port = url.port_or_known_default().unwrap_or(0);
        let client = self.clients.get(&port);
        let client = client.ok_or_else(|| closed(not_public()))?;
        let request = client.get(url.clone()).headers(conditions(known));
        let by = deadline.min(Instant::now() + FIRST_BYTE);
        let response = match timeout_at(by, request.send()).await {
            Ok(Ok(it)) => it,
            Ok(Err(e)) => return Err(unreached(e, host)),
            Err(_) => return Err(late(host)),
        };
        // a belt: the checks before are the braces
        match response.remote_addr() {
            Some(to) if !self.policy.may_dial(to) => Err(closed(not_public())),
            _ => Ok(response),
        }
    }

    fn next_hop(&self, from: &Url, headers: &HeaderMap) -> Result<Url, Failure> {
        let to = headers.get(LOCATION).and_then(|it| it.to_str().ok());
        let to = to.and_then(|it| from.join(it).ok()).ok_or_else(|| {
            let host = from.host_str().unwrap_or("the server");
            let message = format!("{host} redirects without saying where to");
            Failure::permanent("url_redirects", message)
        })?;
        if from.scheme() == "https" && to.scheme() == "http" {
            let message = "the URL redirects from https:// to http://";
            return Err(Failure::permanent("url_redirects", message));
        }
        self.policy
            .check(to.as_str())
            .map_err(|e| closed(format!("redirected: {e}")))
    }

    /// Why an answer is no file.
    fn not_there(&self, response: &Response, url: &Url) -> Failure {
        let status = response.status().as_u16();
        let host = url.host_str().unwrap_or("the server");
        let class = match status {
            408 | 425 | 500..=599 => Class::Transient,
            429 => Class::Throttled,
            _ => Class::Permanent,
        };
        let answer = Answer {
            status,
            headers: response.headers().clone(),
            body: Bytes::new(),
            at: self.clock.now(),
        };
        let (code, message) = (format!("http_{status}"), format!("{host} answers {status}"));
        Failure::new(class, Scope::Content, &code, message).after(come_back(&answer, class))
    }
}

impl File {
    /// The next bytes; `None` after the last.
    ///
    /// # Errors
    /// As [`Fetch::get`]; then what came so far is to be thrown away.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let by = self.deadline.min(Instant::now() + IDLE_READ);
        match timeout_at(by, self.response.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                let left = self.left.checked_sub(bytes.len() as u64);
                self.left = left.ok_or_else(|| too_large(&self.host))?;
                Ok(Some(bytes))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(e)) => {
                let message = format!("{}'s answer broke off: {}", self.host, chain(e));
                Err(transient("reset", message))
            }
            Err(_) => Err(late(&self.host)),
        }
    }
}

fn conditions(known: Option<&Known>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut say = |name: HeaderName, value: Option<&String>| {
        if let Some(value) = value.and_then(|it| HeaderValue::from_str(it).ok()) {
            headers.insert(name, value);
        }
    };
    say(IF_NONE_MATCH, known.and_then(|it| it.etag.as_ref()));
    say(
        IF_MODIFIED_SINCE,
        known.and_then(|it| it.last_modified.as_ref()),
    );
    headers
}

fn file(
    response: Response,
    url: &Url,
    landed: Digest,
    most: u64,
    deadline: Instant,
) -> Result<File, Failure> {
    let host = url.host_str().unwrap_or("the server").to_owned();
    let text = |name: HeaderName| {
        let text = response.headers().get(name)?.to_str().ok()?;
        (text.len() <= VALIDATOR_MAX).then(|| text.to_owned())
    };
    // we never ask for it, and unpacking is how a small answer becomes a large one
    if let Some(coding) = text(CONTENT_ENCODING)
        && !coding.eq_ignore_ascii_case("identity")
    {
        let message = format!("{host} sends it packed, which wasn't asked for");
        return Err(Failure::permanent("url_encoded", message));
    }
    if response.content_length().is_some_and(|it| most < it) {
        return Err(too_large(&host));
    }
    let known = Known {
        landed,
        etag: text(ETAG),
        last_modified: text(LAST_MODIFIED),
    };
    Ok(File {
        known,
        mime: text(CONTENT_TYPE),
        response,
        host,
        deadline,
        left: most,
    })
}

fn closed(message: String) -> Failure {
    Failure::permanent("url", message)
}

fn transient(code: &str, message: String) -> Failure {
    Failure::new(Class::Transient, Scope::Content, code, message)
}

fn late(host: &str) -> Failure {
    transient("timeout", format!("{host} takes too long"))
}

fn too_large(host: &str) -> Failure {
    let message = format!("{host} sends more than media.bytes_max lets in");
    Failure::permanent("too_large", message)
}

/// Why no answer came: the guard's word, or the network's.
fn unreached(error: reqwest::Error, host: &str) -> Failure {
    let mut cause = error.source();
    while let Some(it) = cause {
        if let Some(Closed(why)) = it.downcast_ref() {
            return closed(why.clone());
        }
        cause = it.source();
    }
    let lost = not_answered(error, host);
    transient(lost.code, lost.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hop_is_checked_like_the_first() {
        let policy = Policy {
            http: true,
            allow: vec![],
        };
        let client = Fetch::new(policy, Arc::new(SystemNames), Clock::System).unwrap();
        let hop = |from: &str, to: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, to.parse().unwrap());
            client.next_hop(&Url::parse(from).unwrap(), &headers)
        };
        let from = "https://a.example/b/c?d";
        assert_eq!(hop(from, "../e").unwrap().as_str(), "https://a.example/e");
        assert_eq!(
            hop(from, "//b.example").unwrap().as_str(),
            "https://b.example/"
        );
        assert!(hop("http://a.example/", "https://a.example/").is_ok());
        assert!(hop("http://a.example/", "http://b.example/").is_ok());
        for (to, code) in [
            ("http://a.example/", "url_redirects"),
            ("https://10.0.0.1/", "url"),
            ("//0x7f.1/", "url"),
            ("https://a.example:22/", "url"),
            ("https://u@a.example/", "url"),
            ("gopher://a.example/", "url"),
        ] {
            assert_eq!(hop(from, to).unwrap_err().code, code, "{to}");
        }
    }
}
