//! The judge finds whatever is wrong: evidence of a good run, doctored in one place each.

use super::super::evidence::{Recovery, Stop};
use super::*;

/// A run in which two posts on X, one on Instagram, a text and a job without effects were brought, a
/// daemon was killed, and all went well.
struct Run {
    evidence: Evidence,
    acts: Vec<Act>,
    requests: Vec<Request>,
}

fn effect(class: &str, state: &str) -> EffectRow {
    EffectRow {
        op: "op".to_owned(),
        class: class.to_owned(),
        state: state.to_owned(),
        sends: 1,
        permit_at: Some(990),
    }
}

fn row(key: &str, kind: &str, effects: Vec<EffectRow>) -> Row {
    let past = |epoch, outcome: &str| Past {
        epoch,
        outcome: outcome.to_owned(),
        class: None,
    };
    Row {
        id: key.to_owned(),
        key: key.to_owned(),
        kind: kind.to_owned(),
        state: "completed".to_owned(),
        attempts_max: 5,
        epoch: 2,
        history: vec![past(1, "reclaimed"), past(2, "completed")],
        effects,
        ..Row::default()
    }
}

fn told(key: &str, kind: &str, door: Door) -> Told {
    Told {
        key: key.to_owned(),
        kind: kind.to_owned(),
        door,
        sent: Some(900),
        accepted: Some(910),
        meant: None,
    }
}

fn request(key: &str, op: &str, status: Option<u64>) -> Request {
    Request {
        key: key.to_owned(),
        op: op.to_owned(),
        writes: true,
        at: 1_000,
        end: Some(1_510),
        status,
        fault: None,
    }
}

fn act(key: &str, op: &str) -> Act {
    Act {
        key: key.to_owned(),
        op: op.to_owned(),
        at: 1_001,
    }
}

impl Run {
    fn good() -> Self {
        let jobs = [
            ("job-000001", "post.x", "post.create", "C"),
            ("job-000002", "post.instagram", "media.publish", "B"),
            ("job-000003", "generate.text", "chat.completion", "P"),
        ];
        let mut run = Self {
            evidence: Evidence {
                daemons: 1,
                in_flight_min: 1,
                ended: 60_000,
                strikes: vec![Strike {
                    n: 1,
                    what: "a kill".to_owned(),
                    sort: Sort::Kill,
                    at: 1_500,
                    until: 2_500,
                    shift_ms: 0,
                }],
                recoveries: vec![Recovery {
                    strike: 1,
                    held: 3,
                    ms: 700,
                }],
                ..Evidence::default()
            },
            acts: Vec::new(),
            requests: Vec::new(),
        };
        for (key, kind, op, class) in jobs {
            run.evidence.told.push(told(key, kind, Door::Http));
            let effects = vec![effect(class, "confirmed")];
            run.evidence.jobs.push(row(key, kind, effects));
            run.acts.push(act(key, op));
            run.requests.push(request(key, op, None));
            run.evidence.kinds.insert(kind.to_owned(), "one".to_owned());
        }
        let plain = told("job-000004", "test.job", Door::Inbox);
        run.evidence.told.push(plain);
        let plain = row("job-000004", "test.job", vec![]);
        run.evidence.jobs.push(plain);
        run.evidence.lanes.insert("one".to_owned(), Some(3));
        run
    }

    fn verdict(&self) -> Verdict {
        check(&self.evidence, &self.acts, &self.requests)
    }
}

/// A good run, doctored; what is then found.
fn doctored(doctor: impl FnOnce(&mut Run)) -> Verdict {
    let mut run = Run::good();
    doctor(&mut run);
    let verdict = run.verdict();
    assert!(!verdict.proven, "{verdict:?}");
    verdict
}

#[test]
fn a_good_run_is_proven() {
    let verdict = Run::good().verdict();
    assert!(verdict.proven, "{verdict:?}");
    assert_eq!((verdict.accepted, verdict.accepted_inbox), (3, 1));
    assert_eq!((verdict.in_flight_b, verdict.in_flight_c), (1, 1));
    assert_eq!((verdict.acted_unanswered, verdict.reclaimed), (2, 4));
    assert_eq!(verdict.recovery_ms_p50, Some(700));
    assert_eq!(verdict.lanes["one"], (3, Some(3)));
}

#[test]
fn what_is_gone_or_never_ends_is_lost() {
    let gone = doctored(|it| drop(it.evidence.jobs.remove(0)));
    assert_eq!(gone.lost, 1);
    let stuck = doctored(|it| it.evidence.jobs[0].state = "retrying".to_owned());
    assert_eq!(stuck.lost, 1);
}

#[test]
fn what_the_inbox_loses_is_counted_apart_and_only_a_wipe_excuses_it() {
    let lose = |it: &mut Run| drop(it.evidence.jobs.pop());
    let gone = doctored(lose);
    assert_eq!((gone.lost, gone.lost_inbox), (0, 1));
    assert_eq!(gone.lost_inbox_unexplained, 1);
    let mut run = Run::good();
    lose(&mut run);
    let wipe = Strike {
        sort: Sort::Flush,
        ..run.evidence.strikes[0].clone()
    };
    run.evidence.strikes.push(wipe);
    let wiped = run.verdict();
    assert!(wiped.proven, "{wiped:?}");
    assert_eq!((wiped.lost_inbox, wiped.lost_inbox_unexplained), (1, 0));
}

#[test]
fn what_happens_twice_is_a_duplicate_and_what_is_paid_for_twice_may_be_allowed() {
    let twice = doctored(|it| it.acts.push(act("job-000001", "post.create")));
    assert_eq!((twice.duplicated, twice.paid_twice), (1, 0));
    let two_jobs = doctored(|it| {
        let copy = it.evidence.jobs[0].clone();
        it.evidence.jobs.push(copy);
    });
    assert_eq!(two_jobs.duplicated, 1);
    let mut run = Run::good();
    run.acts.push(act("job-000003", "chat.completion"));
    assert_eq!((run.verdict().proven, run.verdict().paid_twice), (true, 1));
    run.acts.push(act("job-000003", "chat.completion"));
    assert_eq!((run.verdict().proven, run.verdict().duplicated), (false, 1));
    // an error that is documented to cost nothing, and did: no repeat was spent on it
    let mut lied = request("job-000003", "chat.completion", Some(500));
    lied.fault = Some("act_500".to_owned());
    run.requests.push(lied.clone());
    assert_eq!((run.verdict().proven, run.verdict().paid_twice), (true, 2));
    lied.status = None;
    *run.requests.last_mut().expect("it was pushed") = lied;
    assert_eq!((run.verdict().proven, run.verdict().duplicated), (false, 1));
}

#[test]
fn a_confirmation_of_what_never_happened_is_false() {
    let never = doctored(|it| drop(it.acts.remove(1)));
    assert_eq!(never.false_confirms, 1);
    let half = doctored(|it| {
        it.acts.remove(0);
        it.evidence.jobs[0].effects[0].state = "refused".to_owned();
    });
    assert_eq!(half.false_confirms, 1, "completed, and refused");
}

#[test]
fn a_refusal_of_what_happened_is_false() {
    for state in ["refused", "intended"] {
        let found = doctored(|it| {
            it.evidence.jobs[0].effects[0].state = state.to_owned();
            it.evidence.jobs[0].state = "unresolved".to_owned();
            it.evidence.jobs[0].history[1].outcome = "unknown".to_owned();
        });
        assert_eq!(found.false_refusals, 1, "{state}");
    }
    let unheard = doctored(|it| it.evidence.jobs[0].effects.clear());
    assert_eq!(unheard.false_refusals, 1);
    let stray = doctored(|it| it.acts.push(act("job-999999", "post.create")));
    assert_eq!(stray.false_refusals, 1);
}

/// The first job's effect as unresolved, with its request far from any strike.
fn unresolved(it: &mut Run) {
    let job = &mut it.evidence.jobs[0];
    job.state = "unresolved".to_owned();
    job.history[1].outcome = "unknown".to_owned();
    job.effects[0].state = "unresolved".to_owned();
    job.effects[0].permit_at = Some(20_000);
    it.requests[0].at = 20_010;
    it.requests[0].end = Some(20_020);
    it.requests[0].status = Some(201);
    it.evidence.in_flight_min = 0;
}

#[test]
fn an_unknown_needs_a_fault() {
    let bare = doctored(unresolved);
    assert_eq!((bare.unknown, bare.unknown_explained), (1, 0));
    assert_eq!(bare.unknown_happened, 1);
    type Excuse = fn(&mut Run);
    let excuses: [(&str, Excuse); 5] = [
        ("the answer was bent", |it| {
            it.requests[0].fault = Some("act_500".to_owned());
        }),
        ("there was no answer", |it| it.requests[0].status = None),
        ("a strike fell while it was under way", |it| {
            it.requests[0].at = 1_400;
        }),
        ("a strike fell upon its permit", |it| {
            it.requests.remove(0);
            it.evidence.jobs[0].effects[0].permit_at = Some(1_600);
        }),
        ("the same, by a clock that had jumped", |it| {
            it.requests.remove(0);
            it.evidence.jobs[0].effects[0].permit_at = Some(8_600);
            it.evidence.strikes[0].shift_ms = 7_000;
        }),
    ];
    for (why, excuse) in excuses {
        let mut run = Run::good();
        unresolved(&mut run);
        excuse(&mut run);
        let found = run.verdict();
        assert_eq!((found.unknown, found.unknown_explained), (1, 1), "{why}");
        assert!(found.violations.is_empty(), "{why}: {found:?}");
    }
}

#[test]
fn a_limit_that_is_overstepped_is_seen_and_a_zombie_isnt_counted() {
    let over = doctored(|it| {
        it.evidence.lanes.insert("one".to_owned(), Some(2));
    });
    assert_eq!(over.limits_overstepped, 1);
    let mut run = Run::good();
    run.evidence.lanes.insert("one".to_owned(), Some(2));
    run.evidence.strikes[0].sort = Sort::Freeze;
    let found = run.verdict();
    assert_eq!(found.limits_overstepped, 0, "{found:?}");
    assert!(found.violations.is_empty());
}

#[test]
fn histories_and_burials_must_make_sense() {
    let twice = doctored(|it| it.evidence.jobs[3].history[0].epoch = 2);
    assert_eq!(twice.histories_wrong, 1);
    let miscounted = doctored(|it| it.evidence.jobs[3].attempts = 1);
    assert_eq!(miscounted.histories_wrong, 1);
    let uncharged = doctored(|it| it.evidence.jobs[3].crashes = 1);
    assert_eq!(uncharged.histories_wrong, 1);
    let other = doctored(|it| it.evidence.jobs[3].kind = "post.x".to_owned());
    assert_eq!(other.histories_wrong, 1);
    let nobodys = doctored(|it| {
        let row = row("job-777777", "test.job", vec![]);
        it.evidence.jobs.push(row);
    });
    assert_eq!(nobodys.histories_wrong, 1);
    let bury = |it: &mut Run| {
        let job = &mut it.evidence.jobs[3];
        (job.state, job.code) = ("dead".to_owned(), Some("poison".to_owned()));
        job.history[1].outcome = "reclaimed".to_owned();
        job.crashes = 2;
    };
    let poisoned = doctored(bury);
    assert_eq!(poisoned.buried_wrongly, 1);
    let mut run = Run::good();
    bury(&mut run);
    run.evidence.told[3].meant = Some("poison".to_owned());
    assert!(run.verdict().proven, "{:?}", run.verdict());
    let quarantined = doctored(|it| it.evidence.quarantined.push("invalid".to_owned()));
    assert_eq!(quarantined.quarantined, 1);
}

#[test]
fn what_was_hardly_tried_is_not_proven() {
    let few = doctored(|it| it.evidence.in_flight_min = 2);
    assert_eq!((few.missing.len(), few.violations.len()), (2, 0));
    let answered = doctored(|it| {
        for request in &mut it.requests {
            request.status = Some(200);
        }
        it.evidence.strikes[0].sort = Sort::Postgres;
    });
    assert_eq!(answered.acted_unanswered, 0);
    let elsewhere = doctored(|it| {
        for request in &mut it.requests {
            // the other daemon's: it went on after the kill
            request.end = Some(4_000);
        }
    });
    assert_eq!((elsewhere.in_flight_b, elsewhere.in_flight_c), (0, 0));
}

#[test]
fn a_graceful_stop_costs_no_attempt_leaves_no_lease_and_excuses_nothing() {
    let stop = |exit| Stop {
        strike: 2,
        held: vec![("job-000001".to_owned(), 2), ("job-000004".to_owned(), 2)],
        ms: 40,
        exit,
    };
    let stopped = |it: &mut Run| {
        it.evidence.strikes.push(Strike {
            n: 2,
            sort: Sort::Stop,
            at: 20_000,
            until: 20_100,
            ..it.evidence.strikes[0].clone()
        });
        it.evidence.stops.push(stop(Some(0)));
    };
    let mut run = Run::good();
    stopped(&mut run);
    let found = run.verdict();
    assert!(found.proven, "{found:?}");
    assert_eq!((found.stop_ms_p50, found.stops_unclean), (Some(40), 0));
    let died = doctored(|it| {
        stopped(it);
        it.evidence.stops[0] = stop(None);
    });
    assert_eq!(died.stops_unclean, 1);
    let left = doctored(|it| {
        stopped(it);
        // its last lease was another one, so that its history makes sense
        let row = &mut it.evidence.jobs[3];
        row.history[1].outcome = "reclaimed".to_owned();
        row.history.push(Past {
            epoch: 3,
            outcome: "completed".to_owned(),
            class: None,
        });
        row.epoch = 3;
    });
    assert_eq!((left.stops_unclean, left.histories_wrong), (1, 0));
    // a moment after the ledger's clock had jumped, all leases looked as if they had run out
    let mut run = Run::good();
    stopped(&mut run);
    let row = &mut run.evidence.jobs[3];
    row.history[1].outcome = "reclaimed".to_owned();
    (row.history[0].outcome, row.state) = ("released".to_owned(), "cancelled".to_owned());
    let jump = Strike {
        n: 3,
        sort: Sort::Skew,
        at: 16_500,
        until: 17_500,
        ..run.evidence.strikes[0].clone()
    };
    run.evidence.strikes.insert(1, jump);
    assert_eq!(run.verdict().stops_unclean, 0);
    (run.evidence.strikes[1].at, run.evidence.strikes[1].until) = (15_000, 16_000);
    assert_eq!(run.verdict().stops_unclean, 1);
    let charge = |it: &mut Run| {
        stopped(it);
        let row = &mut it.evidence.jobs[0];
        row.history[1].outcome = "failed".to_owned();
        row.history[1].class = Some("transient".to_owned());
        row.history.push(Past {
            epoch: 3,
            outcome: "completed".to_owned(),
            class: None,
        });
        (row.epoch, row.attempts) = (3, 1);
        it.requests[0].status = Some(201);
    };
    assert_eq!(doctored(charge).stops_unclean, 1);
    let mut run = Run::good();
    charge(&mut run);
    run.requests[0].status = Some(503);
    assert_eq!(run.verdict().stops_unclean, 0, "a platform refused");
    let unknown = doctored(|it| {
        unresolved(it);
        stopped(it);
    });
    assert_eq!((unknown.unknown, unknown.unknown_explained), (1, 0));
}

#[test]
fn recoveries_are_told_apart_by_what_was_broken() {
    let mut run = Run::good();
    for (n, sort, ms) in [
        (2, Sort::Flush, 90),
        (3, Sort::Redis, 110),
        (4, Sort::Postgres, 1_500),
    ] {
        let strike = run.evidence.strikes[0].clone();
        run.evidence.strikes.push(Strike { n, sort, ..strike });
        let (strike, held) = (n, 1);
        run.evidence.recoveries.push(Recovery { strike, held, ms });
    }
    let found = run.verdict();
    assert_eq!((found.recoveries, found.recovery_ms_p99), (1, Some(700)));
    assert_eq!(found.flush_recoveries, 2);
    let flush = (found.flush_recovery_ms_p50, found.flush_recovery_ms_p99);
    assert_eq!(flush, (Some(90), Some(110)));
    assert_eq!(found.postgres_recovery_ms_p99, Some(1_500));
}
