//! One test for each thing that keeps a job from running, and for who is told what.

mod kit;

use std::time::Duration as Span;

use chrono::Duration;
use url::Url;

use kit::{RUN, SERVER, at, config, facts, job, now, run};

use super::*;
use crate::breaker::Breaker;
use crate::budget::{Budget, Counted, Every, Form, Kept, Key, Per, Uses};
use crate::config::{Account, Fallback};
use crate::effect::{Effect, EffectClass};
use crate::gate::Scope as Area;
use crate::job::Progress;
use crate::ledger::{Line, Standing};
use crate::outcome::{Class, Held, Scope};

fn told(facts: &Facts, config: &Config) -> Explanation {
    seen(facts, config, Eyes::Operator)
}

fn seen(facts: &Facts, config: &Config, eyes: Eyes) -> Explanation {
    let facts = Facts {
        budgets: config.budgets.clone(),
        ..facts.clone()
    };
    explain(&facts, config, eyes)
}

/// The one constraint, which must be of this sort and say all of that; a user is told of none but the first
/// word.
fn one(facts: &Facts, config: &Config, what: What, words: &[&str]) -> Constraint {
    let it = told(facts, config);
    assert_eq!(it.constraints.len(), 1, "{it:?}");
    let one = it.constraints[0].clone();
    assert_eq!(one.what, what, "{it:?}");
    for word in words {
        assert!(one.text.contains(word), "{word}: {}", one.text);
    }
    assert!(one.text.ends_with('.'), "{}", one.text);
    let user = seen(facts, config, Eyes::User).constraints.remove(0);
    assert_eq!((user.what, user.until), (one.what, one.until));
    assert_eq!((&user.by, &user.command), (&None, &None));
    for secret in [
        "press-1",
        "00000000-0000",
        "ada",
        "a wrong price",
        "http_503",
    ] {
        assert!(!user.text.contains(secret), "{secret}: {}", user.text);
    }
    one
}

fn closure(cause: Cause, actor: &str, reason: &str) -> Closure {
    let area = Area {
        account: Some("main".to_owned()),
        ..Area::default()
    };
    Closure::new(cause, area, (actor, reason), at(-30))
}

#[test]
fn where_nothing_binds_its_place_is_told() {
    let (mut facts, config) = (facts(State::Ready), config());
    facts.line = Some(Line::default());
    let free = told(&facts, &config);
    assert_eq!((&free.constraints[..], &free.estimate), (&[][..], &None));
    assert!(free.place.unwrap().text.contains("it is next"));
    facts.line = Some(Line {
        before: 120,
        completed: 60,
        span: Span::from_secs(60),
    });
    let behind = told(&facts, &config);
    assert_eq!(behind.place.unwrap().before, 120);
    assert_eq!(behind.estimate.unwrap().at, at(120));
    // what binds besides has no pace
    facts.closures = vec![closure(Cause::Stop, "ada", "")];
    assert_eq!(told(&facts, &config).estimate, None);
}

#[test]
fn one_that_is_not_due_waits_for_its_time() {
    let (mut facts, config) = (facts(State::Scheduled), config());
    facts.job.run_at = at(3 * 3_600);
    let due = one(&facts, &config, What::Due, &["in 3 h"]);
    assert_eq!(due.until, Some(at(3 * 3_600)));
    facts.job.progress = Some(Progress {
        percent: 40,
        message: "the platform draws".to_owned(),
    });
    let words = ["in 3 h", "the platform draws."];
    one(&facts, &config, What::Due, &words);
}

#[test]
fn one_that_failed_is_tried_again() {
    let (mut facts, config) = (facts(State::Retrying), config());
    facts.job.run_at = at(20);
    facts.job.failure = Some(Failure::transient("http_503", "it answered 503"));
    let words = ["in 20 s", "1 of 3 attempts", "http_503: it answered 503."];
    one(&facts, &config, What::Retry, &words);
}

#[test]
fn what_is_closed_is_told_with_who_and_why_and_the_command_that_opens_it() {
    let (mut facts, config) = (facts(State::Ready), config());
    facts.closures = vec![closure(Cause::Stop, "ada", "a wrong price")];
    let stop = one(
        &facts,
        &config,
        What::Stop,
        &["Account `main` was stopped by ada", "a wrong price."],
    );
    assert_eq!((stop.since, stop.until), (Some(at(-30)), None));
    assert_eq!(stop.by.as_deref(), Some("ada"));
    let command = stop.command.unwrap();
    assert_eq!(command, "presswork go --account main");
    facts.closures = vec![closure(Cause::Credentials, "presswork", "http_401: no")];
    let account = one(
        &facts,
        &config,
        What::Account,
        &["to be renewed", "http_401"],
    );
    assert_eq!(account.until, None);
    facts.closures = vec![closure(Cause::Learned, "presswork", "a 429").until(at(90))];
    let learned = one(&facts, &config, What::Learned, &["asked for less", "until"]);
    assert_eq!(learned.until, Some(at(90)));
    assert!(learned.command.unwrap().ends_with("--cause learned"));
    // what is past, or of another account, isn't told
    let other = Area {
        account: Some("other".to_owned()),
        ..Area::default()
    };
    facts.closures = vec![
        closure(Cause::Learned, "presswork", "").until(at(-1)),
        Closure::new(Cause::Stop, other, ("ada", ""), now()),
    ];
    assert_eq!(told(&facts, &config).constraints, []);
}

#[test]
fn a_breaker_is_told_with_its_next_probe() {
    let (mut facts, config) = (facts(State::Ready), config());
    facts.closures = vec![closure(Cause::Breaker, "presswork", "http_503").until(at(27))];
    let mut stands = |state| {
        let breaker = Breaker {
            state,
            ..Breaker::default()
        };
        facts.breakers = vec![Standing {
            scope: SERVER.to_owned(),
            version: 1,
            breaker,
        }];
        one(&facts, &config, What::Breaker, &["keeps failing"]).text
    };
    let open = stands(breaker::State::Open(at(12)));
    assert!(open.contains(SERVER) && open.contains("in 12 s"), "{open}");
    let late = stands(breaker::State::Open(at(-1)));
    assert!(late.contains("at any moment"), "{late}");
    let half = stands(breaker::State::HalfOpen(at(9)));
    assert!(
        half.contains("half-open") && half.contains("9.0 s"),
        "{half}"
    );
    let closed = stands(breaker::State::Closed);
    assert!(!closed.contains("breaker of"), "{closed}");
}

#[test]
fn a_paused_lane_is_told_with_who_and_why() {
    let (mut facts, config) = (facts(State::Ready), config());
    facts.pause = Some(Pause {
        lane: "default".to_owned(),
        reason: "a wrong price".to_owned(),
        by: "ada".to_owned(),
        at: at(-30),
    });
    let words = ["Its lane `default` is paused by ada", "a wrong price."];
    let pause = one(&facts, &config, What::Pause, &words);
    assert_eq!(pause.command.unwrap(), "presswork lanes resume default");
}

fn budget(form: Form, per: Per, op: Option<&str>) -> Budget {
    Budget {
        op: op.map(str::to_owned),
        ..Budget::of_all(form, per)
    }
}

/// A budget of which `used` are under way until `until`.
fn used(config: &mut Config, budget: Budget, whose: &str, used: u64, until: Time) -> Counted {
    let mut uses = Uses::default();
    for _ in 0..used {
        uses.take(&budget.form, 1, now(), until).unwrap();
    }
    config.budgets.insert("posts".to_owned(), budget);
    let key = Key {
        name: "posts".to_owned(),
        whose: whose.to_owned(),
    };
    Counted {
        key,
        version: 1,
        uses,
    }
}

#[test]
fn a_budget_that_is_used_up_is_told_with_when_there_is_room() {
    let (mut facts, mut config) = (facts(State::Ready), config());
    let form = Form::Rolling {
        most: 2,
        window: Duration::hours(1),
    };
    let each = budget(form, Per::Account, Some("mastodon.status"));
    facts.counted = vec![used(&mut config, each.clone(), "main", 2, now())];
    let words = [
        "Budget `posts` of `main` is used up",
        "for `mastodon.status` (2 of 2)",
        "it has room again at 2027-01-15T09:00",
    ];
    let full = one(&facts, &config, What::Budget, &words);
    assert!(at(3_600) <= full.until.unwrap());
    // another account's, another platform's, and one with room
    facts.counted = vec![used(&mut config, each.clone(), "other", 2, now())];
    assert_eq!(told(&facts, &config).constraints, []);
    facts.counted = vec![used(&mut config, each, "main", 1, now())];
    assert_eq!(told(&facts, &config).constraints, []);
    let elsewhere = budget(form, Per::Account, Some("x.*"));
    facts.counted = vec![used(&mut config, elsewhere, "main", 2, now())];
    assert_eq!(told(&facts, &config).constraints, []);
    // of budgets that count each operation apart those are told that may be its own
    let each = budget(form, Per::Op, None);
    facts.counted = vec![used(&mut config, each.clone(), "x.post", 2, now())];
    assert_eq!(told(&facts, &config).constraints, []);
    facts.counted = vec![used(&mut config, each, "mastodon.status", 2, now())];
    let words = ["Budget `posts` of `mastodon.status` is used up (2 of 2)"];
    one(&facts, &config, What::Budget, &words);
}

#[test]
fn places_that_are_kept_for_others_are_told() {
    let (mut facts, mut config) = (facts(State::Ready), config());
    let form = Form::Rolling {
        most: 3,
        window: Duration::hours(1),
    };
    let all = budget(form, Per::All, None);
    facts.counted = vec![used(&mut config, all, "", 1, now())];
    let key = facts.counted[0].key.clone();
    let kept = |count: usize| Kept::of(1, vec![at(600); count]);
    facts.kept.insert(key.clone(), kept(1));
    assert_eq!(told(&facts, &config).constraints, []);
    facts.kept.insert(key.clone(), kept(2));
    let words = [
        "Budget `posts`: 2 places are kept for jobs scheduled until 2027-01-15T08:10:00Z (1 of 3 used)",
        "it has room again at",
    ];
    let full = one(&facts, &config, What::Budget, &words);
    assert!(at(3_600) <= full.until.unwrap());
    // it has a place itself
    facts.job.due_at = Some(facts.job.created_at + chrono::Duration::seconds(1));
    assert_eq!(told(&facts, &config).constraints, []);
}

#[test]
fn a_calendar_begins_anew_by_the_clocks_of_its_zone() {
    let (mut facts, mut config) = (facts(State::Ready), config());
    let form = Form::Calendar {
        most: 1,
        every: Every::Day,
        zone: chrono_tz::America::Los_Angeles,
    };
    facts.now = at(3_600);
    let mut counted = used(&mut config, budget(form, Per::All, None), "", 0, now());
    counted.uses.take(&form, 1, at(3_600), at(3_600)).unwrap();
    facts.counted = vec![counted];
    let words = [
        "Budget `posts` is used up (1 of 1)",
        "it begins anew at 00:00 on 2027-01-16 (America/Los_Angeles; in 23 h)",
    ];
    one(&facts, &config, What::Budget, &words);
}

#[test]
fn what_is_under_way_is_told_with_the_jobs_that_may_hold_it() {
    let (mut facts, mut config) = (facts(State::Ready), config());
    let form = Form::Concurrency { most: 2 };
    let both = budget(form, Per::Account, None);
    facts.counted = vec![used(&mut config, both, "main", 2, at(60))];
    let running = |n, account: &str, run| Job {
        id: JobId(Uuid::from_u128(n)),
        account: Some(account.to_owned()),
        run: Some(run),
        ..job(State::Running)
    };
    let gone = Uuid::from_u128(8);
    facts.busy = vec![
        running(2, "main", RUN),
        running(3, "main", gone),
        running(4, "other", RUN),
    ];
    let words = [
        "(2 of 2): held by 00000000-0000-0000-0000-000000000002 on press-1 and 00000000-0000-0000-0000-000000000003 on a host that is gone",
        "at the latest at 2027-01-15T08:01:00Z (in 1 m)",
    ];
    one(&facts, &config, What::Budget, &words);
}

#[test]
fn a_budget_that_never_allows_it_says_so() {
    let (facts, mut config) = (facts(State::Ready), config());
    let mut small = budget(Form::Concurrency { most: 1 }, Per::All, None);
    small.amount = 2;
    config.budgets.insert("small".to_owned(), small);
    let one = one(
        &facts,
        &config,
        What::Budget,
        &["too small", "raise `most`"],
    );
    assert_eq!(one.until, None);
}

#[test]
fn a_full_lane_is_told_with_those_who_hold_it() {
    let (mut facts, mut config) = (facts(State::Ready), config());
    let lane = config.lanes.get_mut("default").unwrap();
    (lane.concurrency, lane.room) = (Some(7), 20);
    facts.running = (2..9).map(|n| (JobId(Uuid::from_u128(n)), RUN)).collect();
    let words = [
        "Its lane `default` is full: 7 of 7 run, held by 00000000-0000-0000-0000-000000000002 on press-1, ",
        "000000000006 on press-1 and 2 more.",
    ];
    let full = one(&facts, &config, What::Concurrency, &words);
    let command = "presswork jobs list --lane default --state running";
    assert_eq!(full.command.as_deref(), Some(command));
    facts.line = Some(Line {
        before: 0,
        completed: 30,
        span: Span::from_secs(60),
    });
    assert_eq!(told(&facts, &config).estimate.unwrap().at, at(2));
    facts.running.pop();
    assert_eq!(told(&facts, &config).constraints, []);
    // without a bound for all, the daemons' own rooms are one
    let lane = config.lanes.get_mut("default").unwrap();
    (lane.concurrency, lane.room) = (None, 6);
    one(&facts, &config, What::Concurrency, &["6 of 6 run"]);
    facts.runs.push(run());
    assert_eq!(told(&facts, &config).constraints, []);
}

#[test]
fn who_could_run_it_must_be_there() {
    let (mut facts, config) = (facts(State::Ready), config());
    facts.runs.clear();
    let none = one(&facts, &config, What::Daemon, &["No daemon runs"]);
    assert_eq!(none.command.as_deref(), Some("presswork run"));
    facts.runs = vec![run()];
    facts.kind_known = false;
    one(&facts, &config, What::Kind, &["its kind `post.mastodon`"]);
    facts.kind_known = true;
    facts.job.lane = "odd".to_owned();
    one(&facts, &config, What::Lane, &["Add [lanes.odd]"]);
}

#[test]
fn all_that_binds_is_told_in_its_order() {
    let (mut facts, config) = (facts(State::Scheduled), config());
    facts.job.run_at = at(60);
    facts.closures = vec![
        closure(Cause::Stop, "ada", ""),
        closure(Cause::Learned, "presswork", "").until(at(9)),
    ];
    facts.pause = Some(Pause {
        lane: "default".to_owned(),
        reason: String::new(),
        by: "ada".to_owned(),
        at: at(-30),
    });
    facts.runs.clear();
    let all = told(&facts, &config).constraints;
    let all: Vec<What> = all.iter().map(|it| it.what).collect();
    let order = [
        What::Due,
        What::Stop,
        What::Learned,
        What::Pause,
        What::Daemon,
    ];
    assert_eq!(all, order);
}

#[test]
fn one_that_runs_is_told_with_its_host_its_lease_and_what_is_being_sent() {
    let (mut facts, config) = (facts(State::Running), config());
    facts.job.run = Some(RUN);
    facts.job.claimed_at = Some(at(-70));
    facts.lease_until = Some(at(5));
    let words = [
        "It runs on press-1 for 1 m.",
        "ends at 2027-01-15T08:00:05Z (in 5.0 s)",
    ];
    let runs = one(&facts, &config, What::Running, &words);
    assert_eq!((runs.since, runs.until), (Some(at(-70)), Some(at(5))));
    assert_eq!(runs.by.as_deref(), Some("press-1"));
    let class = EffectClass::A;
    let of = (facts.job.id, 0);
    let mut effect = Effect::new(of, ("publish", 0), "main", "mastodon.status", class);
    effect.state = EffectState::Sending;
    (effect.permit_at, effect.permit_run) = (Some(at(-3)), Some(RUN));
    facts.effects = vec![effect];
    let sending = told(&facts, &config).constraints.remove(1);
    assert_eq!((sending.what, sending.since), (What::Effect, Some(at(-3))));
    assert!(sending.text.contains("mastodon.status") && sending.text.contains("3.0 s ago"));
    facts.runs.clear();
    let gone = told(&facts, &config).constraints.remove(0);
    assert!(gone.text.contains("is gone"), "{}", gone.text);
}

#[test]
fn what_waits_for_somebody_or_has_ended_says_so() {
    let config = config();
    let mut held = facts(State::Held);
    held.job.held = Some(Held::Account);
    let it = one(&held, &config, What::Held, &["refused the credentials"]);
    let command = "presswork jobs release --account main";
    assert_eq!(it.command.as_deref(), Some(command));
    one(
        &facts(State::Waiting),
        &config,
        What::Waiting,
        &["come before it"],
    );
    let it = one(
        &facts(State::Unresolved),
        &config,
        What::Unresolved,
        &["only a person can say"],
    );
    assert!(it.command.unwrap().starts_with("presswork unresolved show"));
    let mut dead = facts(State::Dead);
    let failure = Failure::new(Class::Permanent, Scope::Content, "http_503", "no");
    dead.job.failure = Some(failure);
    let it = one(&dead, &config, What::Ended, &["payload"]);
    assert!(it.command.unwrap().starts_with("presswork dead show"));
    one(
        &facts(State::Cancelled),
        &config,
        What::Ended,
        &["It was cancelled"],
    );
    one(
        &facts(State::Completed),
        &config,
        What::Ended,
        &["It was completed"],
    );
}

#[test]
fn who_does_a_job_in_its_accounts_stead_is_told_and_what_closes_that_one_doesnt_keep_it() {
    let mut config = config();
    for name in ["a", "b"] {
        let url = Url::parse("https://ai.example").unwrap();
        let account = Account::at("openai", url);
        config.accounts.insert(name.to_owned(), account);
    }
    let (account, model) = ("b".to_owned(), None);
    let settings = config.kinds.entry("generate.text".to_owned());
    settings.or_default().fallbacks = vec![Fallback { account, model }];
    let mut facts = facts(State::Ready);
    facts.kind_known = true;
    facts.job.kind = "generate.text".to_owned();
    facts.job.account = Some("a".to_owned());
    let closed = |cause, account: &str| {
        let scope = Area::of_account(account);
        Closure::new(cause, scope, ("presswork", "http_503"), at(-10))
    };
    let fallback = |facts: &Facts| {
        let it = told(facts, &config);
        let said = it.fallback.map(|it| (it.account, it.text));
        (said, it.constraints.len())
    };
    assert_eq!(fallback(&facts), (None, 0));
    facts.closures = vec![closed(Cause::Breaker, "a")];
    let (said, kept) = fallback(&facts);
    let (account, text) = said.expect("it goes to another one");
    assert_eq!((&*account, kept), ("b", 0));
    assert!(text.contains("`b`: account `a` keeps failing"), "{text}");
    assert_eq!(seen(&facts, &config, Eyes::User).fallback, None);
    // both are closed
    facts.closures.push(closed(Cause::Breaker, "b"));
    assert_eq!(fallback(&facts), (None, 2));
    // it was sent there
    let of = (facts.job.id, 0);
    let sent = |account: &str| Effect {
        state: EffectState::Unknown,
        ..Effect::new(of, ("generate", 0), account, "openai.text", EffectClass::P)
    };
    facts.effects = vec![sent("b")];
    let (said, kept) = fallback(&facts);
    assert_eq!((said.map(|it| it.0), kept), (Some("b".to_owned()), 1));
    facts.effects = vec![sent("a")];
    assert_eq!(fallback(&facts), (None, 1));
    // a budget that is used up for long is as good as closed
    (facts.effects, facts.closures) = (vec![], vec![]);
    let form = Form::Rolling {
        most: 0,
        window: Duration::hours(1),
    };
    let budget = Budget {
        account: Some("a".to_owned()),
        ..budget(form, Per::Account, None)
    };
    config.budgets.insert("texts".to_owned(), budget);
    let it = told(&facts, &config);
    let (said, kept) = (it.fallback.map(|it| it.account), it.constraints);
    assert_eq!((said.as_deref(), kept), (Some("b"), vec![]));
}
