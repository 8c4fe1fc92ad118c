//! `presswork accounts login`: a person grants access in a browser, here or elsewhere, and comes back.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use url::Url;

use super::cx::Cx;
use super::out::{CliError, plain};
use super::trial;
use crate::ledger::Ledger;
use crate::oauth::begun::Ended;
use crate::oauth::client::is_loopback;
use crate::oauth::login::{LASTS, Login, Returned};
use crate::operate::accounts::Wanted;
use crate::operate::logins::{self, Brought, POLICY, Plan, page};
use crate::platform::http::{Http, below};

/// Where a browser comes back to unless another port is said.
const PORT: u16 = 8_723;
/// The longest head of a request that is read, in bytes, and how long it may take.
const HEAD_MAX: usize = 32 * 1024;
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether a login has ended elsewhere.
const EVERY: Duration = Duration::from_secs(1);

/// What is asked for.
pub struct Asked {
    /// The account.
    pub name: String,
    /// The `[oauth.NAME]`.
    pub client: String,
    /// Its platform, where the issuer has several.
    pub platform: Option<String>,
    /// Whose jobs alone may use it.
    pub tenant: Option<String>,
    /// What people call it.
    pub label: String,
    /// What `jobs.toml` would say of it.
    pub settings: BTreeMap<String, String>,
    /// The port that the browser comes back to.
    pub port: Option<u16>,
    /// It comes back to the API's public address instead.
    pub public: bool,
    /// The account may become another person's.
    pub replace: bool,
}

/// Logs an account in. How it ended, for people.
///
/// # Errors
/// What stands in the way, or why it came to nothing.
pub async fn run(cx: &Cx, ledger: &dyn Ledger, asked: Asked) -> Result<String, CliError> {
    let config = &**cx.known();
    let wanted = Wanted {
        platform: asked.platform.clone().unwrap_or_default(),
        tenant: asked.tenant.clone(),
        label: asked.label.clone(),
        settings: asked.settings.clone(),
        ..Wanted::default()
    };
    let plan = logins::plan(ledger, config, (&asked.name, &asked.client), wanted).await?;
    let plan = Plan {
        replaces: asked.replace,
        ..plan
    };
    let registered = logins::client(config, &asked.client)?.redirect.clone();
    let http = trial::http(cx)?;
    let at_home = registered.as_ref().is_none_or(is_loopback);
    match asked.public || !at_home {
        true => elsewhere(cx, ledger, (plan, registered), &http).await,
        false => here(cx, ledger, (plan, registered, asked.port), &http).await,
    }
}

fn begun(cx: &Cx, plan: &Plan, redirect: Url) -> Result<Login, CliError> {
    let client = logins::client(cx.known(), &plan.client)?;
    Login::begin(client, redirect).map_err(CliError::failed)
}

fn shown(cx: &Cx, login: &Login, words: &str) -> Result<(), CliError> {
    if cx.out.json {
        return cx.out.json_line(&json!({"open": login.url.as_str()}));
    }
    cx.out
        .note("Open this address in a browser, as the account that is to be used:\n");
    cx.out.line(login.url.as_str())?;
    cx.out.note(&format!("\n{words}"));
    Ok(())
}

fn late() -> CliError {
    let told = "nobody came back within ten minutes; nothing was changed";
    CliError::failed(told).hint("begin anew with the same command")
}

/// Lines that are pasted. A thread of its own: a read of standard input can't be given up.
fn pasted() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The query of an address that was pasted.
fn query(line: &str) -> &str {
    let line = line.trim();
    let query = line.split_once('?').map_or(line, |it| it.1);
    query.split('#').next().unwrap_or_default()
}

/// What ends the wait for a person.
enum Came<T> {
    /// An address that was pasted.
    Pasted(Returned),
    /// What else was waited for.
    Other(T),
}

/// Waits for an address that is pasted, or for something else, for as long as a login lasts.
async fn waited<T>(
    cx: &Cx,
    login: &Login,
    other: impl Future<Output = T>,
) -> Result<Came<T>, CliError> {
    let end = Instant::now() + LASTS.to_std().unwrap_or_default();
    let (mut lines, mut reads) = (pasted(), true);
    tokio::pin!(other);
    loop {
        tokio::select! {
            it = &mut other => return Ok(Came::Other(it)),
            line = lines.recv(), if reads => match line {
                None => reads = false,
                Some(line) if line.trim().is_empty() => {}
                Some(line) => match login.returned(query(&line)) {
                    Ok(it) => return Ok(Came::Pasted(it)),
                    Err(stray) => cx.out.note(&stray.to_string()),
                },
            },
            () = tokio::time::sleep_until(end) => return Err(late()),
        }
    }
}

/// The browser that comes back, and what it brings.
async fn browsed(listener: &TcpListener, login: &Login) -> (Returned, TcpStream) {
    loop {
        let Ok((mut browser, _)) = listener.accept().await else {
            continue;
        };
        match asked_for(&mut browser, login).await {
            Some(Ok(it)) => return (it, browser),
            Some(Err(told)) => answered(&mut browser, "400 Bad Request", &told).await,
            None => answered(&mut browser, "404 Not Found", "there is nothing here").await,
        }
    }
}

/// How a login ends that a daemon ends.
async fn ended(ledger: &dyn Ledger, digest: &[u8]) -> Ended {
    let mut every = tokio::time::interval(EVERY);
    loop {
        every.tick().await;
        match ledger.login_end(digest).await {
            Ok(Some(it)) => return it,
            Ok(None) => {}
            Err(e) => tracing::debug!("the login's end: {e}"),
        }
    }
}

/// The browser comes back to this machine, through a tunnel or not, or its last address is pasted.
async fn here(
    cx: &Cx,
    ledger: &dyn Ledger,
    (plan, registered, port): (Plan, Option<Url>, Option<u16>),
    http: &Http,
) -> Result<String, CliError> {
    let said = registered.as_ref().and_then(Url::port);
    if let (Some(said), Some(port)) = (said, port)
        && said != port
    {
        return Err(CliError::usage(format!(
            "--port {port}: redirect_url of [oauth.{}] names the port {said}, as it is registered with the platform",
            plan.client
        )));
    }
    let port = port.or(said).unwrap_or(PORT);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.map_err(|e| {
        CliError::failed(format!("127.0.0.1:{port} can't be listened on: {e}"))
            .hint("name a free port by --port, one that the platform lets the app come back to")
    })?;
    let redirect = match registered {
        Some(it) => it,
        None => {
            let text = format!("http://127.0.0.1:{port}/callback");
            Url::parse(&text).map_err(|e| CliError::failed(e.to_string()))?
        }
    };
    let login = begun(cx, &plan, redirect)?;
    let words = format!(
        "It comes back to {} on this machine. Where the browser is on another one, begin there with\n  ssh -L {port}:127.0.0.1:{port} THIS-HOST\nor paste the whole address here that it ends at, though it shows nothing. Ten minutes are left.",
        login.redirect
    );
    shown(cx, &login, &words)?;
    let (returned, browser) = match waited(cx, &login, browsed(&listener, &login)).await? {
        Came::Pasted(it) => (it, None),
        Came::Other((it, browser)) => (it, Some(browser)),
    };
    let done = match returned {
        Returned::Denied(code, told) => Err(CliError::failed(logins::denied(&code, &told))),
        Returned::Code(code) => {
            let brought = Brought {
                code: &code,
                verifier: login.verifier.as_ref(),
                redirect: &login.redirect,
            };
            let by = cx.by("login");
            let done = logins::finish(http, ledger, cx.known(), (plan, brought), &by).await;
            done.map(|it| it.told).map_err(CliError::from)
        }
    };
    if let Some(mut browser) = browser {
        match &done {
            Ok(told) => answered(&mut browser, "200 OK", told).await,
            Err(e) => answered(&mut browser, "409 Conflict", &e.message).await,
        }
    }
    done
}

/// What a browser's request brings. `None`: it asks for something else.
async fn asked_for(browser: &mut TcpStream, login: &Login) -> Option<Result<Returned, String>> {
    let mut head = Vec::new();
    let read = async {
        let mut chunk = [0; 4_096];
        while !head.windows(4).any(|it| it == b"\r\n\r\n") && head.len() < HEAD_MAX {
            match browser.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(n) => head.extend_from_slice(&chunk[..n]),
            }
        }
    };
    // who is slow gets what can be read of it
    let _ = tokio::time::timeout(HEAD_WITHIN, read).await;
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next()?;
    let target = line.strip_prefix("GET ")?.split(' ').next()?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if path != login.redirect.path() {
        return None;
    }
    Some(login.returned(query).map_err(|it| it.to_string()))
}

async fn answered(browser: &mut TcpStream, status: &str, told: &str) {
    let page = page(told);
    let length = page.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {length}\r\ncontent-security-policy: {POLICY}\r\nreferrer-policy: no-referrer\r\ncache-control: no-store\r\nconnection: close\r\n\r\n{page}"
    );
    // a browser that went away has been told enough
    let _ = browser.write_all(answer.as_bytes()).await;
    let _ = browser.shutdown().await;
}

/// The browser comes back to the API's public address, where a daemon ends the login.
async fn elsewhere(
    cx: &Cx,
    ledger: &dyn Ledger,
    (plan, registered): (Plan, Option<Url>),
    http: &Http,
) -> Result<String, CliError> {
    let config = &**cx.known();
    let own = config.api.public_url.as_ref();
    let own = own.map(|it| below(it, "/v1/oauth/callback"));
    let Some(redirect) = registered.filter(|it| !is_loopback(it)).or(own) else {
        let told = "--public needs the address at which others reach this API";
        return Err(CliError::conflict(told).hint(
            "write [api] public_url = \"https://presswork.example\" in jobs.toml, and register its /v1/oauth/callback with the platform",
        ));
    };
    let login = begun(cx, &plan, redirect)?;
    let digest = logins::begin(ledger, config, &plan, &login, &cx.by("login")).await?;
    let words = format!(
        "It comes back to {}, where the daemon ends the login; or paste the whole address here that it ends at. Ten minutes are left.",
        login.redirect
    );
    shown(cx, &login, &words)?;
    let ended = match waited(cx, &login, ended(ledger, &digest)).await? {
        Came::Pasted(it) => logins::end(http, ledger, config, (&login.state, it)).await?,
        Came::Other(it) => it,
    };
    match ended.done {
        true => Ok(ended.told),
        false => Err(CliError::conflict(plain(&ended.told))),
    }
}

#[cfg(test)]
mod tests {
    use super::query;

    #[test]
    fn what_is_pasted_is_an_address_or_its_query() {
        for (line, wanted) in [
            (
                "  http://127.0.0.1:8723/callback?state=a&code=b#_=_ \n",
                "state=a&code=b",
            ),
            ("state=a&code=b", "state=a&code=b"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(query(line), wanted, "{line}");
        }
    }
}
