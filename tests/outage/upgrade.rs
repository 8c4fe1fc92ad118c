//! Hosts are upgraded one after the other: programs of this release go on, and start again, on a ledger that
//! a newer one has added to, and leave its kinds of jobs alone; on one that has lost what they use they don't.

use super::*;

/// What the next release might do to the ledger: a column more of each table, and a table more.
const EXPANDS: &str = "
BEGIN;
SELECT pg_advisory_xact_lock(hashtextextended('presswork.migrations', 0));
DO $$
DECLARE
    named record;
BEGIN
    FOR named IN SELECT oid::regclass AS name FROM pg_class
        WHERE relnamespace = 'presswork'::regnamespace AND relkind IN ('r', 'p')
          AND NOT relispartition AND relname <> 'migrations'
        -- in one order, the jobs first: as every statement of ours locks them
        ORDER BY relname <> 'jobs', relname
    LOOP
        EXECUTE format('ALTER TABLE %s ADD COLUMN later text', named.name);
    END LOOP;
END $$;
CREATE TABLE presswork.later (id bigint PRIMARY KEY);
INSERT INTO presswork.migrations (version, name, checksum, oldest)
    SELECT max(version) + 1, 'expands', 'x', max(version) FROM presswork.migrations;
COMMIT";

/// What the release after that might do: programs of this one can't work with it.
const CONTRACTS: &str = "
INSERT INTO presswork.migrations (version, name, checksum, oldest)
    SELECT max(version) + 1, 'contracts', 'x', max(version) + 1 FROM presswork.migrations";

/// A job of a kind that only a newer program knows.
async fn of_a_later_kind(case: &mut Case, host: &Host) -> JobId {
    let mut envelope = case.job("test.job", json!({}));
    let later = presswork::clock::Clock::System.now() + chrono::TimeDelta::hours(1);
    envelope["run_at"] = json!(later);
    let ids = accept_directly(&*case.ledger, &rules(host), &[envelope]).await;
    let id = ids.expect("the ledger takes it")[0];
    let becomes = format!(
        "UPDATE presswork.jobs SET kind = 'print.book', run_at = presswork.now() WHERE id = '{}'",
        id.0
    );
    sql(&case.stores.ledger, &becomes).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_upgraded_one_after_the_other_under_load() {
    let mut case = Case::new().await;
    let hosts = [case.host(), case.host()];
    let mut daemons = hosts.each_ref().map(Host::run);
    for (host, daemon) in hosts.iter().zip(&daemons) {
        host.queue_in_use(daemon).await;
    }
    let later = of_a_later_kind(&mut case, &hosts[0]).await;

    // the newer one has begun; these two know nothing of it
    let slow = case.test_jobs(24, &json!({"sleep_ms": 1_000}));
    let slow = accept_directly(&*case.ledger, &rules(&hosts[0]), &slow).await;
    slow.expect("the ledger takes them");
    case.load(&hosts[0], 16).await;
    sql(&case.stores.ledger, EXPANDS).await;
    case.load(&hosts[1], 16).await;

    // one dies and one stops, and each comes back before its turn
    daemons[0].kill9();
    daemons[0] = hosts[0].run();
    told(&daemons[0], "by a newer program on another host").await;
    daemons[0].wait_ready(hosts[0].api, READY).await;
    case.load(&hosts[0], 16).await;
    daemons[1].signal("TERM");
    assert!(daemons[1].wait_exit(READY).await.success());
    daemons[1] = hosts[1].run();
    daemons[1].wait_ready(hosts[1].api, READY).await;
    case.load(&hosts[1], 16).await;
    for (host, daemon) in hosts.iter().zip(&daemons) {
        let asked = host.home.cli(&["migrate", "--check"]).await;
        assert!(asked.status.success(), "{asked:?}");
        let said = daemon.stderr();
        assert!(!said.contains("cached plan"), "{said}");
    }

    // what they don't know is the newer one's
    wait::until("the others have ended", ENDED, async || {
        let counts = case.ledger.counts().await.expect("the ledger answers");
        let open = counts.iter().filter(|it| !it.0.1.is_terminal());
        open.map(|it| *it.1).sum::<u64>() == 1
    })
    .await;
    let job = case.one(later).await;
    assert_eq!((job.epoch, job.attempts, job.run), (0, 0, None), "{job:?}");
    let becomes = format!(
        "UPDATE presswork.jobs SET kind = 'test.job' WHERE id = '{}'",
        later.0
    );
    sql(&case.stores.ledger, &becomes).await;
    case.all_well().await;

    // and when it has taken away what they use
    sql(&case.stores.ledger, CONTRACTS).await;
    wait::until("it isn't ready any more", READY, async || {
        let told = hosts[0].get("/readyz").await;
        told.is_ok_and(|it| it.status == StatusCode::SERVICE_UNAVAILABLE)
    })
    .await;
    let late = case.host();
    let refused = late.run();
    assert!(!refused.wait_exit(READY).await.success());
    let said = refused.stderr();
    assert!(said.contains("install the newer presswork"), "{said}");
}
