//! `presswork check --ping`: each account's platform is asked, and what is wrong is told with advice.

mod kit;

use std::net::SocketAddr;

use kit::daemon::Home;
use kit::port::Port;
use presswork::sandbox::{Options, Sandbox};
use serde_json::Value;

async fn sandbox(folder: &std::path::Path) -> Sandbox {
    let options = Options {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        dir: folder.to_owned(),
        seed: None,
        fault_rate: 0.0,
        requests: false,
    };
    Sandbox::start(options).await.expect("the sandbox starts")
}

fn account(name: &str, platform: &str, url: &str) -> String {
    let more = match platform {
        "bluesky" => format!("identifier = \"{name}.test\"\n"),
        "instagram" => "identifier = \"me\"\n".to_owned(),
        _ => String::new(),
    };
    let variable = name.to_uppercase();
    format!(
        "[accounts.{name}]\nplatform = \"{platform}\"\nbase_url = \"{url}\"\n{more}secret = {{ env = \"{variable}\" }}\n"
    )
}

const HEAD: &str = "[ledger]\nurl = \"sqlite:ledger.sqlite\"\n[api]\nlisten = \"off\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn every_account_is_asked_as_itself() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = sandbox(folder.path()).await;
    let url = sandbox.url();
    let config = [
        account("studio", "openai", &format!("{url}/openai/v1")),
        account("alice", "mastodon", &format!("{url}/mastodon")),
        account("bella", "bluesky", &format!("{url}/bluesky")),
        account("xenia", "x", &format!("{url}/x")),
        account("iris", "instagram", &format!("{url}/instagram")),
    ];
    let home = Home::new(&(HEAD.to_owned() + &config.concat()))
        .env("XENIA", "sandbox-xenia")
        .env("IRIS", "sandbox-iris")
        .env("STUDIO", "sandbox-studio")
        .env("ALICE", "sandbox-alice")
        .env("BELLA", "sandbox-bella");
    let output = home.cli(&["check", "--ping"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    for told in [
        "ok     accounts.alice",
        "ok: mastodon takes it: @alice",
        "ok: bluesky takes it: @bella.test",
        "ok: openai takes it: ",
        "ok: x takes it: @xenia",
        "ok: instagram takes it: @iris",
    ] {
        assert!(
            said.replace("ok       ", "ok     ").contains(told),
            "{told} in {said}"
        );
    }
    // it changes nothing outside
    let acts = fetched(&format!("{url}/_sandbox/acts")).await;
    assert_eq!(acts.trim(), "[]", "{acts}");
    assert!(!said.contains("sandbox-alice"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_account_is_told_with_advice_and_without_its_secret() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = sandbox(folder.path()).await;
    let url = sandbox.url();
    let nobody = Port::take();
    let config = [
        account("studio", "openai", &format!("{url}/openai/v1")),
        account("alice", "mastodon", &format!("{url}/mastodon")),
        account("bella", "bluesky", &format!("{url}/bluesky")),
        account(
            "away",
            "mastodon",
            &format!("http://127.0.0.1:{}", nobody.number()),
        ),
        account("lost", "mastodon", &format!("{url}/nowhere")),
        account("good", "mastodon", &format!("{url}/mastodon")),
    ];
    let home = Home::new(&(HEAD.to_owned() + &config.concat()))
        .env("STUDIO", "wrong-key-of-studio")
        .env("ALICE", "sandbox-expired-alice")
        .env("BELLA", "wrong-password-of-bella")
        .env("AWAY", "sandbox-away")
        .env("LOST", "sandbox-lost")
        .env("GOOD", "sandbox-good");
    let output = home.cli(&["check", "--ping", "--json"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let finding = |name: &str| {
        let all = told["findings"].as_array().expect("findings");
        let of = |it: &&Value| it["what"] == format!("accounts.{name}");
        all.iter()
            .find(of)
            .unwrap_or_else(|| panic!("{name} in {told}"))
    };
    for (name, word, advice) in [
        (
            "studio",
            "unauthorised",
            "accounts.studio.secret (jobs.toml:",
        ),
        ("alice", "unauthorised", "accounts.alice.secret (jobs.toml:"),
        ("bella", "unauthorised", "`presswork reload`"),
        ("away", "unreachable", "accounts.away.base_url (jobs.toml:"),
        ("lost", "unfit", "the address of a mastodon server?"),
        ("good", "ok", "@good"),
    ] {
        let it = finding(name);
        assert_eq!(it["account"], word, "{it}");
        assert!(
            it["message"].as_str().expect("a text").contains(advice),
            "{it}"
        );
    }
    let people = home.cli(&["check", "--ping"]).await;
    let all = format!("{told}{people:?}");
    for secret in ["key-of-studio", "expired-alice", "password-of-bella"] {
        assert!(!all.contains(secret), "{all}");
    }
    // offline and ping contradict each other
    let both = home.cli(&["check", "--ping", "--offline"]).await;
    assert_eq!(both.status.code(), Some(2));
    // a store that is away weighs more than an account
    let away = config.concat() + "[ledger]\nurl = \"postgres://127.0.0.1:1/none\"\n";
    home.configure(&away);
    assert_eq!(home.cli(&["check", "--ping"]).await.status.code(), Some(5));
}

async fn fetched(url: &str) -> String {
    // another test of this process may have installed it
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(url).await.expect("the sandbox answers");
    answer.text().await.expect("the sandbox answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn pasted_credentials_are_compared_with_who_the_account_is() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = sandbox(folder.path()).await;
    let home = Home::new(&format!(
        "{HEAD}[vault]\nkeys = [{{ id = \"one\", env = \"KEY\" }}]\n"
    ))
    .env("KEY", &"0123456789abcdef".repeat(4));
    let run = async |args: &[&str], input: &str| {
        let output = home.cli_with_input(args, input).await;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.code().unwrap(), said)
    };
    let (exit, told) = run(&["migrate"], "").await;
    assert_eq!(exit, 0, "{told}");
    // of each platform that tells who somebody is: which, with what else, as whom, by which name
    for (platform, more, [ann, bob]) in [
        ("mastodon", None, ["ann", "bob"]),
        ("x", None, ["ann", "bob"]),
        ("instagram", Some("identifier=me"), ["ann", "bob"]),
    ] {
        let at = format!("base_url={}/{platform}", sandbox.url());
        let mut add = vec!["accounts", "add", platform, "--platform", platform];
        add.extend(["--set", &at]);
        add.extend(more.into_iter().flat_map(|it| ["--set", it]));
        let secret = |whom: &str| format!("sandbox-{whom}");
        let (exit, told) = run(&add, &secret(ann)).await;
        assert_eq!(exit, 0, "{told}");
        let shown = async || {
            let (_, told) = run(&["accounts", "show", platform, "--json"], "").await;
            serde_json::from_str::<Value>(&told).unwrap()
        };
        // nobody knows who it is before it was asked about
        assert_eq!(shown().await["person"], Value::Null);
        let test = ["accounts", "test", platform, "--json"];
        let (exit, told) = run(&test, "").await;
        assert!(exit == 0 && told.contains("\"works\": true"), "{told}");
        let first = shown().await["person"].clone();
        assert_eq!(first["name"], ann, "{platform}");
        let renew = ["accounts", "renew", platform];
        let (exit, told) = run(&renew, &secret(bob)).await;
        assert!(exit == 4 && told.contains("of @bob (id "), "{told}");
        assert!(told.contains("is of @ann (id "), "{told}");
        assert_eq!(shown().await["version"], 1);
        let (exit, told) = run(&renew, &secret(ann)).await;
        assert_eq!(exit, 0, "{told}");
        assert_eq!(shown().await["person"], first);
        let insisting = [&renew[..], &["--replace"]].concat();
        let (exit, told) = run(&insisting, &secret(bob)).await;
        assert_eq!(exit, 0, "{told}");
        let is = shown().await;
        assert_eq!(
            (&is["person"]["name"], &is["version"]),
            (&bob.into(), &3.into())
        );
        assert_ne!(is["person"]["id"], first["id"]);
        let (_, told) = run(&["accounts", "show", platform], "").await;
        assert!(told.contains("@bob (id "), "{told}");
    }
}
