//! The SQL door: what a producer's transaction commits is a job, and what it rolls back is nothing.

use std::sync::Arc;

use presswork::engine::doors::Doors;
use presswork::inbox::Inbox;
use presswork::job::{JobId, Priority};
use presswork::lateness::Policy;
use presswork::ledger::Reason;
use presswork::ledger::postgres::producers_role;
use presswork::lifecycle::State;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::probe::kinds;
use crate::rig::{Base, Rig};
use crate::wrap::Faulty;
use crate::{LANE, usual};

/// An engine over servers, its SQL door, and a producer's connection.
struct Shop {
    rig: Rig,
    door: Arc<dyn Inbox>,
    producer: PgConnection,
}

impl Shop {
    async fn new() -> Self {
        Self::on(Base::servers().await).await
    }

    async fn on(base: Base) -> Self {
        let url = base.database.clone().expect("it has servers");
        let door = base.sql.clone().expect("its ledger is Postgres");
        Self {
            rig: Rig::new(&base, kinds(), usual).await,
            door,
            producer: PgConnection::connect(&url).await.unwrap(),
        }
    }

    fn doors(&self) -> &Doors {
        &self.rig.doors
    }

    /// Asks for one value, in whatever transaction is open.
    async fn id(&mut self, sql: &'static str) -> JobId {
        let id: Uuid = sqlx::query_scalar(sql)
            .fetch_one(&mut self.producer)
            .await
            .unwrap();
        JobId(id)
    }

    async fn run(&mut self, sql: &'static str) -> sqlx::Result<()> {
        let done = sqlx::raw_sql(sql).execute(&mut self.producer).await;
        done.map(drop)
    }

    async fn count(&mut self, sql: &'static str) -> i64 {
        let count = sqlx::query_scalar(sql).fetch_one(&mut self.producer);
        count.await.unwrap()
    }

    async fn tick(&self) -> usize {
        let run = self.rig.shared.run_id();
        self.doors().tick(&*self.door, run, 0, 500).await.unwrap()
    }
}

const LEFT: &str = "SELECT count(*) FROM presswork.intake";

#[tokio::test(flavor = "multi_thread")]
async fn a_job_comes_with_its_producers_transaction_or_not_at_all() {
    let mut shop = Shop::new().await;
    shop.run("CREATE TABLE orders (n integer)").await.unwrap();
    shop.run("BEGIN; INSERT INTO orders VALUES (1)")
        .await
        .unwrap();
    let gone = shop
        .id("SELECT presswork.enqueue('test.job', '{\"result\": 1}', key => 'order-1')")
        .await;
    assert_eq!(shop.tick().await, 0, "nobody sees what isn't committed");
    shop.run("ROLLBACK; BEGIN; INSERT INTO orders VALUES (2)")
        .await
        .unwrap();
    let id = shop
        .id("SELECT presswork.enqueue('test.job', '{\"result\": 2}', key => 'order-2')")
        .await;
    shop.run("COMMIT").await.unwrap();
    assert_eq!(shop.door.waiting().await.unwrap(), 1);
    assert_eq!(shop.tick().await, 1);
    assert_eq!(shop.count(LEFT).await, 0);
    assert!(shop.rig.base.ledger.job(gone).await.unwrap().is_none());
    assert_eq!(shop.rig.job(id).await.key.as_deref(), Some("order-2"));
    assert_eq!(shop.rig.step(LANE).await, 1);
    assert_eq!(shop.rig.job(id).await.state, State::Completed);
    // the same key again is the same job
    let again = shop
        .id("SELECT presswork.enqueue('test.job', '{\"result\": 2}', key => 'order-2')")
        .await;
    assert_eq!(shop.tick().await, 1);
    assert!(shop.rig.base.ledger.job(again).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_an_envelope_can_be_said() {
    let mut shop = Shop::new().await;
    let id = shop
        .id(
            "SELECT presswork.enqueue('test.job', payload => jsonb_build_object('result', 'a\"b'),
                 key => 'k \"1\"', tenant => 'acme', lane => 'default', priority => 'high',
                 run_at => '2031-05-04 03:02:01+02', not_after => '2031-05-05 00:00:00Z',
                 attempts_max => 7, timeout_s => 33, labels => '{\"shop\": \"7\"}', again => true,
                 late => 'ask', late_after_s => 600,
                 traceparent => '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01')",
        )
        .await;
    assert_eq!(shop.tick().await, 1);
    let job = shop.rig.job(id).await;
    let payload: serde_json::Value = serde_json::from_str(&job.payload).unwrap();
    assert_eq!(payload, json!({"result": "a\"b"}));
    assert_eq!(job.key.as_deref(), Some("k \"1\""));
    assert_eq!(
        (job.tenant.as_str(), job.priority),
        ("acme", Priority::High)
    );
    assert_eq!(job.run_at.to_rfc3339(), "2031-05-04T01:02:01+00:00");
    assert_eq!((job.late, job.late_after_s), (Some(Policy::Ask), Some(600)));
    let not_after = job.not_after.expect("it was said");
    assert_eq!(not_after.to_rfc3339(), "2031-05-05T00:00:00+00:00");
    assert_eq!((job.attempts_max, job.timeout_s), (7, 33));
    assert_eq!(job.labels["shop"], "7");
    assert!(job.traceparent.is_some_and(|it| it.contains("4bf92f")));
    // each type of payload, and an envelope as it is
    for sql in [
        "SELECT presswork.enqueue('test.job', '{\"result\": 1}'::json)",
        "SELECT presswork.enqueue('test.job', '{\"result\": 1}'::text)",
        "SELECT presswork.enqueue_envelope('{\"kind\": \"test.job\", \"payload\": {\"result\": 1}}')",
    ] {
        let id = shop.id(sql).await;
        assert_eq!(shop.tick().await, 1);
        assert_eq!(&*shop.rig.job(id).await.payload, "{\"result\": 1}", "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_schema_refuses_is_kept_with_its_reason() {
    let mut shop = Shop::new().await;
    let mut wrong = Vec::new();
    for (sql, reason) in [
        (
            "SELECT presswork.enqueue('no.such', '{}')",
            Reason::UnknownKind,
        ),
        (
            "SELECT presswork.enqueue('test.job', '{\"resul\": 1}')",
            Reason::Invalid,
        ),
        (
            "SELECT presswork.enqueue('test.job', '{}', priority => 'urgent')",
            Reason::Malformed,
        ),
        (
            "SELECT presswork.enqueue_envelope('nonsense')",
            Reason::Malformed,
        ),
        (
            "SELECT presswork.enqueue('test.job', json_build_object('result', repeat('x', 300000)))",
            Reason::TooLarge,
        ),
    ] {
        wrong.push((shop.id(sql).await, reason, sql));
    }
    let good = shop.id("SELECT presswork.enqueue('test.job', '{}')").await;
    assert_eq!(shop.tick().await, 6);
    assert_eq!(shop.rig.job(good).await.state, State::Ready);
    for (id, reason, sql) in wrong {
        let kept = shop.rig.base.ledger.quarantined_one(id).await.unwrap();
        let kept = kept.unwrap_or_else(|| panic!("{sql}"));
        assert_eq!((kept.reason, &*kept.door), (reason, "sql"), "{sql}");
        assert!(!kept.message.is_empty(), "{sql}");
    }
    assert_eq!(shop.count(LEFT).await, 0);
    // what can't even be written down is told to whoever writes it
    for (sql, code) in [
        ("SELECT presswork.enqueue('test.job', '{')", "22P02"),
        ("SELECT presswork.enqueue(NULL, '{}')", "22004"),
        ("SELECT presswork.enqueue('test.job', NULL::json)", "22004"),
        ("SELECT presswork.enqueue_envelope(NULL)", "22004"),
        (
            "SELECT presswork.enqueue_envelope(repeat('x', 1048577))",
            "54000",
        ),
    ] {
        let error = shop.run(sql).await.unwrap_err();
        let error = error.into_database_error().expect(sql);
        assert_eq!(error.code().as_deref(), Some(code), "{sql}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_goes_when_its_job_is_there_whoever_dies_in_between() {
    let mut base = Base::servers().await;
    let faulty = Faulty::new(base.ledger.clone());
    base.ledger = faulty.clone();
    let mut shop = Shop::on(base).await;
    let id = shop
        .id("SELECT presswork.enqueue('test.job', '{\"result\": 1}')")
        .await;
    let (dead, me) = (Uuid::from_u128(7), shop.rig.shared.run_id());
    faulty.away("accept");
    let said = shop.doors().tick(&*shop.door, dead, 1, 500).await;
    assert!(said.unwrap_err().contains("the test says so"));
    faulty.back();
    assert_eq!(shop.door.holders().await.unwrap(), [(dead, 1)]);
    assert_eq!(shop.tick().await, 0, "another run has it");
    // its job is written down, and it dies before it takes the row away
    let entries = shop.door.take(dead, 1, 0).await.unwrap();
    assert_eq!((entries.len(), entries[0].id), (1, id));
    assert_eq!(shop.doors().tick(&*shop.door, dead, 1, 0).await, Ok(1));
    shop.run(
        "INSERT INTO presswork.intake (id, envelope, at, run, slot)
              SELECT id, '{\"kind\": \"test.job\", \"payload\": {\"result\": 1}}', now(),
                     '00000000-0000-0000-0000-000000000007', 1 FROM presswork.jobs",
    )
    .await
    .unwrap();
    assert_eq!(shop.rig.step(LANE).await, 1);
    // whoever adopts it finds that the job was there, and has ended
    assert_eq!(shop.doors().tick(&*shop.door, dead, 1, 0).await, Ok(1));
    assert_eq!(shop.count(LEFT).await, 0);
    assert_eq!(shop.rig.job(id).await.state, State::Completed);
    assert_eq!(shop.rig.step(LANE).await, 0);
    // what one run has done isn't taken from another's list
    shop.id("SELECT presswork.enqueue('test.job', '{}')").await;
    let own = shop.door.take(me, 0, 9).await.unwrap();
    shop.door.done(dead, 1, &own).await.unwrap();
    shop.door.done(me, 1, &own).await.unwrap();
    assert_eq!(shop.door.take(me, 0, 0).await.unwrap(), own);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_share_the_rows_in_order() {
    let mut shop = Shop::new().await;
    shop.run(
        "SELECT presswork.enqueue('test.job', json_build_object('result', n))
              FROM generate_series(1, 300) AS n",
    )
    .await
    .unwrap();
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let (first, second) = tokio::join!(shop.door.take(one, 0, 100), shop.door.take(two, 0, 100));
    let (first, second) = (first.unwrap(), second.unwrap());
    let third = shop.door.take(one, 1, 500).await.unwrap();
    assert_eq!([first.len(), second.len(), third.len()], [100, 100, 100]);
    let mut ids: Vec<JobId> = Vec::new();
    for list in [&first, &second, &third] {
        let numbers = list.iter().map(|it| {
            let envelope: serde_json::Value = serde_json::from_slice(&it.bytes).unwrap();
            envelope["payload"]["result"].as_u64().unwrap()
        });
        assert!(numbers.is_sorted());
        ids.extend(list.iter().map(|it| it.id));
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 300);
    // an answer isn't as large as all that waits
    shop.run(
        "SELECT presswork.enqueue('test.job', json_build_object('result', repeat('x', 1000000)))
              FROM generate_series(1, 40)",
    )
    .await
    .unwrap();
    let some = shop.door.take(two, 5, 500).await.unwrap();
    assert!((10..=20).contains(&some.len()), "{}", some.len());
}

/// Tries all that there is: a table or a function that comes later is tried, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_producers_role_may_enqueue_and_nothing_else() {
    let mut shop = Shop::new().await;
    let tables: Vec<(String, String)> = sqlx::query_as(
        "SELECT c.oid::regclass::text, quote_ident(a.attname) FROM pg_class c
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 1
         WHERE c.relnamespace = 'presswork'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')",
    )
    .fetch_all(&mut shop.producer)
    .await
    .unwrap();
    let functions: Vec<(String, bool)> = sqlx::query_as(
        "SELECT format('%s(%s)', oid::regproc,
                       (SELECT string_agg('NULL::' || format_type(t, NULL), ', ' ORDER BY n)
                        FROM unnest(proargtypes) WITH ORDINALITY AS a (t, n))),
                has_function_privilege('presswork_producer', oid, 'EXECUTE')
         FROM pg_proc WHERE pronamespace = 'presswork'::regnamespace AND prokind = 'f'",
    )
    .fetch_all(&mut shop.producer)
    .await
    .unwrap();
    let open: Vec<&str> = functions
        .iter()
        .filter(|it| it.1)
        .map(|it| it.0.split('(').next().unwrap())
        .collect();
    assert!(8 <= functions.len() && 10 <= tables.len());
    assert_eq!(open.len(), 4, "{open:?}");
    assert!(open.iter().all(|it| it.starts_with("presswork.enqueue")));
    shop.run("SET ROLE presswork_producer").await.unwrap();
    shop.id("SELECT presswork.enqueue('test.job', '{}')").await;
    let at_tables = tables.iter().flat_map(|(table, column)| {
        [
            format!("SELECT {column} FROM {table}"),
            format!("INSERT INTO {table} DEFAULT VALUES"),
            format!("UPDATE {table} SET {column} = DEFAULT"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("ALTER TABLE {table} ADD mine integer"),
            format!("DROP TABLE {table}"),
            format!("CREATE TRIGGER t BEFORE INSERT ON {table} EXECUTE FUNCTION presswork.mint()"),
        ]
    });
    let closed = functions.iter().filter(|it| !it.1);
    let calls = closed.map(|(call, _)| format!("SELECT {call}"));
    for sql in at_tables.chain(calls) {
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.clone()))
            .execute(&mut shop.producer)
            .await;
        let Err(error) = refused else {
            panic!("a producer may {sql}");
        };
        let error = error.into_database_error().expect("the server's own");
        // a sequence is no table that could be emptied or dropped so
        let code = error.code().unwrap_or_default().into_owned();
        assert!(
            ["42501", "42809"].contains(&&*code),
            "{sql}: {code} {error}"
        );
    }
    for sql in [
        "CREATE TABLE presswork.mine (n integer)",
        "CREATE FUNCTION presswork.mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "SELECT presswork.now()",
        "SELECT presswork.make_partitions(1)",
        "SELECT pg_read_file('/etc/hostname')",
        "SELECT nextval('presswork.intake_seq_seq')",
        "CREATE ROLE mine",
        "GRANT presswork_producer TO CURRENT_USER WITH ADMIN OPTION",
    ] {
        let error = shop.run(sql).await.unwrap_err();
        let error = error.into_database_error().expect(sql);
        assert_eq!(error.code().as_deref(), Some("42501"), "{sql}: {error}");
    }
}

/// Where the migration may make no role, an administrator says what `check --print-acl` prints.
#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_may_give_the_role_later() {
    let mut shop = Shop::new().await;
    let app = format!("app_{}", Uuid::new_v4().simple());
    let run = async |shop: &mut Shop, sql: String| {
        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
        sql.execute(&mut shop.producer).await.map(drop)
    };
    shop.run(
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA presswork FROM presswork_producer;
         REVOKE ALL ON SCHEMA presswork FROM presswork_producer",
    )
    .await
    .unwrap();
    run(
        &mut shop,
        format!("CREATE ROLE {app} LOGIN; GRANT presswork_producer TO {app}"),
    )
    .await
    .unwrap();
    let enqueue = format!(
        "SET ROLE {app}; SELECT presswork.enqueue('test.job', '{{\"result\": 1}}', key => 'k')"
    );
    let refused = run(&mut shop, enqueue.clone()).await.unwrap_err();
    let refused = refused.into_database_error().unwrap();
    assert_eq!(refused.code().as_deref(), Some("42501"), "{refused}");
    shop.run("RESET ROLE").await.unwrap();
    run(&mut shop, producers_role().to_owned()).await.unwrap();
    run(&mut shop, enqueue).await.unwrap();
    for sql in [
        "SELECT count(*) FROM presswork.jobs",
        "SELECT count(*) FROM presswork.intake",
        "SELECT presswork.mint()",
    ] {
        let refused = shop.run(sql).await.unwrap_err();
        let refused = refused.into_database_error().unwrap();
        assert_eq!(refused.code().as_deref(), Some("42501"), "{sql}: {refused}");
    }
    shop.run("RESET ROLE").await.unwrap();
    assert_eq!(shop.tick().await, 1);
    // a role belongs to the server that the tests share
    run(&mut shop, format!("DROP ROLE {app}")).await.unwrap();
}
