//! To whom jobs go, and that dispatch sees the same.

use chrono::TimeZone as _;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::config::KindSettings;
use crate::effect::EffectClass;
use crate::gate::Shut;
use crate::job::JobId;
use crate::lifecycle::State;
use crate::sample;

const TEXT: &str = "generate.text";

fn at(s: i64) -> Time {
    chrono::Utc.timestamp_opt(1_800_000_000 + s, 0).unwrap()
}

/// Accounts `a`, `b`, `c` (of tenant `acme` alone) and the endpoint `e`; texts of any go to `b`, then `c`.
fn config() -> Config {
    let mut config = Config::default_embedded(std::path::Path::new("/nowhere"));
    for (name, platform) in [
        ("a", "openai"),
        ("b", "openai"),
        ("c", "openai"),
        ("e", "http"),
    ] {
        let url = url::Url::parse("https://example.com").unwrap();
        let account = Account {
            tenant: (name == "c").then(|| "acme".to_owned()),
            ..Account::at(platform, url)
        };
        config.accounts.insert(name.to_owned(), account);
    }
    let one = |account: &str| Fallback {
        account: account.to_owned(),
        model: (account == "b").then(|| "small".to_owned()),
    };
    let settings = KindSettings {
        fallbacks: vec![one("b"), one("c")],
        ..KindSettings::default()
    };
    config.kinds.insert(TEXT.to_owned(), settings);
    config
}

fn job(account: &str, tenant: &str, kind: &str) -> Job {
    Job {
        tenant: tenant.to_owned(),
        state: State::Running,
        epoch: 2,
        ..sample::job(kind, account, at(0))
    }
}

fn closed(cause: Cause, account: &str) -> Closure {
    let scope = Scope::of_account(account);
    Closure::new(cause, scope, ("test", "it fails"), at(0))
}

fn effect(account: &str, state: EffectState) -> Effect {
    let of = (JobId(Uuid::nil()), 0);
    Effect {
        state,
        ..Effect::new(of, ("generate", 0), account, "openai.text", EffectClass::P)
    }
}

/// To whom a job of `a` goes.
fn goes(job: &Job, effects: &[Effect], closures: &[Closure]) -> String {
    match decide(job, &config(), effects, closures, at(1)) {
        Decision::Own => "own".to_owned(),
        Decision::Other(it) => it.account,
        Decision::Bound(it) => format!("stays at {it}"),
        Decision::Nobody(_) => "nobody".to_owned(),
    }
}

#[test]
fn a_closed_account_moves_a_job_on_and_a_person_or_a_moment_doesnt() {
    let job = job("a", "acme", TEXT);
    let to = |closures: &[Closure]| goes(&job, &[], closures);
    assert_eq!(to(&[]), "own");
    for cause in [Cause::Account, Cause::Breaker, Cause::Credentials] {
        assert_eq!(to(&[closed(cause, "a").until(at(5))]), "b", "{cause}");
    }
    for cause in [Cause::Learned, Cause::Budget] {
        assert_eq!(to(&[closed(cause, "a").until(at(29))]), "own", "{cause}");
        assert_eq!(to(&[closed(cause, "a").until(at(30))]), "b", "{cause}");
        assert_eq!(to(&[closed(cause, "a").until(at(0))]), "own", "{cause}");
    }
    let (fails, stopped) = (closed(Cause::Breaker, "a"), closed(Cause::Stop, "a"));
    assert_eq!(to(std::slice::from_ref(&stopped)), "own");
    assert_eq!(to(&[fails.clone(), stopped]), "own");
    let all = Closure::new(Cause::Stop, Scope::default(), ("ada", ""), at(0));
    assert_eq!(to(&[fails.clone(), all]), "own");
    // whoever is closed for whatever reason is passed over
    assert_eq!(to(&[fails.clone(), closed(Cause::Stop, "b")]), "c");
    let learned = closed(Cause::Learned, "b").until(at(3));
    assert_eq!(to(&[fails.clone(), learned]), "c");
    let others = [closed(Cause::Breaker, "b"), closed(Cause::Breaker, "c")];
    assert_eq!(
        to(&[vec![fails.clone()], others.to_vec()].concat()),
        "nobody"
    );
    // what follows from other closures says nothing by itself
    assert_eq!(to(&[closed(Cause::Fallbacks, "a")]), "own");
    assert_eq!(to(&[fails, closed(Cause::Fallbacks, "a")]), "b");
}

#[test]
fn another_tenants_account_another_kind_and_another_platform_stand_in_for_nobody() {
    let fails = [closed(Cause::Breaker, "a"), closed(Cause::Breaker, "b")];
    assert_eq!(goes(&job("a", "acme", TEXT), &[], &fails), "c");
    assert_eq!(goes(&job("a", "zoo", TEXT), &[], &fails), "nobody");
    assert_eq!(goes(&job("b", "acme", TEXT), &[], &fails), "c");
    assert_eq!(
        goes(&job("a", "acme", "illustrate.image"), &[], &fails),
        "own"
    );
    let fails = [closed(Cause::Breaker, "e")];
    assert_eq!(goes(&job("e", "acme", TEXT), &[], &fails), "own");
}

#[test]
fn what_was_permitted_stays_where_it_was() {
    let fails = [closed(Cause::Breaker, "a")];
    let job = job("a", "acme", TEXT);
    for state in EffectState::ALL {
        let stays = *state != EffectState::Intended;
        let own = goes(&job, &[effect("a", *state)], &fails);
        assert_eq!(own, if stays { "stays at a" } else { "b" }, "{state}");
        // and the other way: the job's own account is open again
        let other = goes(&job, &[effect("b", *state)], &[]);
        assert_eq!(other, if stays { "stays at b" } else { "own" }, "{state}");
    }
    let mut sent = effect("a", EffectState::Intended);
    sent.maybe_since = Some(at(0));
    assert_eq!(goes(&job, &[sent], &fails), "stays at a");
    let mut edited = effect("a", EffectState::Confirmed);
    edited.revision = 1;
    assert_eq!(goes(&job, &[edited], &fails), "b");
}

#[test]
fn what_keeps_a_job_is_told() {
    let (config, job) = (config(), job("a", "zoo", TEXT));
    let causes = |effects: &[Effect], closures: &[Closure]| -> Vec<String> {
        let (kept, _) = keeping(&job, &config, effects, closures, at(1));
        let told = kept.iter().map(|it| it.scope.account.clone());
        told.map(Option::unwrap_or_default).collect()
    };
    let fails = closed(Cause::Breaker, "a");
    let none: [&str; 0] = [];
    assert_eq!(causes(&[], std::slice::from_ref(&fails)), none);
    let both = [fails.clone(), closed(Cause::Stop, "b")];
    assert_eq!(causes(&[], &both), ["a", "b"]);
    assert_eq!(causes(&[effect("a", EffectState::Unknown)], &both), ["a"]);
    assert_eq!(causes(&[effect("b", EffectState::Unknown)], &both), ["b"]);
    assert_eq!(causes(&[], &[closed(Cause::Stop, "a")]), ["a"]);
}

fn any_closure() -> impl Strategy<Value = Closure> {
    let name = |all: &'static [&'static str]| prop::sample::select(all);
    let cause = prop::sample::select(&Cause::ALL[..6]);
    let until = prop::option::of(prop::sample::select(vec![0i64, 5, 60]));
    let (account, tenant, kind) = (
        name(&["", "a", "b", "c"]),
        name(&["", "", "", "acme", "zoo"]),
        name(&["", "", TEXT, "illustrate.image"]),
    );
    (cause, account, tenant, kind, until).prop_map(|(cause, account, tenant, kind, until)| {
        let named = |it: &str| Some(it.to_owned()).filter(|it| !it.is_empty());
        let scope = Scope {
            account: named(account),
            tenant: named(tenant),
            kind: named(kind),
            ..Scope::default()
        };
        Closure {
            until: until.map(at),
            ..Closure::new(cause, scope, ("test", ""), at(0))
        }
    })
}

proptest! {
    /// Dispatch gives a job just where somebody would do it, but for accounts of other tenants, which it
    /// doesn't look at unless a closure names them.
    #[test]
    fn dispatch_passes_over_what_nobody_would_do_and_nothing_else(
        closures in prop::collection::vec(any_closure(), 0..7),
        account in prop::sample::select(&["a", "b", "c"][..]),
        tenant in prop::sample::select(&["acme", "zoo"][..]),
        kind in prop::sample::select(&[TEXT, "illustrate.image", "test.job"][..]),
    ) {
        let mut config = config();
        let own = config.accounts.get_mut("c").unwrap();
        own.tenant = None;
        let kinds = [TEXT, "illustrate.image", "test.job"].map(str::to_owned);
        prop_assume!(closures.iter().all(|it| it.cause != Cause::Fallbacks));
        let standing = standing(closures.iter(), &config, &kinds, at(1));
        let job = job(account, tenant, kind);
        let subject = Subject::of(&job, &config);
        let passed_over = standing.iter().any(|it| it.shuts(&subject, at(1)));
        let shut = closures.iter().any(|it| it.shuts(&subject, at(1)));
        let goes = match decide(&job, &config, &[], &closures, at(1)) {
            Decision::Other(_) => true,
            Decision::Nobody(_) => false,
            Decision::Own | Decision::Bound(_) => !shut,
        };
        prop_assert_eq!(goes, !passed_over, "{:?}", standing);
        // and the columns say the same
        let columns = Shut::of(&standing, &config, at(1)).columns();
        let any = |is: &str, of: &str| is.is_empty() || is == of;
        let named = (0..columns.accounts.len()).any(|n| {
            any(&columns.accounts[n], account) && any(&columns.tenants[n], tenant) && any(&columns.kinds[n], kind)
        });
        prop_assert_eq!(named, passed_over);
    }
}
