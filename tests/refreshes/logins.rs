//! Logins: by a browser that comes back to this machine, or to the API's public address.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use presswork::api::keyring::Keyring;
use presswork::api::{self, State as Given};
use presswork::daemon::Reloaded;
use presswork::oauth::begun::{Ended, digest};
use presswork::oauth::login::Login;
use presswork::operate::accounts::Wanted;
use presswork::operate::logins::{self, Plan};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::bench::{Host, Outside, kept, token};
use crate::kit::daemon::{Daemon, Home};
use crate::kit::port::Port;
use crate::kit::wait;
use crate::rig::{Base, somebody};

const SOON: Duration = Duration::from_secs(30);

/// The same address with another value of a parameter.
fn with(url: &Url, name: &str, value: &str) -> Url {
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let mut other = url.clone();
    other.query_pairs_mut().clear();
    for (key, was) in pairs {
        let is = if key == name { value } else { &was };
        other.query_pairs_mut().append_pair(&key, is);
    }
    other
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_by_a_browser_that_comes_back_to_this_machine() {
    let outside = Outside::new().await;
    outside.set(json!({"issuer_account": "bird"})).await;
    let home = home(&outside, "").await;
    let none = home
        .cli(&["accounts", "login", "bird", "--client", "ap"])
        .await;
    let told = String::from_utf8_lossy(&none.stderr).into_owned();
    assert_eq!(none.status.code(), Some(3), "{told}");
    assert!(told.contains("did you mean `app`"), "{told}");

    let port = Port::take();
    let number = port.number().to_string();
    let at = format!("base_url={}", outside.url("/x"));
    let login = home.start(&[
        "accounts", "login", "bird", "--client", "app", "--port", &number, "--set", &at,
    ]);
    let url = printed(&login).await;
    assert!(
        login
            .stderr()
            .contains(&format!("ssh -L {number}:127.0.0.1:{number}"))
    );
    let back = outside.granted(&url).await;
    assert_eq!(back.port(), Some(port.number()));
    // what another page sends changes nothing
    let forged = outside.open(&with(&back, "state", "another")).await;
    assert_eq!(forged.status(), 400);
    let elsewhere = outside.open(&back.join("/favicon.ico").unwrap()).await;
    assert_eq!(elsewhere.status(), 404);
    let page = outside.open(&back).await;
    assert_eq!(page.status(), 200);
    assert!(page.headers().contains_key("content-security-policy"));
    let page = page.text().await.unwrap();
    assert!(page.contains("account bird is logged in"), "{page}");
    let exit = login.wait_exit(SOON).await;
    assert!(exit.success(), "{}", login.stderr());
    let shown = home.cli(&["accounts", "show", "bird", "--json"]).await;
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(
        (
            &shown["state"],
            &shown["platform"],
            &shown["client"],
            &shown["version"]
        ),
        (&json!("ok"), &json!("x"), &json!("app"), &json!(1))
    );
    // its tokens are in nothing that was said, and in no file as they are
    let mut all = vec![login.stdout().into_bytes(), login.stderr().into_bytes()];
    for entry in std::fs::read_dir(home.path()).unwrap() {
        all.extend(std::fs::read(entry.unwrap().path()).ok());
    }
    let given = outside.acts("token.grant", "bird").await.remove(0);
    for token in ["access", "refresh"] {
        let token = given["detail"][token].as_str().unwrap().as_bytes();
        let is_in = |it: &Vec<u8>| it.windows(token.len()).any(|it| it == token);
        assert!(!all.iter().any(is_in), "a token is told, or kept as it is");
    }
    // who is refused there is told, here and there
    outside.set(json!({"issuer_denies": true})).await;
    let login = home.start(&[
        "accounts", "login", "bird", "--client", "app", "--port", &number,
    ]);
    let back = outside.granted(&printed(&login).await).await;
    let page = outside.open(&back).await;
    assert_eq!(page.status(), 409);
    assert!(!login.wait_exit(SOON).await.success());
    assert!(
        login.stderr().contains("access_denied"),
        "{}",
        login.stderr()
    );
}

/// What names the sandbox's app.
fn app(outside: &Outside) -> String {
    format!(
        "[oauth.app]\nissuer = \"x\"\nclient_id = \"sandbox-app\"\nclient_secret = {{ env = \"APP\" }}\nauthorize_url = \"{}\"\ntoken_url = \"{}\"\n",
        outside.url("/issuer/authorize"),
        outside.url("/issuer/token"),
    )
}

const LEDGER: &str = "[ledger]\nurl = \"sqlite:ledger.sqlite\"\n[vault]\nkeys = [{ id = \"one\", file = \"one.key\" }]\n";

/// A port for the API, its public address there, and the configuration that says so.
fn public_api() -> (Port, String, String) {
    let port = Port::take();
    let listen = format!("127.0.0.1:{}", port.number());
    let own = format!("http://{listen}");
    let api = format!("[api]\nlisten = \"{listen}\"\npublic_url = \"{own}\"\n");
    (port, own, api)
}

/// A folder whose app is the sandbox's, with an embedded ledger; what else its configuration says.
async fn home(outside: &Outside, more: &str) -> Home {
    let home = Home::new("")
        .env("USER", "ann")
        .env("APP", "sandbox-app-secret");
    home.configure(&[LEDGER, &app(outside), more].concat());
    let key = "0123456789abcdef".repeat(4);
    std::fs::write(home.path().join("one.key"), key).unwrap();
    let migrated = home.cli(&["migrate"]).await;
    assert!(migrated.status.success(), "{migrated:?}");
    home
}

/// The address that a login prints.
async fn printed(login: &Daemon) -> Url {
    let printed = || {
        let stdout = login.stdout();
        let line = stdout.lines().find(|it| it.starts_with("http"))?;
        Url::parse(line).ok()
    };
    wait::until("the address is printed", SOON, async || printed().is_some()).await;
    printed().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_ends_by_the_address_that_is_pasted() {
    let outside = Outside::new().await;
    outside.set(json!({"issuer_account": "bird"})).await;
    let home = home(&outside, "").await;
    let port = Port::take();
    let number = port.number().to_string();
    let at = format!("base_url={}", outside.url("/x"));
    let login = ["accounts", "login", "bird", "--client", "app", "--port"];
    let (login, mut input) = home.start_fed(&[&login[..], &[&number, "--set", &at]].concat());
    let back = outside.granted(&printed(&login).await).await;
    // what is no end of this login is told, and waited on
    let strange = with(&back, "state", "another");
    write!(input, "\n  \nnonsense\n{strange}\n").unwrap();
    let stray = || login.stderr().matches("another login").count();
    wait::until("what is strange is told", SOON, async || stray() != 0).await;
    assert_eq!(login.ended(), None, "{}", login.stderr());
    assert_eq!(outside.acts("token.grant", "bird").await.len(), 0);
    writeln!(input, "  {back}#_=_ ").unwrap();
    let exit = login.wait_exit(SOON).await;
    assert!(exit.success(), "{}", login.stderr());
    let told = login.stdout();
    assert!(
        told.contains("account bird is logged in as @bird"),
        "{told}"
    );
    assert_eq!(outside.acts("token.grant", "bird").await.len(), 1);

    // an input that ends isn't the end of the wait for a browser; somebody else is told so, here and there
    outside.set(json!({"issuer_account": "cat"})).await;
    let login = ["accounts", "login", "bird", "--client", "app", "--port"];
    let (login, input) = home.start_fed(&[&login[..], &[&number]].concat());
    drop(input);
    let back = outside.granted(&printed(&login).await).await;
    let page = outside.open(&back).await;
    assert_eq!(page.status(), 409);
    let page = page.text().await.unwrap();
    assert!(page.contains("is of @bird (id "), "{page}");
    assert_eq!(login.wait_exit(SOON).await.code(), Some(4));
    assert!(login.stderr().contains("--replace"), "{}", login.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_began_a_login_hears_how_it_ended_at_the_public_address() {
    let outside = Outside::new().await;
    outside.set(json!({"issuer_account": "bird"})).await;
    let (port, own, api) = public_api();
    let home = home(&outside, &api).await;
    let at = format!("base_url={}", outside.url("/x"));
    let public = ["accounts", "login", "bird", "--client", "app", "--public"];
    let daemon = home.start(&["run"]);
    daemon
        .wait_ready(([127, 0, 0, 1], port.number()).into(), SOON)
        .await;
    let first = home.start(&[&public[..], &["--set", &at]].concat());
    let back = outside.granted(&printed(&first).await).await;
    assert!(back.as_str().starts_with(&own), "{back}");
    assert_eq!(outside.open(&back).await.status(), 200);
    assert!(first.wait_exit(SOON).await.success(), "{}", first.stderr());
    let told = first.stdout();
    assert!(
        told.contains("account bird is logged in as @bird"),
        "{told}"
    );
    // somebody else isn't let in by the daemon either, but where who began it says so
    outside.set(json!({"issuer_account": "cat"})).await;
    let other = home.start(&public);
    let back = outside.granted(&printed(&other).await).await;
    assert_eq!(outside.open(&back).await.status(), 409);
    assert_eq!(other.wait_exit(SOON).await.code(), Some(4));
    assert!(
        other.stderr().contains("of @cat (id "),
        "{}",
        other.stderr()
    );
    // where no browser reaches the daemon, the address is pasted, and good once
    let (pasted, mut input) = home.start_fed(&[&public[..], &["--replace"]].concat());
    let back = outside.granted(&printed(&pasted).await).await;
    writeln!(input, "{back}").unwrap();
    assert!(
        pasted.wait_exit(SOON).await.success(),
        "{}",
        pasted.stderr()
    );
    let told = pasted.stdout();
    assert!(told.contains("account bird is logged in as @cat"), "{told}");
    assert_eq!(outside.open(&back).await.status(), 404);
    daemon.signal("TERM");
    assert!(daemon.wait_exit(SOON).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_reloaded_ends_logins_and_renews() {
    let outside = Outside::new().await;
    // due soon
    outside
        .set(json!({"issuer_account": "bird", "issuer_access_s": 6}))
        .await;
    let (port, _, api) = public_api();
    let home = home(&outside, &api).await;
    let at = format!("base_url={}", outside.url("/x"));
    let public = ["accounts", "login", "bird", "--client", "app", "--public"];
    let public = [&public[..], &["--set", &at]].concat();
    home.configure(&[LEDGER, &api].concat());
    let daemon = home.start(&["run"]);
    daemon
        .wait_ready(([127, 0, 0, 1], port.number()).into(), SOON)
        .await;
    // who begins a login knows the app already; the daemon doesn't before it is told
    home.configure(&[LEDGER, &app(&outside), &api].concat());
    let early = home.start(&public);
    let back = outside.granted(&printed(&early).await).await;
    let page = outside.open(&back).await;
    assert_eq!(page.status(), 409);
    assert!(page.text().await.unwrap().contains("no [oauth.app]"));
    assert_eq!(early.wait_exit(SOON).await.code(), Some(4));
    assert_eq!(outside.acts("token.grant", "bird").await.len(), 0);

    daemon.signal("HUP");
    let folder = home.path().join(".presswork");
    let reloaded = || Reloaded::last(&folder).is_some_and(|it| it.pid == daemon.pid());
    wait::until("it is reloaded", SOON, async || reloaded()).await;
    assert_eq!(Reloaded::last(&folder).unwrap().error, None);
    let login = home.start(&public);
    let back = outside.granted(&printed(&login).await).await;
    assert_eq!(outside.open(&back).await.status(), 200);
    assert!(login.wait_exit(SOON).await.success(), "{}", login.stderr());
    wait::until("the daemon renews its token", SOON, async || {
        !outside.acts("token.refresh", "bird").await.is_empty()
    })
    .await;
    daemon.signal("TERM");
    assert!(daemon.wait_exit(SOON).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_ends_once_at_the_public_address_by_who_brings_its_state() {
    for base in Base::both().await {
        let outside = Outside::new().await;
        outside.set(json!({"issuer_account": "bird"})).await;
        let host = Host::new(&base, &outside, vec![]).await;
        let stop = CancellationToken::new();
        let given = Given {
            doors: host.rig.doors.clone(),
            shared: host.rig.shared.clone(),
            ledger: base.ledger.clone(),
            keyring: Arc::new(Keyring::new(base.ledger.clone())),
            render: Arc::new(String::new),
        };
        let listen = "127.0.0.1:0".parse().unwrap();
        let serving = api::serve(listen, None, given, stop.clone()).await.unwrap();
        let redirect: Url = format!("http://{}/v1/oauth/callback", serving.addr)
            .parse()
            .unwrap();
        let config = host.rig.shared.config.load_full();
        let begun = async |replaces| {
            let wanted = Wanted {
                tenant: Some("acme".to_owned()),
                settings: match base.ledger.account("bird").await.unwrap() {
                    Some(_) => BTreeMap::new(),
                    None => {
                        let url = outside.url("/x").to_string();
                        BTreeMap::from([("base_url".to_owned(), url)])
                    }
                },
                ..Wanted::default()
            };
            let ledger = &*base.ledger;
            let plan = logins::plan(ledger, &config, ("bird", "app"), wanted).await;
            let plan = Plan {
                replaces,
                ..plan.unwrap()
            };
            let login = Login::begin(&outside.app(), redirect.clone()).unwrap();
            let by = somebody();
            let begun = logins::begin(ledger, &config, &plan, &login, &by).await;
            assert_eq!(begun.unwrap(), digest(&login.state));
            login
        };
        let login = begun(false).await;
        let back = outside.granted(&login.url).await;
        for (strange, status) in [
            (redirect.clone(), 400),
            (with(&back, "code", ""), 400),
            (with(&back, "state", "another"), 404),
        ] {
            assert_eq!(outside.open(&strange).await.status(), status, "{strange}");
        }
        // a preview of the address ends nothing
        assert_eq!(outside.peek(&back).await.status(), 405);
        assert_eq!(base.ledger.account("bird").await.unwrap(), None);
        let page = outside.open(&back).await;
        let policy = page.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'"), "{policy}");
        let status = page.status();
        let told = page.text().await.unwrap();
        assert_eq!(status, 200, "{told}");
        assert!(told.contains("account bird is logged in"), "{told}");
        let it = kept(&base, "bird").await;
        assert_eq!(it.tenant.as_deref(), Some("acme"));
        assert_eq!(it.created_by, somebody().actor);
        assert!(outside.takes(&token(&it)).await);
        let end = base.ledger.login_end(&digest(&login.state)).await.unwrap();
        assert!(end.unwrap().done);
        // it was good once
        assert_eq!(outside.open(&back).await.status(), 404);
        // who is refused is told, and so is who began it
        outside.set(json!({"issuer_denies": true})).await;
        let login = begun(true).await;
        let back = outside.granted(&login.url).await;
        assert_eq!(outside.open(&back).await.status(), 409);
        let end = base.ledger.login_end(&digest(&login.state)).await.unwrap();
        let Some(Ended { done: false, told }) = end else {
            panic!("{end:?}");
        };
        assert!(told.contains("access_denied"), "{told}");
        assert_eq!(kept(&base, "bird").await.version, 1);
        // nor is somebody else let in, unless who began it said so
        for (replaces, status, says) in [
            (false, 409, "of @cat (id "),
            (true, 200, "account bird is logged in as @cat"),
        ] {
            outside.set(json!({"issuer_account": "cat"})).await;
            let login = begun(replaces).await;
            let page = outside.open(&outside.granted(&login.url).await).await;
            let (is, told) = (page.status(), page.text().await.unwrap());
            assert!(is == status && told.contains(says), "{is}: {told}");
            let end = base.ledger.login_end(&digest(&login.state)).await.unwrap();
            assert_eq!(end.unwrap().done, replaces);
            let it = kept(&base, "bird").await;
            assert_eq!(it.version, 1 + i64::from(replaces));
            let whom = if replaces { "cat" } else { "bird" };
            assert_eq!(it.person.unwrap().name, whom);
        }
        stop.cancel();
        let _ = tokio::time::timeout(SOON, serving.task).await;
    }
}
