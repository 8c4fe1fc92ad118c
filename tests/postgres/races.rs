//! Races, poison, and the loss of power to the server.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn eight_accept_the_same_keys_and_each_is_one_job() {
    let (ledger, url) = ledger().await;
    let keys: Vec<String> = (0..200).map(|it| format!("key-{it}")).collect();
    let tasks = (0..8).map(|task: usize| {
        let (ledger, mut keys) = (ledger.clone(), keys.clone());
        // each in another order
        keys.rotate_left(task * 25);
        if task % 2 == 1 {
            keys.reverse();
        }
        tokio::spawn(async move {
            let jobs: Vec<_> = keys.iter().map(|it| new_job(Some(it.clone()))).collect();
            let answers = ledger.accept(&jobs).await.unwrap();
            keys.into_iter().zip(answers).collect::<Vec<_>>()
        })
    });
    let (mut new, mut ids) = (0, HashMap::<String, HashSet<JobId>>::new());
    for task in tasks.collect::<Vec<_>>() {
        for (key, answer) in task.await.unwrap() {
            let id = match answer {
                Acceptance::New { id, due, .. } => {
                    assert!(due);
                    new += 1;
                    id
                }
                Acceptance::Same { id, .. } => id,
                other => panic!("{key} has one payload: {other:?}"),
            };
            ids.entry(key).or_default().insert(id);
        }
    }
    assert_eq!((new, ids.len()), (200, 200));
    assert!(ids.values().all(|it| it.len() == 1));
    assert_eq!(
        count(&url, "SELECT count(*) FROM presswork.jobs").await,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn opposite_batches_settle_without_a_deadlock_told() {
    let (ledger, _) = ledger().await;
    let jobs = new_jobs(300);
    ledger.accept(&jobs).await.unwrap();
    let tasks = (0..6).map(|task| {
        let ledger = ledger.clone();
        let mut ids: Vec<_> = jobs.iter().map(|it| it.id).collect();
        if task % 2 == 1 {
            ids.reverse();
        }
        tokio::spawn(async move {
            let cancel = |it: &JobId| settlement(*it, Guard::Version(0), to(State::Cancelled));
            let batch: Vec<_> = ids.iter().map(cancel).collect();
            ledger.settle(&batch).await.unwrap()
        })
    });
    let mut done = 0;
    for task in tasks.collect::<Vec<_>>() {
        let settled = task.await.unwrap();
        done += settled.iter().filter(|it| **it == Settled::Done).count();
    }
    assert_eq!(done, 300, "each exactly once");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_no_acknowledged_job() {
    let server = kit::postgres::Postgres::start();
    let url = server.create_database().await;
    let mut ledger = Arc::new(open(&url, PgOptions::new(Role::Ledger)));
    ledger.migrate().await.unwrap();
    let mut acknowledged: Vec<JobId> = Vec::new();
    for round in 1..=3 {
        let (sent, mut told) = tokio::sync::mpsc::unbounded_channel();
        let writers = (0..4).map(|_| {
            let (ledger, sent) = (ledger.clone(), sent.clone());
            tokio::spawn(async move {
                loop {
                    let jobs = new_jobs(20);
                    match ledger.accept(&jobs).await {
                        Ok(_) => sent.send(jobs).expect("somebody listens"),
                        Err(e) => break assert!(e.is_away(), "{e:?}"),
                    }
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        drop(sent);
        for _ in 0..30 * round {
            let jobs = told.recv().await.expect("writers write until the kill");
            acknowledged.extend(jobs.iter().map(|it| it.id));
        }
        server.kill9();
        for writer in writers {
            writer.await.unwrap();
        }
        while let Some(jobs) = told.recv().await {
            acknowledged.extend(jobs.iter().map(|it| it.id));
        }
        server.restart();
        // with connections of its own: those from before are dead, and each says so once
        ledger = Arc::new(open(&url, PgOptions::new(Role::Ledger)));
        kit::wait::until("the ledger to be back", SOON, || async {
            ledger.now().await.is_ok()
        })
        .await;
        for id in &acknowledged {
            assert!(ledger.job(*id).await.unwrap().is_some(), "{id} was lost");
        }
    }
    println!(
        "{} acknowledged jobs, none lost in 3 kills",
        acknowledged.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_row_is_told_and_nothing_is_written() {
    let (ledger, url) = ledger().await;
    let mut jobs = new_jobs(3);
    jobs[1].account = Some("a\0b".into());
    let error = ledger.accept(&jobs).await.unwrap_err();
    assert!(matches!(error, LedgerError::Row(_)), "{error:?}");
    let rows = "SELECT (SELECT count(*) FROM presswork.jobs)
                     + (SELECT count(*) FROM presswork.idempotency_keys)";
    assert_eq!(count(&url, rows).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_without_a_key_is_taken_once_though_its_job_has_ended() {
    let (ledger, _) = ledger().await;
    let jobs = [new_job(None)];
    let id = jobs[0].id;
    let same = [Acceptance::Same {
        id,
        options: "{}".into(),
    }];
    let new = [Acceptance::New {
        id,
        due: true,
        repeats: None,
    }];
    assert_eq!(ledger.accept(&jobs).await.unwrap(), new);
    assert_eq!(ledger.accept(&jobs).await.unwrap(), same);
    let cancel = settlement(id, Guard::Version(0), to(State::Cancelled));
    assert_eq!(ledger.settle(&[cancel]).await.unwrap(), [Settled::Done]);
    assert_eq!(ledger.accept(&jobs).await.unwrap(), same);
    assert_eq!(
        ledger.job(id).await.unwrap().unwrap().state,
        State::Cancelled
    );
}
