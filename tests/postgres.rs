//! What only the Postgres ledger promises: the driver's trap, plans, schema, durability, kill -9.

mod kit;

#[path = "postgres/trap.rs"]
mod trap;
#[path = "postgres/hot_path.rs"]
mod hot_path;
#[path = "postgres/schema.rs"]
mod schema;
#[path = "postgres/walk.rs"]
mod walk;
#[path = "postgres/races.rs"]
mod races;
#[path = "postgres/promotion.rs"]
mod promotion;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use presswork::config::Config;
use presswork::fair::Fair;
use presswork::gate::{Cause, Closure, Scope, Shut};
use presswork::job::{DEFAULT_TENANT, JobId, NewJob, Priority};
use presswork::json::Digest;
use presswork::ledger::postgres::{PgOptions, Postgres, Role, hooked};
use presswork::ledger::{
    Acceptance, AttemptEnd, Claim, Guard, Ledger, LedgerError, Run, Settled, Settlement,
};
use presswork::lifecycle::{State, Transition};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use kit::proxy::Proxy;

const SOON: Duration = Duration::from_secs(20);

fn open(url: &str, options: PgOptions) -> Postgres {
    Postgres::open(&url.into(), options).expect("the kit's URLs can be read")
}

async fn ledger() -> (Arc<Postgres>, String) {
    let url = kit::postgres::Postgres::shared().create_database().await;
    let ledger = open(&url, PgOptions::new(Role::Ledger));
    ledger.migrate().await.expect("an empty ledger migrates");
    (Arc::new(ledger), url)
}

async fn sql(url: &str, sql: &'static str) {
    let mut connection = PgConnection::connect(url).await.expect("connects");
    sqlx::raw_sql(sql)
        .execute(&mut connection)
        .await
        .expect(sql);
}

async fn count(url: &str, sql: &'static str) -> i64 {
    let mut connection = PgConnection::connect(url).await.expect("connects");
    let count = sqlx::query_scalar(sql).fetch_one(&mut connection).await;
    count.expect(sql)
}

fn new_job(key: Option<String>) -> NewJob {
    let payload = r#"{"text":"hello\u0000"}"#;
    NewJob {
        id: JobId::mint(),
        kind: "test.job".into(),
        lane: "test".into(),
        tenant: DEFAULT_TENANT.into(),
        account: None,
        priority: Priority::Normal,
        key,
        payload: payload.into(),
        digest: Digest::of_json(payload).unwrap(),
        run_at: None,
        not_after: None,
        late: None,
        late_after_s: None,
        attempts_max: 3,
        timeout_s: 60,
        age_max_s: 86_400,
        labels: BTreeMap::from([("a".into(), "b".into())]),
        traceparent: None,
        reply_to: None,
        options: "{}".into(),
        said: None,
    }
}

fn new_jobs(count: usize) -> Vec<NewJob> {
    (0..count)
        .map(|_| new_job(Some(Uuid::new_v4().to_string())))
        .collect()
}

fn kinds() -> Vec<String> {
    vec!["test.job".into()]
}

fn to(state: State) -> Transition {
    Transition {
        to: state,
        run_at: None,
        attempts: 0,
        crashes: 0,
        reset: false,
        admitted: false,
        held: None,
        failure: None,
        cancel: false,
        archive: matches!(state, State::Completed | State::Cancelled),
    }
}

fn settlement(id: JobId, guard: Guard, transition: Transition) -> Settlement {
    Settlement {
        id,
        guard,
        transition,
        attempt: None,
        result: None,
        fingerprint: None,
        edit: None,
        audit: None,
    }
}

fn completed(job: &presswork::job::Job) -> Settlement {
    let began_at = job.claimed_at.expect("it was claimed");
    Settlement {
        attempt: Some(AttemptEnd {
            epoch: job.epoch,
            number: job.attempts + 1,
            run: job.run,
            host: "here".into(),
            began_at,
            ended_at: began_at,
            outcome: "completed".into(),
            failure: None,
        }),
        result: Some("{}".into()),
        ..settlement(
            job.id,
            Guard::Token(job.token.expect("it was claimed")),
            to(State::Completed),
        )
    }
}

/// At most so many of the lane at once.
fn at_most(concurrency: u32, claim: &Claim) -> Claim {
    Claim {
        concurrency: Some(concurrency),
        ..claim.clone()
    }
}

/// What a closure of a scope shuts.
fn shut(scope: Scope) -> Shut {
    let now = presswork::clock::Time::UNIX_EPOCH;
    let closure = Closure::new(Cause::Stop, scope, ("test", ""), now);
    let config = Config::default_embedded(std::path::Path::new("/nowhere"));
    Shut::of([&closure], &config, now)
}

async fn begin(ledger: &Postgres) -> Claim {
    let run = Uuid::new_v4();
    let entry = Run {
        id: run,
        host: "here".into(),
        boot: None,
        pid: 1,
        version: "0".into(),
        began_at: ledger.now().await.unwrap(),
    };
    ledger
        .begin_run(&entry, Duration::from_secs(60))
        .await
        .unwrap();
    Claim {
        run,
        generation: None,
        lane: "test".into(),
        kinds: kinds().into(),
        concurrency: None,
        shut: Arc::default(),
        fair: Arc::default(),
    }
}
