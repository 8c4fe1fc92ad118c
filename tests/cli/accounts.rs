//! `presswork accounts` over the embedded ledger: added, looked at, stopped, renewed, encrypted anew,
//! forgotten; and no file holds what was pasted.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{code, said};
use crate::kit::daemon::Home;
use crate::kit::wait;

const TOKEN: &str = "a-token-that-is-nowhere-7f3a";
const RENEWED: &str = "another-one-that-is-nowhere-91bc";

fn configured(home: &Home, keys: &str) {
    home.configure(&format!(
        "[ledger]\nurl = \"sqlite:ledger.sqlite\"\n[vault]\nkeys = [{keys}]\n\
         [accounts.filed]\nplatform = \"x\"\nsecret = {{ env = \"FILED\" }}\n"
    ));
}

/// What a command says as JSON, which goes well.
async fn json(home: &Home, args: &[&str], input: &str) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let output = home.cli_with_input(&args, input).await;
    let (told, wrong) = (said(&output.stdout), said(&output.stderr));
    assert_eq!(code(&output), 0, "{args:?}: {told}{wrong}");
    serde_json::from_str(&told).unwrap_or(Value::Null)
}

/// What a command says that is refused, and its exit code.
async fn refused(home: &Home, args: &[&str], input: &str) -> (i32, String) {
    let output = home.cli_with_input(args, input).await;
    (code(&output), said(&output.stderr))
}

async fn key(home: &Home, name: &str) {
    let output = home.cli(&["accounts", "new-key"]).await;
    assert_eq!(code(&output), 0, "{}", said(&output.stderr));
    std::fs::write(home.path().join(name), &output.stdout).expect("a key can be written");
}

/// Whether any file below a folder holds these bytes.
fn anywhere(folder: &Path, bytes: &[u8]) -> Option<String> {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if let Some(found) = anywhere(&path, bytes) {
                return Some(found);
            }
        } else if let Ok(held) = std::fs::read(&path)
            && held.windows(bytes.len()).any(|it| it == bytes)
        {
            return Some(path.display().to_string());
        }
    }
    None
}

#[tokio::test]
async fn what_is_pasted_at_a_terminal_is_not_shown() {
    let home = Home::new("");
    configured(&home, "{ id = \"one\", file = \"one.key\" }");
    let home = home.env("FILED", "the-files-own-token");
    key(&home, "one.key").await;
    json(&home, &["migrate"], "").await;
    // the terminal shows what is typed before and after: `head` says it once more
    let (terminal, mut input) = home.start_at_terminal(&ADD, "head -n 1");
    let shows = async |what: &str, times: usize| {
        let told = || format!("{times} x {what}: {}", terminal.stdout());
        wait::until_or(told, SOON, async || {
            times <= terminal.stdout().matches(what).count()
        })
        .await;
    };
    shows("Secret: ", 1).await;
    writeln!(input, "{TOKEN}").expect("it is typed");
    shows("account news is in the ledger", 1).await;
    writeln!(input, "typed-afterwards").expect("it is typed");
    shows("typed-afterwards", 2).await;
    drop(input);
    terminal.wait_exit(SOON).await;
    assert!(!terminal.stdout().contains(TOKEN), "{}", terminal.stdout());
    assert_eq!(anywhere(home.path(), TOKEN.as_bytes()), None);
    let shown = json(&home, &["accounts", "show", "news"], "").await;
    assert_eq!(shown["version"], 1);
}

const SOON: Duration = Duration::from_secs(30);
const ADD: [&str; 7] = [
    "accounts",
    "add",
    "news",
    "--platform",
    "mastodon",
    "--set",
    "base_url=https://mastodon.example",
];

#[tokio::test]
async fn an_account_is_kept_sealed_stopped_renewed_and_forgotten() {
    let home = Home::new("")
        .env("USER", "ann")
        .env("FILED", "the-files-own-token");
    home.configure("[ledger]\nurl = \"sqlite:ledger.sqlite\"\n");
    json(&home, &["migrate"], "").await;
    let (exit, told) = refused(&home, &ADD, TOKEN).await;
    assert_eq!(exit, 4, "{told}");
    assert!(told.contains("new-key"), "{told}");
    let (one, two) = (
        "{ id = \"one\", file = \"one.key\" }",
        "{ id = \"two\", file = \"two.key\" }",
    );
    // a key is made whether the configuration names it already or not
    configured(&home, one);
    for name in ["one.key", "two.key"] {
        key(&home, name).await;
    }

    // what doesn't fit together isn't kept
    for (args, input, exit, says) in [
        (&["--tenant", "a b"][..], TOKEN, 4, "a tenant's name"),
        (&["--set", "bas_url=x"], TOKEN, 4, "did you mean `base_url`"),
        (&["--set", "secret=x"], TOKEN, 4, "is a secret"),
        (&[], "", 2, "there are no credentials"),
        (&["--secret-env", "NONE"], "", 2, "NONE isn't set"),
    ] {
        let (is, told) = refused(&home, &[&ADD[..], args].concat(), input).await;
        assert!(is == exit && told.contains(says), "{args:?}: {is} {told}");
    }
    let filed = ["accounts", "add", "filed", "--platform", "x"];
    let (exit, told) = refused(&home, &filed, TOKEN).await;
    assert!(exit == 4 && told.contains("jobs.toml"), "{told}");

    let tenant = [
        "--tenant",
        "acme",
        "--label",
        "the shop",
        "--expires",
        "60d",
    ];
    let added = json(&home, &[&ADD[..], &tenant].concat(), TOKEN).await;
    assert_eq!(
        (&added["state"], &added["key"]),
        (&"ok".into(), &"one".into())
    );
    let (exit, told) = refused(&home, &ADD, TOKEN).await;
    assert!(exit == 4 && told.contains("renew"), "{told}");
    let all = json(&home, &["accounts", "list"], "").await;
    let names: Vec<(&Value, &Value)> = all
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| (&it["name"], &it["home"]))
        .collect();
    assert_eq!(
        names,
        [
            (&"filed".into(), &"jobs.toml".into()),
            (&"news".into(), &"ledger".into())
        ]
    );
    let shown = json(&home, &["accounts", "show", "news"], "").await;
    assert_eq!(shown["tenant"], "acme");
    assert_eq!(shown["settings"]["base_url"], "https://mastodon.example");
    assert_eq!(shown["created_by"], "ann");
    assert!(!shown["expires_at"].is_null() && shown["version"] == 1);
    let (exit, told) = refused(&home, &["accounts", "show", "nws"], "").await;
    assert!(exit == 3 && told.contains("did you mean `news`"), "{told}");

    // jobs of its tenant name it; to others it is like one that isn't there
    let enqueue = ["enqueue", "post.mastodon", "--payload", "{\"text\": \"a\"}"];
    let of = |account, tenant| [&enqueue[..], &["--account", account, "--tenant", tenant]].concat();
    let (exit, hidden) = refused(&home, &of("news", "zoo"), "").await;
    assert_eq!(exit, 2, "{hidden}");
    let (_, none) = refused(&home, &of("nope", "zoo"), "").await;
    assert_eq!(hidden, none.replace("nope", "news"));
    json(&home, &of("news", "acme"), "").await;
    let (exit, told) = refused(&home, &["accounts", "remove", "news"], "").await;
    assert!(exit == 4 && told.contains("--force"), "{told}");

    // stopped and let go on, of either home; a stop of it is the same
    for name in ["news", "filed"] {
        let paused = json(
            &home,
            &["accounts", "pause", name, "--reason", "holidays"],
            "",
        )
        .await;
        assert_eq!(
            (&paused["state"], &paused["why"], &paused["changed"]),
            (&"paused".into(), &"holidays".into(), &true.into())
        );
        let stops = json(&home, &["stop", "--list"], "").await;
        assert_eq!(stops[0]["scope"]["account"], name, "{stops}");
        let resumed = json(&home, &["accounts", "resume", name], "").await;
        assert_eq!(
            (&resumed["state"], &resumed["changed"]),
            (&"ok".into(), &true.into())
        );
        let resumed = json(&home, &["accounts", "resume", name], "").await;
        assert_eq!(resumed["changed"], false);
        assert_eq!(
            json(&home, &["stop", "--list"], "").await,
            serde_json::json!([])
        );
        json(&home, &["accounts", "pause", name], "").await;
        json(&home, &["go", "--account", name], "").await;
        let shown = json(&home, &["accounts", "show", name], "").await;
        assert_eq!(shown["state"], "ok", "{name}");
    }

    let renewed = json(&home, &["accounts", "renew", "news"], RENEWED).await;
    assert_eq!(
        (&renewed["version"], &renewed["expires_at"]),
        (&2.into(), &Value::Null)
    );
    let (exit, told) = refused(&home, &["accounts", "renew", "filed"], RENEWED).await;
    assert!(exit == 4 && told.contains("presswork reload"), "{told}");

    // another key in front: what was encrypted with the old one is encrypted anew
    configured(&home, &format!("{two}, {one}"));
    let rotated = json(&home, &["accounts", "rotate-keys"], "").await;
    assert_eq!(
        (&rotated["key"], &rotated["rotated"], &rotated["unused"]),
        (
            &"two".into(),
            &serde_json::json!(["news"]),
            &serde_json::json!(["one"])
        )
    );
    let again = json(&home, &["accounts", "rotate-keys"], "").await;
    assert_eq!(
        (&again["rotated"], &again["before"]),
        (&serde_json::json!([]), &1.into())
    );
    // without its key it is known, told, and used by nobody here
    configured(&home, one);
    let shown = json(&home, &["accounts", "show", "news"], "").await;
    assert!(
        shown["problem"]
            .as_str()
            .expect("why")
            .contains("the key `two`"),
        "{shown}"
    );
    let (exit, told) = refused(&home, &["accounts", "test", "news"], "").await;
    assert!(exit == 4 && told.contains("the key `two`"), "{told}");
    let output = home.cli(&["accounts", "rotate-keys", "--json"]).await;
    assert_eq!(code(&output), 1, "{}", said(&output.stdout));

    // nothing of them is in any file: not as they are, nor in another spelling
    for secret in [TOKEN, RENEWED] {
        let digits: String = secret.bytes().map(|it| format!("{it:02x}")).collect();
        for bytes in [secret, &digits, &digits.to_uppercase()] {
            assert_eq!(anywhere(home.path(), bytes.as_bytes()), None);
        }
    }
    assert!(
        anywhere(home.path(), b"mastodon.example").is_some(),
        "files were looked through"
    );

    json(&home, &["accounts", "remove", "news", "--force"], "").await;
    let (exit, _) = refused(&home, &["accounts", "show", "news"], "").await;
    assert_eq!(exit, 3);
    let (exit, told) = refused(&home, &["accounts", "remove", "filed"], "").await;
    assert!(exit == 4 && told.contains("jobs.toml"), "{told}");
}
