//! What the configuration promises: the file as it is shipped, and what is said about bad ones.

use std::path::Path;

use secrecy::ExposeSecret as _;

use super::keys::{OTHER_VARIABLES, SECTIONS, Shape, section};
use super::words::PLATFORMS;
use super::*;
use crate::retry::Policy;
use crate::telemetry::Format;

const SHIPPED: &str = include_str!("../../jobs.toml");

fn none(_: &str) -> Option<String> {
    None
}

fn good(text: &str) -> Config {
    Config::parse(text, None, &none).unwrap_or_else(|e| panic!("{e}"))
}

fn bad(text: &str) -> String {
    Config::parse(text, Some(Path::new("jobs.toml")), &none)
        .map(|_| ())
        .unwrap_err()
        .to_string()
}

fn values(config: &Config) -> Vec<(String, String)> {
    let all = config.effective().into_iter();
    all.map(|(key, value, _)| (key, value)).collect()
}

/// A signing secret of the right form.
const WEBHOOK: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[test]
fn a_signing_secret_has_its_form_and_its_platform() {
    let read = |platform: &str, secret: &str| {
        let text = format!(
            "[accounts.a]\nplatform = \"{platform}\"\nbase_url = \"https://example.com\"\n\
             identifier = \"me\"\nsecret = {{ env = \"KEY\" }}\nwebhook_secret = {{ env = \"HOOK\" }}\n"
        );
        let env = |name: &str| match name {
            "KEY" => Some("a-long-enough-key".to_owned()),
            "HOOK" => Some(secret.to_owned()),
            _ => None,
        };
        Config::parse(&text, None, &env).map_err(|e| e.to_string())
    };
    let good = read("openai", WEBHOOK).unwrap();
    let shown = ("accounts.a.webhook_secret".to_owned(), "***".to_owned());
    assert!(values(&good).contains(&shown));
    for (secret, said) in [
        ("sk-0123456789abcdef0123456789", "doesn't begin with whsec_"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "isn't base64"),
        ("whsec_MfKQ9r8GKYqrTwjU", "24 to 64 bytes"),
    ] {
        let e = read("openai", secret).unwrap_err();
        assert!(e.contains(said) && !e.contains(secret), "{e}");
    }
    let e = read("mastodon", WEBHOOK).unwrap_err();
    assert!(e.contains("is for openai and http only"), "{e}");
}

#[test]
fn the_shipped_file_says_the_defaults() {
    let shipped = good(SHIPPED);
    assert_eq!(values(&shipped), values(&good("")));
    assert_eq!(
        values(&shipped),
        values(&Config::default_embedded(Path::new(".presswork")))
    );
}

#[test]
fn the_shipped_file_names_every_key_and_only_known_ones() {
    // with the examples uncommented too: the whole must be valid, and no key may be missing
    let key = |it: &str| {
        it.split_once(" = ")
            .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    let mut full = String::new();
    for line in SHIPPED.lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let example = line.starts_with('#')
            && !bare.starts_with("url = ")
            && (key(bare) || bare.starts_with('['));
        full.push_str(if example { bare } else { line });
        full.push('\n');
    }
    let env = |_: &str| Some("a-long-enough-value-of-a-variable".to_owned());
    let overlaid = |name: &str| match name {
        name if name.starts_with("PRESSWORK_") => None,
        "CREDENTIALS_DIRECTORY" => None,
        "OPENAI_WEBHOOK_SECRET" => Some(WEBHOOK.to_owned()),
        name if name.starts_with("RENDER_") => Some(WEBHOOK.to_owned()),
        name => env(name),
    };
    let errors = Config::parse(&full, None, &overlaid)
        .unwrap_err()
        .to_string();
    let lines: Vec<&str> = errors.lines().collect();
    assert_eq!(
        lines.len(),
        3,
        "only the files of secrets are missing:\n{errors}"
    );
    assert!(errors.contains("bluesky-app-password") && errors.contains("CREDENTIALS_DIRECTORY"));
    for section in SECTIONS {
        for key in section.keys {
            let found = full
                .split("\n[")
                .filter(|it| it.starts_with(section.name))
                .any(|it| {
                    it.lines()
                        .any(|line| line.starts_with(&format!("{} = ", key.name)))
                });
            assert!(
                found,
                "jobs.toml says nothing of {}.{}",
                section.name, key.name
            );
        }
    }
}

#[test]
fn the_example_environment_names_every_key_that_it_may_say() {
    let text = include_str!("../../.env.example");
    let named: Vec<&str> = text
        .lines()
        .filter_map(|it| it.strip_prefix("#PRESSWORK_")?.split_once('='))
        .map(|(name, _)| name)
        .collect();
    for name in keys::variables()
        .filter(|it| !["PRESSWORK_CRASH", "PRESSWORK_SPECS"].contains(&it.as_str()))
    {
        assert!(named.contains(&&name["PRESSWORK_".len()..]), "{name}");
    }
    assert_eq!(named.len(), keys::variables().count() - 2);
    assert_eq!(OTHER_VARIABLES.len(), 5);
}

#[test]
fn the_built_in_defaults() {
    let config = good("");
    assert_eq!(
        (
            config.lease.as_secs(),
            config.drain.as_secs(),
            config.window
        ),
        (30, 25, 10_000)
    );
    assert_eq!(config.backlog_max, 1_000_000);
    assert_eq!(config.keep_finished.as_secs(), 30 * 86_400);
    assert_eq!(config.api.listen.unwrap().to_string(), "127.0.0.1:8787");
    assert_eq!(config.resp, None);
    assert_eq!(
        config.lanes["openai"],
        Lane {
            concurrency: Some(8),
            ..Lane::default()
        }
    );
    assert_eq!(
        config.lanes["default"],
        Lane {
            concurrency: None,
            room: 256,
            waits_at_most: std::time::Duration::from_secs(600),
        }
    );
    assert!(
        matches!(&config.ledger, Store::Sqlite(it) if it == Path::new(".presswork/ledger.sqlite"))
    );
    assert!(matches!(config.queue, Store::Memory));
    let Shape::Word { of, .. } = section("daemon").key("log_format").unwrap().shape else {
        panic!()
    };
    assert_eq!(
        of,
        Format::ALL.iter().map(|it| it.as_str()).collect::<Vec<_>>()
    );
    for platform in PLATFORMS
        .into_iter()
        .filter(|it| !["mastodon", "http"].contains(it))
    {
        let of_bucket =
            "bucket = \"b\"\nregion = \"eu-central-1\"\naccess_key_id = { env = \"S\" }\n";
        let secret = "secret = { env = \"S\" }\n";
        let more = match platform {
            "folder" => "folder = \"/srv/a b\"\n".to_owned(),
            "s3" | "gcs" => format!("{secret}{of_bucket}"),
            _ => format!("identifier = \"i\"\n{secret}"),
        };
        let text = format!("[accounts.a]\nplatform = \"{platform}\"\n{more}");
        let env = |name: &str| (name == "S").then(|| "long enough".to_owned());
        let config = Config::parse(&text, None, &env).unwrap();
        let base_url = config.accounts["a"].base_url.as_str();
        match platform {
            "folder" => assert_eq!(base_url, "file:///srv/a%20b/"),
            "s3" => assert_eq!(base_url, "https://s3.eu-central-1.amazonaws.com/"),
            _ => assert!(base_url.starts_with("https://"), "{base_url}"),
        }
        let shown = values(&config);
        assert!(shown.iter().all(|it| !it.1.contains("long enough")));
    }
}

#[test]
fn buckets_and_folders_say_what_they_need_and_nothing_else() {
    let told = |more: &str| {
        let text = format!("[accounts.a]\n{more}");
        let env = |name: &str| (name == "S").then(|| "long enough".to_owned());
        let e = Config::parse(&text, None, &env).map(|_| ()).unwrap_err();
        e.to_string()
    };
    let bare = told("platform = \"s3\"\n");
    for key in ["base_url", "bucket", "access_key_id", "secret"] {
        let missing = format!("accounts.a.{key}: is missing");
        assert!(bare.contains(&missing), "{bare}");
    }
    let literal = told("platform = \"gcs\"\nbucket = \"a/b\"\naccess_key_id = \"AKIAIOSFODNN7\"\n");
    assert!(
        literal.contains("a secret doesn't stand in the file"),
        "{literal}"
    );
    assert!(
        literal.contains("belong into a payload's `key`"),
        "{literal}"
    );
    assert!(!literal.contains("AKIA"), "{literal}");
    let relative = told("platform = \"folder\"\nfolder = \"films\"\nsecret = { env = \"S\" }\n");
    assert!(relative.contains("a path from the root on"), "{relative}");
    assert!(relative.contains("means nothing to a folder"), "{relative}");
    let stray = told("platform = \"openai\"\nsecret = { env = \"S\" }\nbucket = \"b\"\n");
    assert!(stray.contains("is for s3 and gcs only"), "{stray}");
}

#[test]
fn tenants_are_names_each_once_and_few() {
    assert_eq!(good("").tenants, [""; 0]);
    let config = good("[inbox]\ntenants = \"acme,  zoo,a.b:c\"\n");
    assert_eq!(config.tenants, ["acme", "zoo", "a.b:c"]);
    let shown = ("inbox.tenants".to_owned(), "acme, zoo, a.b:c".to_owned());
    assert!(values(&config).contains(&shown));
    assert_eq!(good("").fixed_since(&config), ["inbox.tenants"]);
    let said = |name: &str| (name == "PRESSWORK_INBOX_TENANTS").then(|| "kiosk".to_owned());
    let over = Config::parse("[inbox]\ntenants = \"acme\"\n", None, &said).unwrap();
    assert_eq!(over.tenants, ["kiosk"]);
    let many: Vec<String> = (0..101).map(|n| format!("t{n}")).collect();
    for (said, told) in [
        ("acme,,zoo", "`` is none"),
        ("ac me", "`ac me` is none"),
        ("a*", "`a*` is none"),
        ("a{b}", "`a{b}` is none"),
        ("acme, zoo, acme", "`acme` is there twice"),
        (&many.join(","), "at most 100 tenants"),
    ] {
        let wrong = bad(&format!("[inbox]\ntenants = \"{said}\"\n"));
        assert!(
            wrong.contains("inbox.tenants") && wrong.contains(told),
            "{said}: {wrong}"
        );
    }
}

#[test]
fn a_policy_is_filled_from_retry() {
    let config =
        good("[retry]\nattempts = 3\n[kinds.\"a.b\"]\nbase_ms = 7\n[kinds.c]\nlane = \"default\"");
    let base = Policy {
        attempts_max: 3,
        ..Policy::default()
    };
    assert_eq!(config.retry, Some(base));
    assert_eq!(
        config.kinds["a.b"].retry,
        Some(Policy { base_ms: 7, ..base })
    );
    assert_eq!(config.kinds["c"].retry, None);
    assert_eq!(good("").retry, None);
}

const BAD: &str = r#"lease_s = 3
[daemon]
lease_s = 0
drain = 5
log = "debgu"
log_format = "jsno"
[queue]
url = "redis://:hunter2hunter2@h/0"
window = "10k"
[api]
listen = "0.0.0.0:8787"
[resp]
listen = "[::]:6380"
[keep]
finished_days = "2w"
keys_days = -1
[lane.x]
[kinds."post.mastodon"]
lane = "mastodn"
base_ms = 5000
cap_ms = 100
[kinds.post.bluesky]
timeout_s = "5m"
[accounts.news]
platform = "mastadon"
base_url = "http://mastodon.example"
secret = "sk-literal-secret"
[accounts.sky]
platform = "bluesky"
secret = { evn = "X" }
[models.m]
input_micros_per_mtok = -2.5
output_micros_per_mtok = -3
"#;

const TOLD: &str = include_str!("bad.golden");

#[test]
fn every_mistake_is_told_at_once_with_its_place_and_what_to_write() {
    let told = bad(BAD);
    for secret in ["hunter2", "sk-literal-secret"] {
        assert!(!told.contains(secret), "{told}");
    }
    assert_eq!(
        told,
        TOLD.trim_end(),
        "the messages changed; they are now:\n{told}\n"
    );
}

#[test]
fn what_is_no_toml_is_told_with_its_place() {
    let told = bad("[daemon]\nlease_s = \n[queue\n");
    assert!(told.starts_with("jobs.toml:2:"), "{told}");
    assert!(bad("[api]\nlisten = \"a\"\nlisten = \"b\"").starts_with("jobs.toml:3:1"));
}

#[test]
fn the_environment_holds_over_the_file_and_is_checked_alike() {
    let env = |name: &str| {
        let value = match name {
            "PRESSWORK_DAEMON_LEASE_S" => "5",
            "PRESSWORK_QUEUE_URL" => "redis://:hunter2hunter2@h/0",
            "PRESSWORK_API_TOKEN" => "0123456789abcdef0123",
            "PRESSWORK_API_LISTEN" => "0.0.0.0:80",
            "PRESSWORK_INBOX_REQUIRE_KEY" => "true",
            "PRESSWORK_KEEP_KEYS_DAYS" => "",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let config = Config::parse("[daemon]\nlease_s = 9\n[keep]\nkeys_days = 2", None, &env).unwrap();
    assert_eq!(config.lease.as_secs(), 5);
    assert_eq!(config.keep_keys.as_secs(), 2 * 86_400);
    assert!(config.require_key);
    let all = config.effective();
    let of = |key: &str| all.iter().find(|it| it.0 == key).unwrap();
    assert_eq!(of("daemon.lease_s").2, "PRESSWORK_DAEMON_LEASE_S");
    assert_eq!(of("keep.keys_days").2, "configuration:4:13");
    assert_eq!(of("queue.window").2, "default");
    assert_eq!(of("api.token").1, "***");
    assert_eq!(of("queue.url").1, "redis://***@h/0");
    assert!(!format!("{config:?} {all:?}").contains("hunter2"));
    assert_eq!(
        crate::telemetry::redact::text("is hunter2hunter2 it?"),
        "is *** it?"
    );
    let wrong = Config::parse("", None, &|name| {
        (name == "PRESSWORK_DAEMON_LEASE_S").then(|| "1h".into())
    });
    let wrong = wrong.unwrap_err().to_string();
    assert_eq!(
        wrong,
        "PRESSWORK_DAEMON_LEASE_S: daemon.lease_s = \"1h\": a whole number, in seconds as the name says: lease_s = 3600"
    );
}

#[test]
fn an_address_of_several_hosts_shows_them_and_no_password() {
    let url = "redis-sentinel://me:letter-box-7@a:1,b:2/main?sentinel_password=letter-box-8";
    let env = |name: &str| (name == "PRESSWORK_QUEUE_URL").then(|| url.to_owned());
    let config = Config::parse("", None, &env).unwrap();
    let shown = config.effective();
    let shown = shown.iter().find(|it| it.0 == "queue.url").unwrap();
    assert_eq!(shown.1, "redis-sentinel://***@a:1,b:2/main");
    let told = crate::telemetry::redact::text("letter-box-7, letter-box-8");
    assert_eq!(told, "***, ***");
    for url in [
        url,
        "rediss-sentinel://a:1,b:2/main?sentinel_password=letter-box-8",
    ] {
        let told = bad(&format!("[queue]\nurl = \"{url}\""));
        assert!(told.contains("holds a password"), "{told}");
    }
    good("[queue]\nurl = \"redis-cluster://a:1,b:2\"");
}

#[test]
fn secrets_come_by_reference() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bsky"), "app-pass-word\n").unwrap();
    let text = format!(
        "[accounts.a]\nplatform = \"bluesky\"\nidentifier = \"a\"\nsecret = {{ file = \"{0}/bsky\" }}\n\
         [accounts.b]\nplatform = \"bluesky\"\nidentifier = \"b\"\nsecret = {{ credential = \"bsky\" }}\n\
         [ledger]\nurl = {{ env = \"DB\" }}",
        folder.path().display()
    );
    let env = |name: &str| match name {
        "CREDENTIALS_DIRECTORY" => Some(folder.path().display().to_string()),
        "DB" => Some("postgres://me:p%40ss-word-1@h:5433/db?sslmode=require".to_owned()),
        _ => None,
    };
    let config = Config::parse(&text, None, &env).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.accounts["a"].secret.expose_secret(), "app-pass-word");
    assert_eq!(config.accounts["b"].secret.expose_secret(), "app-pass-word");
    assert!(matches!(config.ledger, Store::Server(_)));
    assert!(values(&config).contains(&("ledger.url".into(), "postgres://***@h:5433/db".into())));
    assert_eq!(
        crate::telemetry::redact::text("with p@ss-word-1 it"),
        "with *** it"
    );
    let told = Config::parse(&text, None, &none).unwrap_err().to_string();
    assert!(
        told.contains("the variable DB isn't set")
            && told.contains("$CREDENTIALS_DIRECTORY isn't set"),
        "{told}"
    );
}

#[test]
fn files_are_found_and_their_absence_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let env = |name: &str| (name == "PRESSWORK_CONFIG").then(|| path.display().to_string());
    let told = Config::load(None, &env).unwrap_err().to_string();
    assert!(
        told.starts_with(&path.display().to_string()) && told.contains("can't be read"),
        "{told}"
    );
    std::fs::write(&path, "[daemon]\nlease_s = 7").unwrap();
    assert_eq!(Config::load(None, &env).unwrap().lease.as_secs(), 7);
    assert_eq!(Config::load(Some(&path), &none).unwrap().origin, Some(path));
}

#[test]
fn plain_http_is_for_private_networks_only() {
    let account = |url: &str| {
        let text = format!(
            "[accounts.a]\nplatform = \"mastodon\"\nbase_url = \"{url}\"\nsecret = {{ env = \"S\" }}"
        );
        Config::parse(&text, None, &|name| {
            (name == "S").then(|| "long enough".to_owned())
        })
        .is_ok()
    };
    for url in [
        "https://m.example",
        "http://127.0.0.1:9",
        "http://[::1]:9",
        "http://vllm:8000/v1",
        "http://10.1.2.3",
    ] {
        assert!(account(url), "{url}");
    }
    for url in [
        "http://m.example",
        "ftp://m",
        "https://u:p@m.example",
        "https://m.example?x=1",
        "m.example",
    ] {
        assert!(!account(url), "{url}");
    }
}

#[test]
fn unknown_kinds_and_variables_are_told() {
    let config = good("[kinds.\"post.mastodn\"]\ntimeout_s = 3");
    let errors = config.check_kinds(&["post.mastodon", "generate.text"]);
    assert_eq!(
        errors[0].to_string(),
        "kinds.\"post.mastodn\": unknown kind; did you mean `post.mastodon`?"
    );
    assert_eq!(errors[0].place, Place::File { line: 1, column: 8 });
    assert!(config.check_kinds(&["post.mastodn"]).is_empty());
    let names = [
        "PRESSWORK_DEAMON_LEASE_S",
        "PRESSWORK_LOG",
        "PRESSWORK_API_TOKEN",
        "HOME",
    ];
    let told = unknown_variables(names.map(str::to_owned));
    assert_eq!(
        told,
        [
            "PRESSWORK_DEAMON_LEASE_S: nothing reads this variable; did you mean `PRESSWORK_DAEMON_LEASE_S`?"
        ]
    );
}

#[test]
fn a_mistake_is_told_in_one_line_whatever_it_quotes() {
    for text in [
        "[lanes.a]\nroom = 1_00\u{4}0",
        "[\"a\\nb\"]",
        "\"\\u001b\" = 1",
    ] {
        let told = Config::parse(text, None, &none).unwrap_err();
        let lines = told.to_string();
        assert_eq!(lines.lines().count(), told.errors.len(), "{lines:?}");
        let strange = |c: char| c.is_control() && c != '\n';
        assert!(!lines.contains(strange), "{lines:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}", at in 0usize..3_000, len in 0usize..40) {
        let _ = Config::parse(&text, None, &none);
        // the shipped file with a piece replaced
        let from = SHIPPED.floor_char_boundary(at.min(SHIPPED.len()));
        let to = SHIPPED.floor_char_boundary((from + len).min(SHIPPED.len()));
        let cut = format!("{}{text}{}", &SHIPPED[..from], &SHIPPED[to..]);
        let _ = Config::parse(&cut, None, &none);
    }
}

#[test]
fn what_holds_from_the_next_start_on_is_told_apart() {
    let read = |text: &str| Config::parse(text, None, &|_| None).unwrap();
    let old = read("");
    let new = read(
        "[daemon]\nstate_dir = \"other\"\ndrain_s = 3\n[queue]\nurl = \"redis://h/1\"\nwindow = 9\n[api]\nlisten = \"127.0.0.1:9\"\n[resp]\nlisten = \"127.0.0.1:10\"\n[lanes.default]\nroom = 3",
    );
    assert_eq!(old.fixed_since(&old.clone()), [""; 0]);
    assert_eq!(
        old.fixed_since(&new),
        [
            "daemon.state_dir",
            "ledger.url",
            "queue.url",
            "media.folder",
            "api.listen",
            "resp.listen"
        ]
    );
}

#[test]
fn the_media_store_is_in_a_bucket_that_is_there() {
    let bucket = "[accounts.films]\nplatform = \"s3\"\nbase_url = \"https://s3.example\"\nbucket = \"films\"\n\
                  access_key_id = { env = \"S\" }\nsecret = { env = \"S\" }\n\
                  [accounts.shelf]\nplatform = \"folder\"\nfolder = \"/srv\"\n";
    let read = |more: &str, secret: &str| {
        let env = |name: &str| (name == "S").then(|| secret.to_owned());
        Config::parse(&format!("{bucket}{more}"), None, &env)
    };
    let config = read("[media]\naccount = \"films\"", "the-first-one").unwrap();
    assert_eq!(config.media_place(), "the bucket films, below presswork/");
    let folder = read("", "the-first-one").unwrap();
    assert!(folder.media_account().is_none());
    // its key was renewed, or it moved
    let renewed = read("[media]\naccount = \"films\"", "the-second-one").unwrap();
    assert_eq!(config.fixed_since(&renewed), ["media.account"]);
    assert_eq!(folder.fixed_since(&config), ["media.account"]);
    assert_eq!(
        folder.fixed_since(&read("", "the-second-one").unwrap()),
        [""; 0]
    );
    for (more, place, words) in [
        ("account = \"film\"", "11:", "did you mean `films`?"),
        ("account = \"shelf\"", "11:", "`shelf` is one of folder"),
        ("prefix = \"/x\"", "11:", "names with `/` between them"),
        ("prefix = \"a/../b\"", "11:", "names with `/` between them"),
    ] {
        let told = read(&format!("[media]\n{more}\n"), "the-first-one")
            .unwrap_err()
            .to_string();
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains(place) && told.contains(words), "{told}");
    }
}
