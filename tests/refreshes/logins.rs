//! Logins: by a browser that comes back to this machine, or to the API's public address.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use presswork::api::keyring::Keyring;
use presswork::api::{self, State as Given};
use presswork::oauth::begun::{Ended, digest};
use presswork::oauth::login::Login;
use presswork::operate::accounts::Wanted;
use presswork::operate::logins::{self, Plan};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::bench::{Host, Outside, kept, token};
use crate::kit::daemon::Home;
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
    let home = Home::new("")
        .env("USER", "ann")
        .env("APP", "sandbox-app-secret");
    home.configure(&format!(
        "[ledger]\nurl = \"sqlite:ledger.sqlite\"\n[vault]\nkeys = [{{ id = \"one\", file = \"one.key\" }}]\n[oauth.app]\nissuer = \"x\"\nclient_id = \"sandbox-app\"\nclient_secret = {{ env = \"APP\" }}\nauthorize_url = \"{}\"\ntoken_url = \"{}\"\n",
        outside.url("/issuer/authorize"),
        outside.url("/issuer/token"),
    ));
    let key = "0123456789abcdef".repeat(4);
    std::fs::write(home.path().join("one.key"), key).unwrap();
    let migrated = home.cli(&["migrate"]).await;
    assert!(migrated.status.success(), "{migrated:?}");
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
    let printed = || {
        let stdout = login.stdout();
        let line = stdout.lines().find(|it| it.starts_with("http"))?;
        Url::parse(line).ok()
    };
    wait::until("the address is printed", SOON, async || printed().is_some()).await;
    let url = printed().unwrap();
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
    let printed = || {
        let stdout = login.stdout();
        let line = stdout.lines().find(|it| it.starts_with("http"))?;
        Url::parse(line).ok()
    };
    wait::until("the address is printed", SOON, async || printed().is_some()).await;
    let back = outside.granted(&printed().unwrap()).await;
    let page = outside.open(&back).await;
    assert_eq!(page.status(), 409);
    assert!(!login.wait_exit(SOON).await.success());
    assert!(
        login.stderr().contains("access_denied"),
        "{}",
        login.stderr()
    );
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
