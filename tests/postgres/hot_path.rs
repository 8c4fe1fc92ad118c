//! The hot path: the plans that the server really used, and how fast it goes.

use presswork::ledger::{Backlog, LateBefore, LatePlace};

use super::*;
use presswork::ledger::Places as _;

/// The plans that the server used since `from`, of the statements that contain `mark`.
fn plans(server: &kit::postgres::Postgres, from: usize, mark: &str) -> Vec<String> {
    let log = std::fs::read_to_string(server.log()).unwrap();
    let plans = log[from..].split("  plan:\n").skip(1);
    let plans = plans.filter(|it| it.contains(mark)).map(str::to_owned);
    plans.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hot_path_uses_its_indexes() {
    let server = kit::postgres::Postgres::start_with(&[
        ("shared_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        // the worst case: what the planner knows is from before the backlog
        ("autovacuum", "off"),
    ]);
    let url = server.create_database().await;
    let ledger = open(&url, PgOptions::new(Role::Ledger));
    ledger.migrate().await.unwrap();
    sql(&url, "VACUUM ANALYZE presswork.jobs").await;
    // planned while there is nothing at all: the plans stay
    let nothing = begin(&ledger).await;
    let unknown = [JobId::mint()];
    assert!(
        ledger
            .due("test", &kinds(), &Shut::default(), &Fair::default(), 500)
            .await
            .unwrap()
            .is_empty()
    );
    let none = ledger.claim(&nothing, &unknown).await.unwrap();
    assert!(none.is_empty());
    let unsettled = new_jobs(1).remove(0);
    ledger
        .accept(std::slice::from_ref(&unsettled))
        .await
        .unwrap();
    let one = ledger.claim(&nothing, &[unsettled.id]).await.unwrap();
    ledger.settle(&[completed(&one[0])]).await.unwrap();
    sql(&url, "VACUUM ANALYZE presswork.jobs").await;
    let accounts = shut(Scope {
        account: Some("nobody".to_owned()),
        ..Scope::default()
    });
    let within = shut(Scope {
        label: Some("none=such".to_owned()),
        ..Scope::default()
    });
    for form in [&accounts, &within] {
        let none = ledger
            .due("test", &kinds(), form, &Fair::default(), 500)
            .await;
        assert!(none.unwrap().is_empty());
    }
    let none = Claim {
        shut: Arc::new(within.clone()),
        ..nothing.clone()
    };
    assert!(ledger.claim(&none, &unknown).await.unwrap().is_empty());
    for stale in [true, false] {
        for _ in 0..24 {
            let mut jobs = new_jobs(1_000);
            for (i, job) in jobs.iter_mut().enumerate() {
                job.tenant = format!("tenant-{}", i % 7);
            }
            ledger.accept(&jobs).await.unwrap();
        }
        if !stale {
            sql(&url, "ANALYZE presswork.jobs").await;
        }
        let from = std::fs::read_to_string(server.log()).unwrap().len();
        let claim = begin(&ledger).await;
        let passing_over = Claim {
            shut: Arc::new(within.clone()),
            ..claim.clone()
        };
        // more than five times: then a plan for all parameters may be taken
        for n in 0..8 {
            let hints = ledger
                .due("test", &kinds(), &Shut::default(), &Fair::default(), 500)
                .await
                .unwrap();
            assert_eq!(hints.len(), 500);
            let tenants: HashSet<_> = hints.iter().take(7).map(|it| it.tenant.clone()).collect();
            assert_eq!(tenants.len(), 7, "turns between tenants");
            let lanes = ["test".to_owned(), "nothing".to_owned()];
            let together = ledger
                .due_in(&lanes, &kinds(), &Shut::default(), &Fair::default(), 500)
                .await
                .unwrap();
            assert_eq!(together["test"], hints);
            // where something is shut, too: an account, and what can only be seen in a job
            for shut in [&accounts, &within] {
                let found = ledger
                    .due("test", &kinds(), shut, &Fair::default(), 500)
                    .await
                    .unwrap();
                assert_eq!(found, hints);
                let together = ledger
                    .due_in(&lanes, &kinds(), shut, &Fair::default(), 500)
                    .await
                    .unwrap();
                assert_eq!(together["test"], hints);
            }
            let ids: Vec<_> = hints.iter().map(|it| it.id).collect();
            let place = LatePlace {
                account: "nobody".to_owned(),
                priority: Priority::Normal,
                due: ledger.now().await.unwrap(),
                id: ids[0],
            };
            let of = LateBefore {
                due: place.due,
                tried: place.due,
                most: 200,
            };
            let before = ledger.late_before(&place, &of).await.unwrap();
            assert!(before.is_empty());
            let claim = [&claim, &passing_over][n % 2];
            let jobs = ledger.claim(claim, &ids).await.unwrap();
            assert_eq!(jobs.iter().map(|it| it.id).collect::<Vec<_>>(), ids);
            let batch: Vec<_> = jobs.iter().map(completed).collect();
            let settled = ledger.settle(&batch).await.unwrap();
            assert!(settled.iter().all(|it| *it == Settled::Done));
        }
        let by_id = "Index Cond: (id = ANY (ARRAY[";
        for (mark, index, way) in [
            ("head AS (", "jobs_due", "Index Cond"),
            ("free AS MATERIALIZED", "jobs_pkey", by_id),
            ("gone AS (", "jobs_pkey", by_id),
            ("(j.priority, j.due_at, j.id) <", "jobs_late", "Index Cond"),
        ] {
            let plans = plans(&server, from, mark);
            assert!(8 <= plans.len(), "{mark}: {} plans", plans.len());
            for plan in plans {
                // flows are numbered, and looked up by their numbers: that touches no job
                let flows = ["going.flow = best.flow", "best.flow = going.flow"];
                let flows = flows.map(|it| format!("Hash Cond: ({it})"));
                let flows: usize = flows.iter().map(|it| plan.matches(it).count()).sum();
                assert!(
                    plan.contains(index)
                        && plan.contains(way)
                        && !plan.contains("Seq Scan on jobs")
                        && plan.matches("Hash Join").count() == flows,
                    "stale: {stale}\n{plan}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_places_that_are_kept_are_found_by_their_indexes() {
    let server = kit::postgres::Postgres::start_with(&[
        ("shared_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("autovacuum", "off"),
    ]);
    let url = server.create_database().await;
    let ledger = open(&url, PgOptions::new(Role::Ledger));
    ledger.migrate().await.unwrap();
    sql(&url, "VACUUM ANALYZE presswork.jobs").await;
    let day = std::time::Duration::from_secs(86_400);
    let of = |accounts: Option<&[&str]>, tenant: Option<&str>| presswork::ledger::Askers {
        kinds: kinds(),
        accounts: accounts.map(|it| it.iter().map(|it| (*it).to_owned()).collect()),
        tenant: tenant.map(str::to_owned),
    };
    let askers = [
        of(Some(&["account-3"]), None),
        of(Some(&["account-1", "account-2"]), None),
        of(None, Some("tenant-2")),
        of(None, None),
    ];
    // planned while there is nothing at all: the plans stay
    for it in &askers {
        assert!(ledger.planned(it, day, 50).await.unwrap().is_empty());
    }
    let now = ledger.now().await.unwrap();
    for batch in 0..20i64 {
        let mut jobs = new_jobs(1_000);
        for (i, job) in (0i64..).zip(&mut jobs) {
            job.account = Some(format!("account-{}", i % 10));
            job.tenant = format!("tenant-{}", i % 7);
            // a tenth of all is scheduled, for the days to come
            if i % 10 == batch % 10 {
                job.run_at = Some(now + chrono::Duration::minutes(60 + i * 5));
            }
        }
        ledger.accept(&jobs).await.unwrap();
    }
    for stale in [true, false] {
        if !stale {
            sql(&url, "ANALYZE presswork.jobs").await;
        }
        let from = std::fs::read_to_string(server.log()).unwrap().len();
        for _ in 0..8 {
            for it in &askers {
                assert_eq!(ledger.planned(it, day, 50).await.unwrap().len(), 50);
            }
        }
        for (mark, index) in [
            ("j.account = $5", "jobs_planned_account"),
            ("AS k(kind)", "jobs_planned_kind"),
        ] {
            let plans = plans(&server, from, mark);
            assert!(8 <= plans.len(), "{mark}: {} plans", plans.len());
            for plan in plans {
                assert!(
                    plan.contains(index) && !plan.contains("Seq Scan on jobs"),
                    "stale: {stale}\n{plan}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_jobs_go_through() {
    const ALL: usize = 20_000;
    const BATCH: usize = 500;
    let (ledger, _) = ledger().await;
    let jobs = new_jobs(ALL);
    let told = |what: &str, since: Instant| {
        let rate = ALL as f64 / since.elapsed().as_secs_f64();
        println!("{what}: {rate:.0} rows/s");
    };
    let since = Instant::now();
    each(jobs.chunks(BATCH).map(<[_]>::to_vec), |it| {
        let ledger = ledger.clone();
        async move { assert_eq!(ledger.accept(&it).await.unwrap().len(), BATCH) }
    })
    .await;
    told("accept", since);
    let claim = begin(&ledger).await;
    let since = Instant::now();
    let claimed = Arc::new(std::sync::Mutex::new(Vec::new()));
    let ids: Vec<_> = jobs.iter().map(|it| it.id).collect();
    each(ids.chunks(BATCH).map(<[_]>::to_vec), |it| {
        let (ledger, claim, claimed) = (ledger.clone(), claim.clone(), claimed.clone());
        async move {
            let jobs = ledger.claim(&claim, &it).await.unwrap();
            claimed.lock().unwrap().push(jobs);
        }
    })
    .await;
    told("claim", since);
    let batches = std::mem::take(&mut *claimed.lock().unwrap());
    let since = Instant::now();
    each(batches.into_iter(), |it| {
        let ledger = ledger.clone();
        async move {
            let batch: Vec<_> = it.iter().map(completed).collect();
            let settled = ledger.settle(&batch).await.unwrap();
            assert!(settled.iter().all(|it| *it == Settled::Done));
        }
    })
    .await;
    told("settle", since);
    assert!(ledger.counts().await.unwrap().is_empty());
    for id in ids.iter().step_by(997) {
        assert_eq!(ledger.attempts(*id).await.unwrap().len(), 1);
    }
}

/// Four at a time.
async fn each<T, F>(batches: impl Iterator<Item = T>, work: impl Fn(T) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = tokio::task::JoinSet::new();
    for batch in batches {
        if 4 <= tasks.len() {
            tasks.join_next().await.unwrap().unwrap();
        }
        tasks.spawn(work(batch));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}
