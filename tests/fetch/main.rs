//! URLs of users: 2,000 spellings of addresses that aren't public, straight, by redirect and by a
//! name whose answer changes, and none is reached; and what is behind a URL is fetched once.

#[path = "../kit/mod.rs"]
mod kit;
mod server;
mod spellings;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, join_all};
use presswork::clock::Clock;
use presswork::config::Config;
use presswork::fetch::Fetcher;
use presswork::json::Digest;
use presswork::ledger::Ledger;
use presswork::ledger::sqlite::Sqlite;
use presswork::media::{Limits, Media};
use presswork::outcome::{Class, Failure, Outcome};
use presswork::platform::address::Policy;
use presswork::platform::fetch::{Fetch, File, Got, Names, SystemNames};
use presswork::reference::Reference;
use presswork::stores;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use url::{Host, Url};

use server::{Asked, answer, path, serve, server};
use spellings::corpus;

const TIME: Duration = Duration::from_secs(20);

/// Names that a test makes up: each look-up gets the next answer, and the last one stays.
#[derive(Clone, Default)]
struct MadeUp(Arc<Mutex<HashMap<String, Vec<Vec<IpAddr>>>>>);

impl MadeUp {
    fn say(&self, name: &str, answers: &[&[IpAddr]]) {
        let answers = answers.iter().rev().map(|it| it.to_vec()).collect();
        self.0.lock().unwrap().insert(name.to_owned(), answers);
    }
}

impl Names for MadeUp {
    fn look_up(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let mut names = self.0.lock().unwrap();
        let found = names.get_mut(name).map(|it| match it.len() {
            1 => it[0].clone(),
            _ => it.pop().unwrap(),
        });
        let found = found.ok_or_else(|| io::Error::other("no such name"));
        Box::pin(async move { found })
    }
}

/// A canary that must not be reached at any inner address, and a decoy that may be: on one port.
struct Cage {
    canary: Vec<Asked>,
    decoy: Asked,
    port: u16,
}

const DECOY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

impl Cage {
    /// On Linux all of 127.0.0.0/8 is this machine; elsewhere there is no decoy's address.
    async fn new() -> Self {
        let canary = |listener| serve(listener, Arc::new(|_| answer("200 OK", "", b"canary")));
        loop {
            let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = first.local_addr().unwrap().port();
            let decoy = TcpListener::bind((DECOY, port)).await;
            let second = TcpListener::bind(("127.1.2.3", port)).await;
            let (Ok(decoy), Ok(second)) = (decoy, second) else {
                continue;
            };
            let mut all = vec![canary(first), canary(second)];
            // not every machine has IPv6
            all.extend(TcpListener::bind(("::1", port)).await.ok().map(canary));
            let answers = move |head: &str| match path(head).strip_prefix("/to?") {
                Some(to) => {
                    let to: String = url::form_urlencoded::parse(to.as_bytes())
                        .map(|it| it.0.into_owned())
                        .collect();
                    let to: String = to.chars().flat_map(header_text).collect();
                    answer("302 Found", &format!("location: {to}\r\n"), b"")
                }
                None => answer("200 OK", "", b"decoy"),
            };
            return Self {
                canary: all,
                decoy: serve(decoy, Arc::new(answers)),
                port,
            };
        }
    }

    fn reached(&self) -> usize {
        self.canary.iter().map(|it| it.lock().unwrap().len()).sum()
    }

    fn policy(&self, more: &[IpAddr]) -> Policy {
        let all = [DECOY].into_iter().chain(more.iter().copied());
        Policy {
            http: true,
            allow: all.map(|it| SocketAddr::new(it, self.port)).collect(),
        }
    }

    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/x", self.port)
    }

    fn by_redirect(&self, host: &str) -> String {
        let to: String = url::form_urlencoded::byte_serialize(self.url(host).as_bytes()).collect();
        format!("http://{DECOY}:{}/to?{to}", self.port)
    }
}

/// A header holds bytes: what isn't ASCII is escaped, which a host's parser undoes.
fn header_text(c: char) -> Vec<char> {
    let mut bytes = [0; 4];
    match c.is_ascii() {
        true => vec![c],
        false => {
            let escaped = |it: &u8| format!("%{it:02x}").chars().collect::<Vec<_>>();
            let bytes = c.encode_utf8(&mut bytes).as_bytes();
            bytes.iter().flat_map(escaped).collect()
        }
    }
}

async fn whole(mut file: File) -> Result<Vec<u8>, Failure> {
    let mut all = Vec::new();
    while let Some(bytes) = file.next().await? {
        all.extend(bytes);
    }
    Ok(all)
}

async fn get(client: &Fetch, url: &str) -> Result<Vec<u8>, Failure> {
    match client.get(url, None, 1 << 20, TIME).await? {
        Got::File(file) => whole(*file).await,
        Got::Same => panic!("nothing was known"),
    }
}

/// The address that a spelling means; what means none stands for the canary.
fn meant(spelling: &str) -> IpAddr {
    let url = Url::parse(&format!("http://{spelling}/"));
    match url.as_ref().ok().and_then(Url::host) {
        Some(Host::Ipv4(ip)) => ip.into(),
        Some(Host::Ipv6(ip)) => ip.into(),
        _ => Ipv4Addr::LOCALHOST.into(),
    }
}

/// Asks all at once, a few at a time; how many were refused as URLs, not by a network that is away.
async fn refused(client: &Fetch, urls: Vec<String>) -> usize {
    let room = Semaphore::new(16);
    let one = |url: String| {
        let room = &room;
        async move {
            let _place = room.acquire().await.unwrap();
            let e = get(client, &url).await.expect_err(&url);
            assert_eq!(
                (e.class, e.code.as_str()),
                (Class::Permanent, "url"),
                "{url}: {e}"
            );
        }
    };
    let count = urls.len();
    join_all(urls.into_iter().map(one)).await;
    count
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_spelling_of_an_inner_address_is_reached() {
    let cage = Cage::new().await;
    let names = MadeUp::default();
    names.say("localhost.", &[&[IpAddr::V4(Ipv4Addr::LOCALHOST)]]);
    let client = |more: &[IpAddr]| {
        let policy = cage.policy(more);
        Fetch::new(policy, Arc::new(names.clone()), Clock::System).unwrap()
    };
    let closed = client(&[]);
    let corpus = corpus();
    assert!(2_000 <= corpus.len(), "{} spellings", corpus.len());

    let urls = corpus.iter().map(|it| cage.url(it)).collect();
    assert_eq!(refused(&closed, urls).await, corpus.len());
    assert!(cage.decoy.lock().unwrap().is_empty());

    let urls = corpus.iter().map(|it| cage.by_redirect(it)).collect();
    refused(&closed, urls).await;
    let redirected = cage.decoy.lock().unwrap().len();
    assert_eq!(redirected, corpus.len(), "the decoy redirects each");

    // a name that leads to the decoy when it is looked up first, and inside from then on; and one
    // that leads to both at once, the inner address first
    for (i, spelling) in corpus.iter().enumerate() {
        let inner = meant(spelling);
        names.say(&format!("turns{i}.test"), &[&[DECOY], &[inner]]);
        names.say(&format!("both{i}.test"), &[&[inner, DECOY]]);
    }
    let all = |what: &str| -> Vec<String> {
        let all = 0..corpus.len();
        all.map(|i| cage.url(&format!("{what}{i}.test"))).collect()
    };
    let first = futures_util::stream::iter(all("turns").into_iter().chain(all("both")))
        .map(|url| {
            let closed = &closed;
            async move { get(closed, &url).await.unwrap() }
        })
        .buffer_unordered(16);
    let first: Vec<Vec<u8>> = first.collect().await;
    assert!(
        first.iter().all(|it| it == b"decoy"),
        "the first answer is dialled"
    );
    refused(&closed, all("turns")).await;
    assert_eq!(cage.reached(), 0);

    // the control: the same canary is reached when it is allowed
    let open = client(&[
        Ipv4Addr::LOCALHOST.into(),
        Ipv4Addr::new(127, 1, 2, 3).into(),
    ]);
    names.say("named.test", &[&[IpAddr::V4(Ipv4Addr::LOCALHOST)]]);
    let ways = [
        cage.url("127.0.0.1"),
        cage.url("0x7f.0x00000001"),
        cage.url("[::ffff:127.1.2.3]"),
        cage.by_redirect("2130706433"),
        cage.url("named.test"),
    ];
    for url in &ways {
        assert_eq!(get(&open, url).await.unwrap(), b"canary", "{url}");
    }
    assert_eq!(cage.reached(), ways.len());
}

#[tokio::test]
#[ignore = "a child of proxies_of_the_environment_are_ignored"]
async fn child_fetches() {
    let Ok(url) = std::env::var("FETCH_TEST_URL") else {
        return;
    };
    let at = Url::parse(&url).unwrap().socket_addrs(|| None).unwrap()[0];
    let policy = Policy {
        http: true,
        allow: vec![at],
    };
    let client = Fetch::new(policy, Arc::new(SystemNames), Clock::System).unwrap();
    assert_eq!(get(&client, &url).await.unwrap(), b"straight");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_of_the_environment_are_ignored() {
    let (at, asked) = server(|_| answer("200 OK", "", b"straight")).await;
    let (proxy, through) = server(|_| answer("200 OK", "", b"proxied")).await;
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child_fetches", "--ignored"]);
    child.env("FETCH_TEST_URL", format!("http://{at}/x"));
    for name in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        child.env(name, format!("http://{proxy}"));
    }
    child
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .stdout(Stdio::piped());
    let done = tokio::task::spawn_blocking(move || child.output())
        .await
        .unwrap()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stdout)
    );
    assert_eq!(asked.lock().unwrap().len(), 1);
    assert_eq!(through.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn answers_are_bounded_and_nothing_of_ours_goes_along() {
    let (at, asked) = server(|head| match path(head) {
        "/file" => answer("200 OK", "content-type: text/plain\r\n", b"file"),
        "/loop" => answer("302 Found", "location: /loop\r\n", b""),
        "/three" => answer("301 Moved", "location: /two\r\n", b""),
        "/two" => answer("307 Moved", "location: two/../one\r\n", b""),
        "/two/../one" | "/one" => answer("303 Moved", "location: /file#x\r\n", b""),
        "/nowhere" => answer("302 Found", "", b""),
        "/scheme" => answer("302 Found", "location: file:///etc/passwd\r\n", b""),
        "/login" => answer("302 Found", "location: http://u:p@127.0.0.1/\r\n", b""),
        "/packed" => answer("200 OK", "content-encoding: gzip\r\n", b"x"),
        "/large" => answer("200 OK", "", &[b'x'; (1 << 20) + 1]),
        "/endless" => Some([b"HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 2 << 20][..]].concat()),
        "/cut" => Some(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".to_vec()),
        "/gone" => answer("410 Gone", "", b""),
        "/busy" => answer("429 Too Many", "retry-after: 7\r\n", b""),
        "/sick" => answer("503 Sick", "", b""),
        "/same" => answer("304 Not Modified", "", b""),
        _ => None,
    })
    .await;
    let policy = Policy {
        http: false,
        allow: vec![at],
    };
    let client = Fetch::new(policy, Arc::new(SystemNames), Clock::System).unwrap();
    let fetch = async |path: &str| get(&client, &format!("http://{at}{path}")).await;
    assert_eq!(fetch("/three").await.unwrap(), b"file");
    for (path, class, code) in [
        ("/loop", Class::Permanent, "url_redirects"),
        ("/nowhere", Class::Permanent, "url_redirects"),
        ("/scheme", Class::Permanent, "url"),
        ("/login", Class::Permanent, "url"),
        ("/packed", Class::Permanent, "url_encoded"),
        ("/large", Class::Permanent, "too_large"),
        ("/endless", Class::Permanent, "too_large"),
        ("/cut", Class::Transient, "reset"),
        ("/gone", Class::Permanent, "http_410"),
        ("/busy", Class::Throttled, "http_429"),
        ("/sick", Class::Transient, "http_503"),
        ("/same", Class::Permanent, "http_304"),
    ] {
        let e = fetch(path).await.unwrap_err();
        assert_eq!((e.class, e.code.as_str()), (class, code), "{path}: {e}");
    }
    let busy = fetch("/busy").await.unwrap_err();
    assert_eq!(busy.retry_after_ms, Some(7_000));
    let silent = format!("http://{at}/silent");
    let silent = client.get(&silent, None, 9, Duration::from_millis(200));
    let Err(e) = silent.await else {
        panic!("it never answers")
    };
    assert_eq!((e.class, e.code.as_str()), (Class::Transient, "timeout"));
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let policy = Policy {
        http: false,
        allow: vec![closed],
    };
    let away = Fetch::new(policy, Arc::new(SystemNames), Clock::System).unwrap();
    let e = get(&away, &format!("http://{closed}/")).await.unwrap_err();
    assert_eq!((e.class, e.code.as_str()), (Class::Transient, "connect"));
    for head in asked.lock().unwrap().iter() {
        let head = head.to_lowercase();
        for ours in ["authorization", "cookie", "referer", "accept-encoding"] {
            assert!(!head.contains(ours), "{head}");
        }
    }
}

/// A fetcher into a store of its own.
struct Rig {
    fetcher: Arc<Fetcher>,
    media: Media,
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    config: Config,
    _dir: TempDir,
}

async fn rig(allow: &[SocketAddr]) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let allow: Vec<String> = allow.iter().map(ToString::to_string).collect();
    let text = format!(
        "[daemon]\nstate_dir = {:?}\n[media]\nfetch_allow = {:?}\n",
        dir.path(),
        allow.join(", ")
    );
    let config = Config::parse(&text, None, &|_| None).unwrap();
    let clock = Clock::manual(Clock::System.now());
    let ledger = Sqlite::open(&dir.path().join("ledger.sqlite"), clock.clone()).await;
    let ledger: Arc<dyn Ledger> = Arc::new(ledger.unwrap());
    ledger.migrate().await.unwrap();
    let media = stores::media(&config, ledger.clone(), &clock).unwrap();
    let (names, time) = (Arc::new(SystemNames), clock.clone());
    Rig {
        fetcher: Arc::new(Fetcher::new(media.clone(), ledger.clone(), names, time)),
        media,
        ledger,
        clock,
        config,
        _dir: dir,
    }
}

impl Rig {
    async fn get(&self, url: &str) -> Result<Reference, Outcome> {
        self.fetcher.get(url, &self.config.media).await
    }

    fn later(&self) {
        self.clock.advance(chrono::Duration::hours(2));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_is_fetched_once_for_all() {
    let version = Arc::new(Mutex::new(1));
    let current = version.clone();
    let (at, asked) = server(move |head| {
        let etag = format!("\"v{}\"", current.lock().unwrap());
        let headers = format!("etag: {etag}\r\ncontent-type: text/plain\r\n");
        match (
            path(head),
            head.contains(&format!("if-none-match: {etag}\r\n")),
        ) {
            ("/moved", _) => answer("302 Found", "location: /file\r\n", b""),
            (_, true) => answer("304 Not Modified", &headers, b""),
            (_, false) => answer("200 OK", &headers, etag.as_bytes()),
        }
    })
    .await;
    let rig = rig(&[at]).await;
    let url = format!("http://{at}/moved");
    let requests = || asked.lock().unwrap().len();

    let all = join_all((0..50).map(|_| rig.get(&url))).await;
    let first = all[0].clone().unwrap();
    assert!(all.iter().all(|it| it.as_ref() == Ok(&first)));
    assert_eq!(first.mime, "text/plain");
    assert_eq!(requests(), 2, "one redirect, one file");
    assert_eq!(rig.get(&url).await.unwrap(), first);
    assert_eq!(rig.get(&format!("{url}#part")).await.unwrap(), first);
    assert_eq!(requests(), 2);

    rig.later();
    assert_eq!(rig.get(&url).await.unwrap(), first);
    assert_eq!(requests(), 4);
    let told = asked.lock().unwrap().clone();
    assert!(
        !told[2].contains("if-none-match"),
        "validators are the last hop's own"
    );
    assert!(told[3].contains("if-none-match: \"v1\""));
    assert_eq!(rig.get(&url).await.unwrap(), first, "the age counts anew");
    assert_eq!(requests(), 4);

    rig.later();
    *version.lock().unwrap() = 2;
    let second = rig.get(&url).await.unwrap();
    assert_eq!(second.media.0, Digest::of_bytes(b"\"v2\""));
    assert_eq!(requests(), 6);

    // forgotten by the store: asked for whole, without validators
    rig.later();
    rig.media.sweep(Duration::from_secs(60)).await.unwrap();
    assert_eq!(rig.get(&url).await.unwrap(), second);
    assert!(!asked.lock().unwrap()[7].contains("if-none-match"));

    // the rules are asked before the memory is
    let mut strict = rig.config.media.clone();
    strict.fetch_allow.clear();
    let refused = rig.fetcher.get(&url, &strict).await.unwrap_err();
    assert_eq!(refused.failure().unwrap().code, "url");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_shared_and_a_fetch_survives_who_began_it() {
    let open = Arc::new(Mutex::new(false));
    let gate = open.clone();
    let waited_for = Arc::new(AtomicBool::new(false));
    let all_wait = waited_for.clone();
    let (at, asked) = server(move |head| match path(head) {
        "/slow" if !*gate.lock().unwrap() => None,
        "/slow" => answer("200 OK", "", b"slow"),
        _ => {
            // else the first may have its answer before the second asks
            while !all_wait.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            answer("404 Not Found", "", b"")
        }
    })
    .await;
    let rig = rig(&[at]).await;
    let missing = format!("http://{at}/missing");
    let all = join_all((0..20).map(|_| rig.get(&missing)));
    tokio::pin!(all);
    assert!(futures_util::poll!(&mut all).is_pending());
    waited_for.store(true, Ordering::SeqCst);
    let all = all.await;
    assert!(all.iter().all(|it| it == &all[0]));
    assert_eq!(
        all[0].as_ref().unwrap_err().failure().unwrap().code,
        "http_404"
    );
    let told = asked.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "{told:#?}");

    // the first hangs and is given up; the second, who waits for it, goes on by itself
    let slow = format!("http://{at}/slow");
    let (fetcher, config) = (rig.fetcher.clone(), rig.config.media.clone());
    let url = slow.clone();
    let first = tokio::spawn(async move { fetcher.get(&url, &config).await });
    let reached = || async { 2 <= asked.lock().unwrap().len() };
    kit::wait::until("the first asks", TIME, reached).await;
    let second = rig.get(&slow);
    tokio::pin!(second);
    assert!(futures_util::poll!(&mut second).is_pending());
    *open.lock().unwrap() = true;
    first.abort();
    assert_eq!(second.await.unwrap().media.0, Digest::of_bytes(b"slow"));
}

#[tokio::test]
async fn what_is_unfit_is_not_stored() {
    let picture = |width: u32| {
        let sides = [width.to_be_bytes(), 1u32.to_be_bytes()].concat();
        [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], &sides].concat()
    };
    let (at, _) = server(move |head| match path(head) {
        "/strip" => answer("200 OK", "", &picture(101)),
        "/fit" => answer("200 OK", "content-type: text/html\r\n", &picture(100)),
        _ => answer("200 OK", "", b""),
    })
    .await;
    let rig = rig(&[at]).await;
    for path in ["/strip", "/empty"] {
        let e = rig.get(&format!("http://{at}{path}")).await.unwrap_err();
        assert_eq!(e.failure().unwrap().code, "media", "{e}");
    }
    let fit = rig.get(&format!("http://{at}/fit")).await.unwrap();
    assert_eq!(fit.mime, "image/png");
    let limits = Limits::of(&rig.config.media);
    assert_eq!(limits.ratio, 100);
    assert_eq!(rig.ledger.media(&[fit.media.0]).await.unwrap().len(), 1);
}
