//! Looking: lists, groups, counts, pauses, the audit; the quarantine; and housekeeping.

use std::collections::BTreeSet;
use std::time::Duration;

use presswork::job::{Job, JobId, NewJob};
use presswork::ledger::{Acceptance, Filter, Pause, Quarantined, Reason, Settled, Settlement};
use presswork::lifecycle::{Event, State};
use presswork::outcome::{Failure, Outcome};

use super::fixture::{Fixture, KIND, LANE, audit, follows, job, keyed, near};

async fn found(f: &Fixture, filter: &Filter) -> Vec<JobId> {
    let jobs = f.jobs(filter).await.unwrap();
    jobs.into_iter().map(|it| it.id).collect()
}

/// Buries a claimed job with a failure and its group.
async fn bury(f: &Fixture, new: NewJob, failure: Failure, group: &str) -> Job {
    let (_, job) = f.start(new).await;
    let settlement = Settlement {
        fingerprint: Some(group.to_owned()),
        ..follows(&job, Event::Ended(failure.into()), f.time().await)
    };
    assert_eq!(f.settle_one(settlement).await, Settled::Done);
    let dead = f.look(job.id).await;
    assert_eq!(dead.state, State::Dead);
    dead
}

pub async fn jobs_are_found_by_each_field(f: Fixture) {
    let marked = NewJob {
        lane: "odd".into(),
        tenant: "acme".into(),
        account: Some("press".into()),
        ..job("demo.odd")
    };
    let refused = Failure::permanent("http_422", "the text is too long");
    let dead = bury(&f, marked, refused, "abc").await;
    let other = Failure::permanent("http_401", "who?");
    let plain = bury(&f, job(KIND), other, "def").await;
    let text = |text: &str| Some(text.to_owned());
    let fits = [
        Filter {
            kind: text("demo.odd"),
            ..Filter::default()
        },
        Filter {
            lane: text("odd"),
            ..Filter::default()
        },
        Filter {
            account: text("press"),
            ..Filter::default()
        },
        Filter {
            tenant: text("acme"),
            ..Filter::default()
        },
        Filter {
            error: text("http_422"),
            ..Filter::default()
        },
        Filter {
            error: text("too long"),
            ..Filter::default()
        },
        Filter {
            fingerprint: text("abc"),
            ..Filter::default()
        },
        Filter {
            kind: text("demo.odd"),
            error: text("http_422"),
            ..Filter::default()
        },
    ];
    for filter in fits {
        assert_eq!(found(&f, &filter).await, [dead.id], "{filter:?}");
    }
    let misses = [
        Filter {
            kind: text("demo.none"),
            ..Filter::default()
        },
        Filter {
            error: text("http_4"),
            ..Filter::default()
        },
        Filter {
            error: text("%"),
            ..Filter::default()
        },
        Filter {
            kind: text("demo.odd"),
            fingerprint: text("def"),
            ..Filter::default()
        },
    ];
    for filter in misses {
        assert_eq!(found(&f, &filter).await, [], "{filter:?}");
    }
    assert_eq!(f.jobs(&Filter::default()).await.unwrap().len(), 2);
    assert_eq!(f.look(plain.id).await, plain);
}

pub async fn jobs_are_found_by_state(f: Fixture) {
    let ready = f.add(&[job(KIND)]).await[0];
    let (_, running) = f.start(job(KIND)).await;
    let dead = bury(&f, job(KIND), Failure::permanent("x", "x"), "g").await;
    let gone = bury(&f, job(KIND), Failure::permanent("x", "x"), "g").await;
    f.happen(&gone, Event::Discarded).await;
    let (_, done) = f.start(job(KIND)).await;
    f.happen(&done, Event::Ended(Outcome::Completed(1.into())))
        .await;
    let (_, called_off) = f.start(job(KIND)).await;
    f.happen(&called_off, Event::Ended(Outcome::Cancelled))
        .await;
    let of = |states: &[State]| Filter {
        states: states.to_vec(),
        ..Filter::default()
    };
    let each = [
        (State::Ready, ready),
        (State::Running, running.id),
        (State::Dead, dead.id),
        (State::Completed, done.id),
        (State::Cancelled, called_off.id),
    ];
    for (state, id) in each {
        assert_eq!(found(&f, &of(&[state])).await, [id], "{state}");
    }
    let open: BTreeSet<JobId> = found(&f, &Filter::default()).await.into_iter().collect();
    assert_eq!(
        open,
        [ready, running.id, dead.id].into(),
        "all unfinished ones and the dead"
    );
    let some = of(&[State::Ready, State::Completed]);
    assert_eq!(found(&f, &some).await, [done.id, ready], "newest first");
}

/// The dead are told by their end, all others by their acceptance.
pub async fn jobs_come_newest_first_and_by_time(f: Fixture) {
    let old = job(KIND);
    f.add(std::slice::from_ref(&old)).await;
    f.shift(1_000).await;
    let middle = f.time().await;
    f.shift(1_000).await;
    let young = f.add(&[job(KIND)]).await[0];
    let of = |before, after| Filter {
        before,
        after,
        ..Filter::default()
    };
    assert_eq!(found(&f, &of(None, None)).await, [young, old.id]);
    assert_eq!(found(&f, &of(Some(middle), None)).await, [old.id]);
    assert_eq!(found(&f, &of(None, Some(middle))).await, [young]);
    let claim = f.enter().await;
    let running = f.take(&claim, old.id).await;
    f.shift(1_000).await;
    f.happen(&running, Event::Ended(Failure::permanent("x", "x").into()))
        .await;
    assert_eq!(
        found(&f, &of(None, None)).await,
        [old.id, young],
        "it died last"
    );
    assert_eq!(found(&f, &of(Some(middle), None)).await, []);
    let limited = Filter {
        limit: 1,
        ..Filter::default()
    };
    assert_eq!(found(&f, &limited).await, [old.id]);
    let claim = f.enter().await;
    let running = f.take(&claim, young).await;
    f.shift(1_000).await;
    f.happen(&running, Event::Ended(Outcome::Completed(1.into())))
        .await;
    let done = Filter {
        states: vec![State::Completed],
        ..of(None, Some(running.created_at))
    };
    assert_eq!(
        found(&f, &done).await,
        [young],
        "at or after its acceptance"
    );
    let before = Filter {
        before: Some(running.created_at),
        after: None,
        ..done
    };
    assert_eq!(found(&f, &before).await, []);
}

pub async fn a_list_without_a_limit_has_a_hundred(f: Fixture) {
    let jobs: Vec<NewJob> = (0..103).map(|_| job(KIND)).collect();
    let mut ids = f.add(&jobs).await;
    ids.reverse();
    assert_eq!(found(&f, &Filter::default()).await, ids[..100]);
    assert_eq!(
        found(
            &f,
            &Filter {
                limit: 200,
                ..Filter::default()
            }
        )
        .await,
        ids
    );
}

pub async fn dead_letters_are_grouped_by_their_error(f: Fixture) {
    let slow = || Failure::permanent("http_500", "it broke");
    let first = bury(&f, job(KIND), slow(), "aaa").await;
    f.shift(100).await;
    bury(&f, job(KIND), slow(), "aaa").await;
    f.shift(100).await;
    let last = bury(&f, job(KIND), slow(), "aaa").await;
    let lone = bury(&f, job("demo.odd"), Failure::permanent("x", "y"), "bbb").await;
    f.add(&[job(KIND)]).await;
    let groups = f.groups(&Filter::default()).await.unwrap();
    assert_eq!(groups.len(), 2);
    assert_eq!(
        (groups[0].fingerprint.as_str(), groups[0].kind.as_str()),
        ("aaa", KIND)
    );
    assert_eq!((groups[0].count, &groups[0].failure), (3, &Some(slow())));
    assert_eq!(
        (Some(groups[0].first), Some(groups[0].last)),
        (first.ended_at, last.ended_at)
    );
    assert_eq!((groups[1].count, groups[1].kind.as_str()), (1, "demo.odd"));
    let odd = Filter {
        kind: Some("demo.odd".into()),
        ..Filter::default()
    };
    assert_eq!(f.groups(&odd).await.unwrap(), groups[1..]);
    assert_eq!(
        f.groups(&Filter {
            limit: 1,
            ..Filter::default()
        })
        .await
        .unwrap(),
        groups[..1]
    );
    f.happen(&lone, Event::Revived).await;
    assert_eq!(f.groups(&Filter::default()).await.unwrap(), groups[..1]);
}

pub async fn counts_are_by_lane_and_state(f: Fixture) {
    assert!(f.counts().await.unwrap().is_empty());
    let elsewhere = NewJob {
        lane: "odd".into(),
        ..job(KIND)
    };
    f.add(&[job(KIND), job(KIND), elsewhere]).await;
    f.start(job(KIND)).await;
    bury(&f, job(KIND), Failure::permanent("x", "x"), "g").await;
    let (_, done) = f.start(job(KIND)).await;
    f.happen(&done, Event::Ended(Outcome::Completed(1.into())))
        .await;
    let of = |lane: &str, state, count| ((lane.to_owned(), state), count);
    let expected = [
        of(LANE, State::Ready, 2),
        of(LANE, State::Running, 1),
        of(LANE, State::Dead, 1),
        of("odd", State::Ready, 1),
    ];
    assert_eq!(f.counts().await.unwrap(), expected.into());
}

pub async fn a_paused_lane_is_told_with_its_reason(f: Fixture) {
    let now = f.time().await;
    let pause = |lane: &str, reason: &str| Pause {
        lane: lane.to_owned(),
        reason: reason.to_owned(),
        by: "ann".into(),
        at: now,
    };
    let (one, two) = (pause("b", "broken"), pause("a", "budget"));
    f.pause("b", Some(&one), &audit("pause", None, now))
        .await
        .unwrap();
    f.pause("a", Some(&two), &audit("pause", None, now))
        .await
        .unwrap();
    assert_eq!(f.paused().await.unwrap(), [two.clone(), one]);
    let changed = pause("b", "still broken");
    f.pause("b", Some(&changed), &audit("pause", None, now))
        .await
        .unwrap();
    assert_eq!(f.paused().await.unwrap(), [two.clone(), changed]);
    f.pause("b", None, &audit("resume", None, now))
        .await
        .unwrap();
    assert_eq!(f.paused().await.unwrap(), [two]);
    let told = f.audit(None, 10).await.unwrap();
    let told: Vec<&str> = told.iter().map(|it| it.action.as_str()).collect();
    assert_eq!(told, ["resume", "pause", "pause", "pause"], "newest first");
}

pub async fn the_audit_is_told_newest_first(f: Fixture) {
    let ids = f.add(&[job(KIND), job(KIND), job(KIND)]).await;
    for id in &ids {
        let seen = f.look(*id).await;
        let now = f.time().await;
        let why = Some(audit("cancel", Some(*id), now));
        let settlement = Settlement {
            audit: why,
            ..follows(&seen, Event::CancelAsked, now)
        };
        f.settle_one(settlement).await;
    }
    let of = |audits: Vec<presswork::ledger::Audit>| -> Vec<JobId> {
        audits.into_iter().filter_map(|it| it.job).collect()
    };
    assert_eq!(
        of(f.audit(None, 10).await.unwrap()),
        [ids[2], ids[1], ids[0]]
    );
    assert_eq!(of(f.audit(None, 2).await.unwrap()), [ids[2], ids[1]]);
    assert_eq!(of(f.audit(Some(ids[1]), 10).await.unwrap()), [ids[1]]);
    assert_eq!(f.audit(Some(JobId::mint()), 10).await.unwrap(), []);
}

async fn entry(f: &Fixture, kind: Option<&str>) -> Quarantined {
    Quarantined {
        id: JobId::mint(),
        door: "inbox".into(),
        at: f.time().await,
        reason: Reason::Malformed,
        message: "expected `,` at column 7".into(),
        kind: kind.map(str::to_owned),
        bytes: vec![0, 255, b'{', 10, 0xc3, 0x28],
    }
}

pub async fn quarantine_keeps_the_bytes(f: Fixture) {
    let mut all = vec![];
    for reason in Reason::ALL {
        let it = Quarantined {
            reason: *reason,
            ..entry(&f, Some(KIND)).await
        };
        f.quarantine(std::slice::from_ref(&it)).await.unwrap();
        all.insert(0, it);
        f.shift(1).await;
    }
    let unread = entry(&f, None).await;
    f.quarantine(std::slice::from_ref(&unread)).await.unwrap();
    assert_eq!(f.quarantined(Some(KIND), 100).await.unwrap(), all);
    all.insert(0, unread.clone());
    assert_eq!(f.quarantined(None, 100).await.unwrap(), all, "newest first");
    assert_eq!(f.quarantined(None, 2).await.unwrap(), all[..2]);
    assert_eq!(f.quarantined_one(unread.id).await.unwrap(), Some(unread));
    assert_eq!(f.quarantined_one(JobId::mint()).await.unwrap(), None);
}

/// An entry whose acknowledgement was lost comes again; two of one batch may be the same.
pub async fn quarantine_is_idempotent(f: Fixture) {
    let first = entry(&f, None).await;
    let again = Quarantined {
        message: "another word".into(),
        ..first.clone()
    };
    let other = entry(&f, None).await;
    f.quarantine(&[first.clone(), again.clone()]).await.unwrap();
    f.quarantine(&[again, other]).await.unwrap();
    assert_eq!(f.quarantined(None, 10).await.unwrap().len(), 2);
    assert_eq!(f.quarantined_one(first.id).await.unwrap(), Some(first));
}

pub async fn what_waits_for_a_kind_is_found_and_given_its_new_reason(f: Fixture) {
    let known = |kinds: &[&str]| -> Vec<String> { kinds.iter().map(|it| (*it).into()).collect() };
    let mut waiting = vec![];
    for kind in ["a", "b", "a", "c"] {
        let it = Quarantined {
            reason: Reason::UnknownKind,
            ..entry(&f, Some(kind)).await
        };
        f.quarantine(std::slice::from_ref(&it)).await.unwrap();
        waiting.push(it);
        f.shift(1).await;
    }
    // of the kind, and here for another reason
    let malformed = entry(&f, Some("a")).await;
    f.quarantine(&[malformed]).await.unwrap();
    let (a, b) = (known(&["a"]), known(&["b", "x"]));
    let ids = [waiting[0].id, waiting[2].id];
    assert_eq!(f.quarantined_kinds(&a, 9).await.unwrap(), ids);
    assert_eq!(f.quarantined_kinds(&a, 1).await.unwrap(), ids[..1]);
    assert_eq!(f.quarantined_kinds(&b, 9).await.unwrap(), [waiting[1].id]);
    let both = known(&["a", "b"]);
    assert_eq!(f.quarantined_kinds(&both, 9).await.unwrap().len(), 3);
    assert_eq!(f.quarantined_kinds(&both, 2).await.unwrap().len(), 2);
    assert_eq!(f.quarantined_kinds(&[], 9).await.unwrap(), []);

    let now = Quarantined {
        reason: Reason::Invalid,
        message: "/payload/x: is missing".into(),
        ..waiting[0].clone()
    };
    assert!(f.requarantine(Reason::UnknownKind, &now).await.unwrap());
    assert!(!f.requarantine(Reason::UnknownKind, &now).await.unwrap());
    assert_eq!(f.quarantined_one(now.id).await.unwrap(), Some(now));
    assert_eq!(f.quarantined_kinds(&a, 9).await.unwrap(), ids[1..]);
}

/// The quarantine is the last place to go: what holds a NUL must not be refused there as well.
pub async fn quarantine_takes_what_no_text_can_hold(f: Fixture) {
    let odd = Quarantined {
        message: "near `\0`".into(),
        ..entry(&f, Some("a\0b")).await
    };
    f.quarantine(std::slice::from_ref(&odd)).await.unwrap();
    let kept = f
        .quarantined_one(odd.id)
        .await
        .unwrap()
        .expect("it is there");
    assert_eq!((kept.bytes, kept.reason), (odd.bytes, odd.reason));
}

pub async fn what_leaves_the_quarantine_is_audited(f: Fixture) {
    let it = entry(&f, None).await;
    f.quarantine(std::slice::from_ref(&it)).await.unwrap();
    let why = audit("discard", Some(it.id), f.time().await);
    assert!(f.unquarantine(it.id, &why).await.unwrap());
    assert!(!f.unquarantine(it.id, &why).await.unwrap());
    assert_eq!(f.quarantined(None, 10).await.unwrap(), []);
    assert_eq!(f.audit(Some(it.id), 10).await.unwrap().len(), 1);
}

const DAY: Duration = Duration::from_secs(86_400);

pub async fn keys_outlive_finished_jobs_and_both_go(f: Fixture) {
    let (_, job) = f.start(keyed("k")).await;
    f.happen(&job, Event::Ended(Outcome::Completed(1.into())))
        .await;
    f.tidy(7 * DAY, 30 * DAY).await.unwrap();
    assert!(f.job(job.id).await.unwrap().is_some());
    f.shift(10 * 86_400).await;
    assert!(0 < f.tidy(7 * DAY, 30 * DAY).await.unwrap());
    assert_eq!(f.job(job.id).await.unwrap(), None);
    assert_eq!(f.attempts(job.id).await.unwrap(), []);
    let again = f.accept(&[keyed("k")]).await.unwrap();
    assert_eq!(
        again,
        [Acceptance::Same {
            id: job.id,
            options: "{}".into()
        }]
    );
    f.shift(25 * 86_400).await;
    assert!(0 < f.tidy(7 * DAY, 30 * DAY).await.unwrap());
    assert_eq!(f.job_of_key("default", KIND, "k").await.unwrap(), None);
    assert_eq!(f.add(&[keyed("k")]).await.len(), 1, "it is new again");
}

/// A dead letter may be revived: its key is kept as long as it is, and so is it.
pub async fn a_dead_letter_and_its_key_stay(f: Fixture) {
    let dead = bury(&f, keyed("k"), Failure::permanent("x", "x"), "g").await;
    let waiting = NewJob {
        run_at: Some(f.time().await + chrono::Duration::days(900)),
        ..keyed("later")
    };
    f.add(std::slice::from_ref(&waiting)).await;
    f.shift(400 * 86_400).await;
    f.tidy(DAY, DAY).await.unwrap();
    assert_eq!(f.look(dead.id).await, dead);
    let again = f.accept(&[keyed("k"), keyed("later")]).await.unwrap();
    let same = |id| Acceptance::Same {
        id,
        options: "{}".to_owned(),
    };
    assert_eq!(again, [same(dead.id), same(waiting.id)]);
    // once it is given up, its keeping begins
    f.happen(&dead, Event::Discarded).await;
    f.tidy(7 * DAY, 7 * DAY).await.unwrap();
    assert!(f.job(dead.id).await.unwrap().is_some());
    f.shift(10 * 86_400).await;
    f.tidy(7 * DAY, 7 * DAY).await.unwrap();
    assert_eq!(f.job(dead.id).await.unwrap(), None);
    assert_eq!(f.job_of_key("default", KIND, "k").await.unwrap(), None);
}

pub async fn a_store_tells_what_it_is(f: Fixture) {
    let schema = f.schema().await.unwrap();
    assert_eq!(schema.found, schema.known);
    let again = f.migrate().await.unwrap();
    assert_eq!(
        (again.from, again.to),
        (schema.known, schema.known),
        "nothing is left to do"
    );
    assert!(["sqlite", "postgres"].contains(&f.name()));
    assert!(near(f.time().await, f.time().await));
}
