//! Intake: jobs under their keys.

use std::collections::BTreeSet;

use presswork::job::{JobId, NewJob, Priority};
use presswork::ledger::{Acceptance, LedgerError, Together};
use presswork::lifecycle::{Event, State};
use presswork::outcome::Outcome;

use super::fixture::{Fixture, KIND, LEASE, job, keyed, near, with_payload};

pub async fn a_new_job_comes_back_as_it_was(f: Fixture) {
    let now = f.time().await;
    let new = NewJob {
        account: Some("press".into()),
        priority: Priority::High,
        key: Some("k".into()),
        not_after: Some(now + chrono::Duration::hours(1)),
        labels: [("Quelle".into(), "Größe ☃".into())].into(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        reply_to: Some("token".into()),
        tenant: "acme".into(),
        ..job(KIND)
    };
    let answers = f.accept(std::slice::from_ref(&new)).await.unwrap();
    assert_eq!(
        answers,
        [Acceptance::New {
            id: new.id,
            due: true,
            repeats: None,
        }]
    );
    let job = f.look(new.id).await;
    assert_eq!(
        (&job.kind, &job.lane, &job.tenant),
        (&new.kind, &new.lane, &new.tenant)
    );
    assert_eq!(
        (&job.account, &job.key, job.priority),
        (&new.account, &new.key, new.priority)
    );
    assert_eq!((&job.payload, &job.labels), (&new.payload, &new.labels));
    assert_eq!(
        (&job.traceparent, &job.reply_to),
        (&new.traceparent, &new.reply_to)
    );
    assert_eq!(
        (job.attempts_max, job.timeout_s),
        (new.attempts_max, new.timeout_s)
    );
    assert_eq!(job.not_after, new.not_after);
    assert!(near(job.created_at, now) && near(job.run_at, now));
    assert!(near(job.expires_at, now + chrono::Duration::days(7)));
    assert_eq!(
        (job.attempts, job.crashes, job.epoch, job.revision),
        (0, 0, 0, 0)
    );
    assert_eq!(
        (job.state, job.token, job.run, job.cancel),
        (State::Ready, None, None, false)
    );
    assert_eq!(
        (job.failure, job.result, job.ended_at, job.held),
        (None, None, None, None)
    );
}

pub async fn a_job_is_due_at_once_or_at_its_time(f: Fixture) {
    let now = f.time().await;
    let later = NewJob {
        run_at: Some(now + chrono::Duration::hours(2)),
        ..job(KIND)
    };
    let past = NewJob {
        run_at: Some(now - chrono::Duration::hours(2)),
        ..job(KIND)
    };
    let answers = f.accept(&[later.clone(), past.clone()]).await.unwrap();
    assert_eq!(
        answers[0],
        Acceptance::New {
            id: later.id,
            due: false,
            repeats: None,
        }
    );
    assert_eq!(
        answers[1],
        Acceptance::New {
            id: past.id,
            due: true,
            repeats: None,
        }
    );
    let job = f.look(later.id).await;
    assert_eq!(
        (job.state, Some(job.run_at)),
        (State::Scheduled, later.run_at)
    );
    // its age is counted from when it may run: else a job for next month would be born too old
    assert!(near(job.expires_at, job.run_at + chrono::Duration::days(7)));
    assert_eq!(f.look(past.id).await.state, State::Ready);
}

pub async fn a_known_key_is_the_same_job(f: Fixture) {
    let first = NewJob {
        options: r#"{"priority":"high"}"#.into(),
        said: None,
        ..keyed("k")
    };
    f.add(std::slice::from_ref(&first)).await;
    let again = NewJob {
        options: r#"{"priority":"low"}"#.into(),
        said: None,
        ..keyed("k")
    };
    let answers = f.accept(std::slice::from_ref(&again)).await.unwrap();
    assert_eq!(
        answers,
        [Acceptance::Same {
            id: first.id,
            options: first.options
        }]
    );
    assert_eq!(f.job(again.id).await.unwrap(), None);
    assert_eq!(
        f.job_of_key("default", KIND, "k").await.unwrap(),
        Some(first.id)
    );
}

pub async fn a_known_key_with_another_payload_is_a_conflict(f: Fixture) {
    let first = keyed("k");
    f.add(std::slice::from_ref(&first)).await;
    let other = with_payload(keyed("k"), r#"{"n":2}"#);
    let answers = f.accept(&[other.clone(), keyed("l")]).await.unwrap();
    assert_eq!(answers[0], Acceptance::Conflict { id: first.id });
    assert!(
        matches!(answers[1], Acceptance::New { .. }),
        "a conflict is no error of its batch"
    );
    assert_eq!(f.job(other.id).await.unwrap(), None);
    assert_eq!(f.look(first.id).await.payload, first.payload);
}

pub async fn two_of_one_batch_may_share_a_key(f: Fixture) {
    let batch = [
        keyed("k"),
        keyed("k"),
        with_payload(keyed("k"), r#"{"n":2}"#),
        keyed("l"),
    ];
    let answers = f.accept(&batch).await.unwrap();
    let first = batch[0].id;
    assert_eq!(
        answers[0],
        Acceptance::New {
            id: first,
            due: true,
            repeats: None,
        }
    );
    assert_eq!(
        answers[1],
        Acceptance::Same {
            id: first,
            options: "{}".into()
        }
    );
    assert_eq!(answers[2], Acceptance::Conflict { id: first });
    assert_eq!(
        answers[3],
        Acceptance::New {
            id: batch[3].id,
            due: true,
            repeats: None,
        }
    );
}

pub async fn the_key_of_a_finished_job_is_known(f: Fixture) {
    let (_, job) = f.start(keyed("k")).await;
    let done = f
        .happen(&job, Event::Ended(Outcome::Completed(1.into())))
        .await;
    assert_eq!(done.state, State::Completed);
    let answers = f
        .accept(&[keyed("k"), with_payload(keyed("k"), "2")])
        .await
        .unwrap();
    assert_eq!(
        answers[0],
        Acceptance::Same {
            id: job.id,
            options: "{}".into()
        }
    );
    assert_eq!(answers[1], Acceptance::Conflict { id: job.id });
}

pub async fn a_key_belongs_to_a_tenant_and_a_kind(f: Fixture) {
    let here = keyed("k");
    let tenant = NewJob {
        tenant: "acme".into(),
        ..keyed("k")
    };
    let kind = NewJob {
        key: Some("k".into()),
        ..job("demo.other")
    };
    f.add(&[here.clone(), tenant.clone(), kind.clone()]).await;
    for it in [here, tenant, kind] {
        let found = f.job_of_key(&it.tenant, &it.kind, "k").await.unwrap();
        assert_eq!(found, Some(it.id));
    }
    assert_eq!(f.job_of_key("nobody", KIND, "k").await.unwrap(), None);
}

pub async fn the_digest_decides_not_the_bytes(f: Fixture) {
    let first = keyed("k");
    f.add(std::slice::from_ref(&first)).await;
    let spaced = NewJob {
        payload: r#"{ "n": 1 }"#.into(),
        ..keyed("k")
    };
    let answers = f.accept(&[spaced]).await.unwrap();
    assert_eq!(
        answers,
        [Acceptance::Same {
            id: first.id,
            options: "{}".into()
        }]
    );
    assert_eq!(f.look(first.id).await.payload, first.payload);
}

/// The inbox mints an entry's id when it takes it: what was accepted and then taken again (its
/// acknowledgement was lost) is the same job, also when that has ended meanwhile.
pub async fn an_entry_without_a_key_is_known_by_its_id(f: Fixture) {
    let (waiting, twice) = (job(KIND), job(KIND));
    let answers = f.accept(&[twice.clone(), twice.clone()]).await.unwrap();
    let same = |id| Acceptance::Same {
        id,
        options: "{}".to_owned(),
    };
    assert_eq!(
        answers,
        [
            Acceptance::New {
                id: twice.id,
                due: true,
                repeats: None,
            },
            same(twice.id)
        ]
    );
    f.add(std::slice::from_ref(&waiting)).await;
    let ended = job(KIND);
    let (_, running) = f.start(ended.clone()).await;
    f.happen(&running, Event::Ended(Outcome::Completed(1.into())))
        .await;
    let answers = f.accept(&[waiting.clone(), ended.clone()]).await.unwrap();
    assert_eq!(answers, [same(waiting.id), same(ended.id)]);
    assert_eq!(f.look(ended.id).await.state, State::Completed);
    let open: u64 = f.counts().await.unwrap().values().sum();
    assert_eq!(open, 2);
}

/// PostgreSQL's text holds no NUL. The batch is all or nothing, so that the caller can bisect it.
pub async fn a_poison_row_stops_its_batch(f: Fixture) {
    let poisons = [
        NewJob {
            account: Some("a\0b".into()),
            ..job(KIND)
        },
        NewJob {
            tenant: "\0".into(),
            ..job(KIND)
        },
        NewJob {
            key: Some("k\0".into()),
            ..job(KIND)
        },
    ];
    for poison in poisons {
        let good = keyed("good");
        let error = f.accept(&[good.clone(), poison.clone()]).await.unwrap_err();
        assert!(matches!(error, LedgerError::Row(_)), "{error:?}");
        assert_eq!(f.job(good.id).await.unwrap(), None);
        assert_eq!(f.job_of_key("default", KIND, "good").await.unwrap(), None);
        assert_eq!(f.job(poison.id).await.unwrap(), None);
    }
    f.add(&[keyed("good")]).await;
}

pub async fn together_all_are_written_or_none(f: Fixture) {
    let new = |it: &NewJob| Acceptance::New {
        id: it.id,
        due: true,
        repeats: None,
    };
    let (a, b) = (keyed("a"), keyed("b"));
    let answer = f.accept_together(&[a.clone(), b.clone()]).await.unwrap();
    assert_eq!(answer, Together::Written(vec![new(&a), new(&b)]));
    // the same again is no refusal, and what has no key is new each time
    let (c, plain) = (keyed("c"), job(KIND));
    let batch = [keyed("b"), c.clone(), plain.clone()];
    let Together::Written(answers) = f.accept_together(&batch).await.unwrap() else {
        panic!("it is refused");
    };
    assert!(matches!(answers[0], Acceptance::Same { id, .. } if id == b.id));
    assert_eq!(answers[1..], [new(&c), new(&plain)]);
    let same = f.accept_together(&[keyed("a"), keyed("c")]).await.unwrap();
    assert!(matches!(same, Together::Written(it) if it.len() == 2));
    let count = async || f.counts().await.unwrap().values().sum::<u64>();
    assert_eq!(count().await, 4);
    for conflict in [0, 1, 2] {
        let mut batch = vec![keyed("d"), keyed("e")];
        batch.insert(conflict, with_payload(keyed("c"), "2"));
        let refused = Together::Refused {
            at: conflict,
            why: Acceptance::Conflict { id: c.id },
        };
        assert_eq!(f.accept_together(&batch).await.unwrap(), refused);
        assert_eq!(f.job_of_key("default", KIND, "d").await.unwrap(), None);
        assert_eq!(f.job(batch[0].id).await.unwrap(), None);
    }
    assert_eq!(count().await, 4);
    f.add(&[keyed("d"), keyed("e")]).await;
    let poison = NewJob {
        tenant: "\0".into(),
        ..job(KIND)
    };
    let error = f.accept_together(&[keyed("f"), poison]).await.unwrap_err();
    assert!(matches!(error, LedgerError::Row(_)), "{error:?}");
    assert_eq!(f.job_of_key("default", KIND, "f").await.unwrap(), None);
    assert_eq!(
        f.accept_together(&[]).await.unwrap(),
        Together::Written(vec![])
    );
}

/// Whoever comes second finds the key taken: of two groups that share one with another payload, one is
/// written and nothing of the other.
pub async fn of_groups_at_once_with_a_conflict_one_is_written(f: Fixture) {
    for round in 0..20 {
        let group = |turn: u32| {
            let shared = with_payload(keyed(&format!("shared{round}")), &turn.to_string());
            [keyed(&format!("own{round}-{turn}")), shared]
        };
        let tasks = (0..4).map(|turn| {
            let (ledger, group) = (f.ledger.clone(), group(turn));
            tokio::spawn(async move { ledger.accept_together(&group).await.unwrap() })
        });
        let mut written = Vec::new();
        for (turn, task) in tasks.collect::<Vec<_>>().into_iter().enumerate() {
            if let Together::Written(_) = task.await.unwrap() {
                written.push(turn);
            }
        }
        assert_eq!(written.len(), 1, "{written:?}");
        for turn in 0..4 {
            let own = format!("own{round}-{turn}");
            let found = f.job_of_key("default", KIND, &own).await.unwrap();
            assert_eq!(found.is_some(), written[0] == turn, "{own}");
        }
    }
}

pub async fn payload_bytes_come_back_verbatim(f: Fixture) {
    let payloads = [
        "{ \"a\" : \"\\u0000\\ud83d\\ude00\" }",
        r#"{"n": 123456789012345678901234567890.10e-2, "z": 0, "a": 1}"#,
        "[\t1 ,\n \"ü☃😀\" , {\"b\":1,\"a\":2,\"b\":3}]",
        "null",
    ];
    for payload in payloads {
        let new = with_payload(job(KIND), payload);
        let (_, job) = f.start(new).await;
        assert_eq!(&*job.payload, payload);
        let done = f
            .happen(&job, Event::Ended(Outcome::Completed(1.into())))
            .await;
        assert_eq!(&*done.payload, payload);
    }
}

pub async fn concurrent_accepts_of_the_same_keys_make_one_job_each(f: Fixture) {
    const KEYS: usize = 100;
    let batch = |turn: usize| -> Vec<NewJob> {
        let mut jobs: Vec<NewJob> = (0..KEYS).map(|n| keyed(&format!("k{n}"))).collect();
        // each in another order: locks are taken crosswise
        jobs.rotate_left(turn * 13);
        if turn % 2 == 1 {
            jobs.reverse();
        }
        jobs
    };
    let tasks = (0..8).map(|turn| {
        let (ledger, jobs) = (f.ledger.clone(), batch(turn));
        tokio::spawn(async move { (ledger.accept(&jobs).await.unwrap(), jobs) })
    });
    let mut new: Vec<JobId> = vec![];
    let mut told = BTreeSet::new();
    for task in tasks.collect::<Vec<_>>() {
        let (answers, jobs) = task.await.unwrap();
        for (answer, job) in answers.into_iter().zip(jobs) {
            let id = match answer {
                Acceptance::New { id, .. } => {
                    new.push(id);
                    id
                }
                Acceptance::Same { id, .. } => id,
                other => panic!("the same payload is the same job: {other:?}"),
            };
            told.insert((job.key, id));
        }
    }
    assert_eq!((new.len(), told.len()), (KEYS, KEYS));
    assert_eq!(f.counts().await.unwrap().values().sum::<u64>(), KEYS as u64);
}

pub async fn an_empty_batch_is_no_error(f: Fixture) {
    assert_eq!(f.accept(&[]).await.unwrap(), []);
    assert_eq!(f.settle(&[]).await.unwrap(), []);
    f.quarantine(&[]).await.unwrap();
    f.progress(&[]).await.unwrap();
    let claim = f.enter().await;
    assert_eq!(f.claim(&claim, &[]).await.unwrap(), []);
    assert!(f.beat(claim.run, &[], LEASE).await.unwrap().is_some());
}
