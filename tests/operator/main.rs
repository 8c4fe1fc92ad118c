//! The operator's commands: the real binary over a real ledger, what it says, how it exits, and
//! what the ledger then holds.

#[path = "../kit/mod.rs"]
mod kit;
mod halves;
mod limits;
mod tokens;
mod shop;

use std::time::Duration;

use presswork::effect::EffectState;
use presswork::job::JobId;
use presswork::ledger::{Filter, Ledger, Quarantined, Reason};
use presswork::lifecycle::State;
use presswork::outcome::{Class, Failure, Held, Outcome, Scope};

use kit::wait;
use shop::{Shop, Transcript, busy};

const SOON: Duration = Duration::from_secs(20);

fn post(text: &str) -> String {
    format!(
        r#"{{"kind":"post.mastodon","account":"main","lane":"mastodon","attempts_max":1,"payload":{{"text":"{text}"}}}}"#
    )
}

fn lost() -> Outcome {
    let message = "mastodon.status: the answer was lost and the platform has forgotten our key";
    Outcome::Unresolved(Failure::new(
        Class::Unknown,
        Scope::Platform,
        "unresolved",
        message,
    ))
}

fn refused() -> Failure {
    Failure::new(
        Class::Unauthorised,
        Scope::Account,
        "http_401",
        "social.example refused the token",
    )
}

#[tokio::test]
async fn dead_letters_are_listed_grouped_shown_and_revived() {
    let shop = Shop::open().await;
    let one = shop.ended(&post("one"), busy()).await;
    let two = shop
        .ended(
            &post("two"),
            Failure::transient("http_503", "social.example answered 503 after 9001 ms"),
        )
        .await;
    let bad = shop
        .ended(
            r#"{"kind":"test.job","payload":{"result":123456789012345678901234567890}}"#,
            Failure::permanent("payload", "/x: \u{1b}[31m\u{202e}is wrong"),
        )
        .await;
    let mut seen = Transcript::new("dead", &[(one, "one"), (two, "two"), (bad, "bad")]);
    seen.run(&shop, "dead list").await;
    seen.run(
        &shop,
        "dead list --error 503 --kind post.mastodon --newer 1d --limit 1",
    )
    .await;
    seen.run(&shop, "dead list --older 1d").await;
    seen.run(&shop, "dead list --group").await;
    seen.run(&shop, &format!("dead show {one}")).await;
    seen.run(&shop, &format!("dead show {bad}")).await;
    seen.run(&shop, "dead revive --error http_503 --dry-run")
        .await;
    let unsure = seen.run(&shop, "dead revive --error http_503").await;
    assert_eq!(unsure.exit, 2);
    assert_eq!(
        shop.job(one).await.state,
        State::Dead,
        "nothing is changed without a yes"
    );
    seen.run(&shop, "dead revive --error http_503 --yes --reason back")
        .await;
    seen.run(&shop, &format!("dead revive {one}")).await;
    seen.run(&shop, "dead discard --all").await;
    seen.run(
        &shop,
        &format!("dead discard {bad} --reason unwanted --dry-run"),
    )
    .await;
    seen.run(&shop, &format!("dead discard {bad} --reason unwanted"))
        .await;
    seen.run(&shop, &format!("dead discard {bad} --reason unwanted"))
        .await;
    seen.run(&shop, &format!("dead revive {bad}")).await;
    seen.run(&shop, "dead list").await;
    seen.check();

    for id in [one, two] {
        let job = shop.job(id).await;
        assert_eq!((job.state, job.attempts), (State::Ready, 0));
        let audit = shop.ledger.audit(Some(id), 1).await.unwrap().remove(0);
        assert_eq!(
            (
                audit.actor.as_str(),
                audit.action.as_str(),
                audit.detail.as_str()
            ),
            ("ada", "revive", "back")
        );
    }
    let audit = shop.ledger.audit(Some(bad), 1).await.unwrap().remove(0);
    assert_eq!(
        (audit.action.as_str(), audit.detail.as_str()),
        ("discard", "unwanted")
    );
}

#[tokio::test]
async fn what_expired_is_revived_with_time_to_run() {
    let shop = Shop::open().await;
    let late = r#"{"kind":"test.job","not_after":"2020-01-01T00:00:00Z","payload":{}}"#;
    let expired = Failure::new(
        Class::Permanent,
        Scope::Content,
        "expired",
        "its not_after is past",
    );
    let id = shop.ended(late, expired).await;
    assert!(
        shop.run(&format!("dead show {id}"))
            .await
            .out
            .contains("If it is still wanted, revive it")
    );
    assert_eq!(shop.run(&format!("dead revive {id}")).await.exit, 0);
    let job = shop.job(id).await;
    assert_eq!((job.state, job.not_after), (State::Ready, None));
    assert_eq!(shop.ledger.expired(10).await.unwrap(), []);
}

#[tokio::test]
async fn what_programs_read_is_json() {
    let shop = Shop::open().await;
    let long = "123456789012345678901234567890";
    let envelope = format!(r#"{{"kind":"test.job","payload":{{"result":{long}}}}}"#);
    let one = shop.ended(&envelope, Failure::permanent("x", "y")).await;
    let listed = shop.json("dead list", 0).await;
    assert_eq!(listed[0]["id"], one.to_string());
    assert_eq!(listed[0]["failure"]["code"], "x");
    let groups = shop.json("dead list --group", 0).await;
    let group = groups[0]["fingerprint"].as_str().unwrap();
    assert_eq!(
        groups[0]["revive"],
        format!("presswork dead revive --fingerprint {group}")
    );
    let shown = shop.run(&format!("dead show {one} --json")).await;
    assert!(
        shown.out.contains(long),
        "numbers come as they are: {}",
        shown.out
    );
    assert_eq!(shop.json("jobs list", 0).await[0]["state"], "dead");
    assert_eq!(
        shop.json(&format!("dead revive {one} --dry-run"), 0).await[0]["blocked"],
        serde_json::Value::Null
    );
    let revived = shop
        .json(&format!("dead revive --fingerprint {group} --yes"), 0)
        .await;
    assert_eq!(revived["revived"][0], one.to_string());
    let again = shop.json(&format!("dead revive {one}"), 4).await;
    assert!(
        again["refused"][0]["why"]
            .as_str()
            .unwrap()
            .contains("only dead letters")
    );
    let missing = shop
        .run("jobs show 00000000-0000-0000-0000-000000000000 --json")
        .await;
    let error: serde_json::Value = serde_json::from_str(&missing.err).unwrap();
    assert_eq!((missing.exit, &error["exit"]), (3, &3.into()));
}

#[tokio::test]
async fn a_payload_is_edited_checked_and_revived() {
    let shop = Shop::open().await;
    let id = shop
        .ended(
            r#"{"kind":"test.job","key":"k","payload":{"fail_times":9}}"#,
            Failure::permanent("payload", "no"),
        )
        .await;
    let edit = format!("dead revive {id} --edit");
    let with = async |script: &str| {
        shop.editor(script);
        let seen = shop.run(&edit).await;
        (seen.exit, seen.all())
    };
    let (exit, said) = with(r#"printf '{"fial_times": 1}' > "$1""#).await;
    assert_eq!(exit, 2, "{said}");
    assert!(said.contains("did you mean `fail_times`"), "{said}");
    let (exit, said) = with("printf '{nonsense' > \"$1\"").await;
    assert_eq!(exit, 2, "{said}");
    let (exit, said) = with("exit 1").await;
    assert!(exit == 1 && said.contains("nothing was changed"), "{said}");
    let (exit, said) = with("true").await;
    assert!(exit == 2 && said.contains("wasn't changed"), "{said}");
    assert_eq!(
        (shop.job(id).await.state, shop.job(id).await.revision),
        (State::Dead, 0)
    );
    let (exit, said) = with(r#"sed -i 's/9/0/' "$1""#).await;
    assert_eq!(exit, 0, "{said}");
    let job = shop.job(id).await;
    assert_eq!((job.state, job.revision), (State::Ready, 1));
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&job.payload).unwrap(),
        serde_json::json!({"fail_times": 0})
    );
    let none = shop.run(&edit).await;
    assert_eq!(
        none.exit,
        4,
        "it is no dead letter any more: {}",
        none.all()
    );
}

#[tokio::test]
async fn a_revive_heeds_what_has_happened() {
    let shop = Shop::open().await;
    let dead = || {
        Outcome::Failed(Failure::permanent(
            "too_long",
            "the second status is too long",
        ))
    };
    let live = shop
        .sent(&post("live"), EffectState::Confirmed, dead())
        .await;
    let open = shop.sent(&post("open"), EffectState::Unknown, dead()).await;
    let mut seen = Transcript::new("revive", &[(live, "live"), (open, "open")]);
    seen.run(&shop, &format!("dead revive {live} {open} --dry-run"))
        .await;
    seen.run(&shop, &format!("dead revive {live} --edit")).await;
    seen.run(&shop, &format!("dead revive {live} {open}")).await;
    seen.run(&shop, &format!("dead show {open}")).await;
    seen.run(
        &shop,
        &format!("unresolved resolve {open} --did-not-happen --reason looked"),
    )
    .await;
    seen.run(&shop, &format!("dead revive {open}")).await;
    seen.check();
    assert_eq!(shop.job(live).await.state, State::Ready);
    assert_eq!(shop.job(open).await.state, State::Ready);
    assert_eq!(
        shop.ledger.effects(open).await.unwrap()[0].state,
        EffectState::Refused
    );
}

#[tokio::test]
async fn a_person_says_what_happened() {
    let shop = Shop::open().await;
    let there = shop
        .sent(&post("there"), EffectState::Unresolved, lost())
        .await;
    let gone = shop
        .sent(&post("gone"), EffectState::Unresolved, lost())
        .await;
    let mut seen = Transcript::new("unresolved", &[(there, "there"), (gone, "gone")]);
    seen.run(&shop, "unresolved list").await;
    seen.run(&shop, &format!("unresolved show {there}")).await;
    seen.run(&shop, &format!("jobs cancel {there}")).await;
    seen.run(&shop, &format!("unresolved resolve {there}"))
        .await;
    seen.run(
        &shop,
        &format!("unresolved resolve {there} --did-not-happen --url https://social.example/@ada/9"),
    )
    .await;
    seen.run(
        &shop,
        &format!("unresolved resolve {there} --happened --url ftp://social.example"),
    )
    .await;
    seen.run(
        &shop,
        &format!("unresolved resolve {there} --happened --url https://social.example/@ada/9"),
    )
    .await;
    seen.run(&shop, &format!("jobs receipt {there}")).await;
    seen.run(
        &shop,
        &format!("unresolved resolve {gone} --did-not-happen"),
    )
    .await;
    seen.run(
        &shop,
        &format!("unresolved resolve {gone} --did-not-happen"),
    )
    .await;
    seen.run(&shop, "unresolved list").await;
    seen.check();
    let effect = shop.ledger.effects(there).await.unwrap().remove(0);
    assert_eq!(effect.state, EffectState::Confirmed);
    assert_eq!(
        effect.receipt.unwrap().url.unwrap(),
        "https://social.example/@ada/9"
    );
    assert_eq!(
        shop.ledger.effects(gone).await.unwrap()[0].state,
        EffectState::Refused
    );
    assert_eq!(shop.job(gone).await.state, State::Ready);
    let shown = shop
        .sent(&post("shown"), EffectState::Unresolved, lost())
        .await;
    let json = shop.json(&format!("unresolved show {shown}"), 0).await;
    assert_eq!(json["payload"]["text"], "shown");
    assert_eq!(
        (&json["look"][0]["host"], &json["look"][0]["base_url"]),
        (&"press-1".into(), &"https://social.example/".into())
    );
}

#[tokio::test]
async fn jobs_are_listed_explained_cancelled_and_released() {
    let shop = Shop::open().await;
    let ready = shop.accept(r#"{"kind":"test.job","payload":{}}"#).await;
    let later = shop
        .accept(r#"{"kind":"test.job","run_at":"2999-01-01T00:00:00Z","payload":{}}"#)
        .await;
    let held = shop.ended(&post("held"), refused()).await;
    let changed = Failure::permanent("nondeterministic", "it would send something else");
    let other = shop
        .ended(
            &post("other"),
            Outcome::Held(Held::Nondeterministic, changed),
        )
        .await;
    let done = shop
        .ended(
            r#"{"kind":"test.job","payload":{}}"#,
            Outcome::Completed(serde_json::json!({"n": 1})),
        )
        .await;
    let running = shop.accept(r#"{"kind":"test.job","payload":{}}"#).await;
    shop.claim(running).await;
    let ids = [
        (ready, "ready"),
        (later, "later"),
        (held, "held"),
        (other, "other"),
        (done, "done"),
        (running, "running"),
    ];
    let mut seen = Transcript::new("jobs", &ids);
    seen.run(&shop, "jobs list").await;
    seen.run(&shop, "jobs list --state completed,held --kind test.job")
        .await;
    seen.run(&shop, "jobs list --state hold").await;
    seen.run(&shop, "jobs show nonsense").await;
    seen.run(&shop, "jobs show 00000000-0000-0000-0000-000000000000")
        .await;
    seen.run(&shop, &format!("jobs show {ready}")).await;
    seen.run(&shop, &format!("jobs show {later}")).await;
    seen.run(&shop, &format!("jobs show {held}")).await;
    seen.run(&shop, &format!("jobs show {done}")).await;
    seen.run(
        &shop,
        &format!("jobs cancel {later} {running} {done} --reason wrong"),
    )
    .await;
    seen.run(&shop, "jobs release").await;
    seen.run(&shop, "jobs release --account nobody").await;
    seen.run(&shop, "jobs release --account main --held account")
        .await;
    seen.run(&shop, &format!("jobs release {held}")).await;
    seen.run(&shop, "dead show 00000000-0000-0000-0000-000000000000")
        .await;
    seen.check();
    assert_eq!(shop.job(later).await.state, State::Cancelled);
    assert!(shop.job(running).await.cancel);
    assert_eq!(shop.job(held).await.state, State::Ready);
    assert_eq!(
        shop.job(other).await.state,
        State::Held,
        "the filter leaves others alone"
    );
}

#[tokio::test]
async fn lanes_are_listed_paused_and_resumed() {
    let shop = Shop::open().await;
    let id = shop.accept(&post("waits")).await;
    shop.ended(&post("dies"), busy()).await;
    let mut seen = Transcript::new("lanes", &[(id, "id")]);
    seen.run(&shop, "lanes list").await;
    seen.run(&shop, "lanes pause mastodn").await;
    seen.run(&shop, "lanes pause mastodon --reason moving")
        .await;
    seen.run(&shop, "lanes pause mastodon").await;
    seen.run(&shop, "lanes list").await;
    seen.run(&shop, &format!("jobs show {id}")).await;
    seen.run(&shop, "lanes resume mastodon").await;
    seen.run(&shop, "lanes resume mastodon").await;
    seen.check();
    assert_eq!(shop.ledger.paused().await.unwrap(), []);
    let lanes = shop.json("lanes list", 0).await;
    let lane = lanes
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["lane"] == "mastodon")
        .unwrap();
    assert_eq!(
        (&lane["jobs"]["ready"], &lane["jobs"]["dead"]),
        (&1.into(), &1.into())
    );
}

#[tokio::test]
async fn a_daemon_that_knows_the_kind_takes_what_waited_for_it() {
    let shop = Shop::open().await;
    // a daemon of an older release kept these
    let unknown = async |bytes: &[u8]| {
        let id = JobId::mint();
        let entry = Quarantined {
            id,
            door: "inbox".to_owned(),
            at: shop.ledger.now().await.unwrap(),
            reason: Reason::UnknownKind,
            message: "/kind: `test.job` is no kind that this daemon knows".to_owned(),
            kind: Some("test.job".to_owned()),
            bytes: bytes.to_vec(),
        };
        shop.ledger.quarantine(&[entry]).await.unwrap();
        id
    };
    let right = unknown(br#"{"kind":"test.job","payload":{"result":7}}"#).await;
    let wrong = unknown(br#"{"kind":"test.job","payload":{"fial_times":1}}"#).await;
    let daemon = shop.home.start(&["run"]);
    wait::until("the job is completed", SOON, async || {
        let job = shop.ledger.job(right).await.unwrap();
        job.is_some_and(|it| it.state == State::Completed)
    })
    .await;
    wait::until("the other has its new reason", SOON, async || {
        let entry = shop.ledger.quarantined_one(wrong).await.unwrap().unwrap();
        entry.reason == Reason::Invalid
    })
    .await;
    drop(daemon);
    let left = shop.ledger.quarantined(None, 9).await.unwrap();
    assert_eq!(left.iter().map(|it| it.id).collect::<Vec<_>>(), [wrong]);
    let audit = shop.ledger.audit(Some(right), 1).await.unwrap().remove(0);
    assert_eq!(audit.action, "release");
    assert!(audit.actor.starts_with("daemon on "), "{}", audit.actor);
}

#[tokio::test]
async fn quarantine_is_shown_released_and_discarded() {
    let shop = Shop::open().await;
    let wrong = shop
        .quarantine(br#"{"kind":"test.job","payload":{"fial_times":1},"prioritty":"high"}"#)
        .await;
    let binary = shop.quarantine(b"\xff\x00\x1b[31mnot JSON\x07").await;
    shop.editor("exit 1");
    let mut seen = Transcript::new("quarantine", &[(wrong, "wrong"), (binary, "binary")]);
    seen.run(&shop, "quarantine list").await;
    seen.run(&shop, "quarantine list --kind nothing").await;
    seen.run(&shop, &format!("quarantine show {wrong}")).await;
    seen.run(&shop, &format!("quarantine show {binary}")).await;
    seen.run(&shop, &format!("quarantine release {wrong}"))
        .await;
    seen.run(&shop, &format!("quarantine release {wrong} --edit"))
        .await;
    seen.run(&shop, &format!("quarantine discard {wrong}"))
        .await;
    seen.run(
        &shop,
        &format!("quarantine discard {binary} --reason noise"),
    )
    .await;
    seen.run(
        &shop,
        &format!("quarantine discard {binary} --reason noise"),
    )
    .await;
    seen.check();
    let raw = shop.run(&format!("quarantine show {wrong} --bytes")).await;
    assert_eq!(
        raw.out,
        r#"{"kind":"test.job","payload":{"fial_times":1},"prioritty":"high"}"#
    );

    shop.editor(r#"printf '{"kind":"test.job","payload":{"fail_times":1}}' > "$1""#);
    let released = shop
        .json(
            &format!("quarantine release {wrong} --edit --reason spelling"),
            0,
        )
        .await;
    assert_eq!(released["job"], wrong.to_string());
    assert_eq!(shop.job(wrong).await.state, State::Ready);
    assert_eq!(shop.ledger.quarantined(None, 10).await.unwrap(), []);
    let audit = shop.ledger.audit(Some(wrong), 1).await.unwrap().remove(0);
    assert_eq!(
        (audit.actor.as_str(), audit.action.as_str()),
        ("ada", "release")
    );
}

#[tokio::test]
async fn a_running_daemon_notices_within_a_moment() {
    let shop = Shop::open().await;
    let dead = shop
        .ended(
            r#"{"kind":"test.job","payload":{}}"#,
            Failure::permanent("x", "y"),
        )
        .await;
    let daemon = shop.home.start(&["run"]);
    wait::until("a run that lives", SOON, async || lives(&shop).await).await;
    assert_eq!(shop.run("lanes pause default").await.exit, 0);
    // what is accepted before the daemon has noticed may still be taken
    let waits = std::cell::Cell::new(None);
    wait::until("a job waits in the paused lane", SOON, async || {
        let id = shop
            .accept(r#"{"kind":"test.job","payload":{"sleep_ms":600000,"progress":true}}"#)
            .await;
        let why = shop.run(&format!("jobs show {id}")).await;
        let paused = why.out.contains("Its lane `default` is paused by ada");
        if paused {
            waits.set(Some(id));
        } else {
            assert_eq!(shop.run(&format!("jobs cancel {id}")).await.exit, 0);
        }
        paused
    })
    .await;
    let id = waits.get().expect("the wait has ended by it");
    assert_eq!(shop.run("lanes resume default").await.exit, 0);
    let state = async |id| shop.job(id).await.state;
    wait::until("it runs", SOON, async || state(id).await == State::Running).await;
    let told = shop.json(&format!("jobs cancel {id}"), 0).await;
    assert_eq!(
        (&told[0]["what"], &told[0]["why"]),
        (&"told to stop".into(), &serde_json::Value::Null)
    );
    let ended = shop.run(&format!("jobs watch {id}")).await;
    assert_eq!(
        (ended.exit, state(id).await),
        (1, State::Cancelled),
        "{}",
        ended.all()
    );
    assert_eq!(shop.run(&format!("dead revive {dead}")).await.exit, 0);
    let lines = shop.run(&format!("jobs watch {dead} --json")).await;
    let last: serde_json::Value = serde_json::from_str(lines.out.lines().last().unwrap()).unwrap();
    assert_eq!(
        (lines.exit, &last["state"]),
        (0, &"completed".into()),
        "{}",
        lines.all()
    );
    daemon.signal("TERM");
    assert_eq!(daemon.wait_exit(SOON).await.code(), Some(0));
    let left = shop.ledger.jobs(&Filter::default()).await.unwrap();
    assert_eq!(left, []);
}

async fn lives(shop: &Shop) -> bool {
    let runs = shop.ledger.live_runs().await.unwrap();
    runs.iter().any(|it| it.host != "press-1")
}
