//! A store to test, and small builders of what goes into it.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use presswork::clock::Time;
use presswork::job::{Job, JobId, NewJob, Priority};
use presswork::json::Digest;
use presswork::ledger::{Acceptance, Audit, Claim, Fence, Guard, Ledger, Run, Settled, Settlement};
use presswork::lifecycle::{Event, advance};
use presswork::retry::Policy;
use uuid::Uuid;

/// Moves a store's clock on by seconds.
pub type Shift = Box<dyn Fn(i64) -> BoxFuture<'static, ()> + Send + Sync>;

/// The lane of every job that names no other.
pub const LANE: &str = "main";
/// The kind of jobs of which nothing else matters.
pub const KIND: &str = "demo.work";
/// Longer than any case shifts the clock, unless it means to.
pub const LEASE: Duration = Duration::from_secs(3_600);

/// An empty store of its own, and its clock. Everything of [`Ledger`] can be called on it.
pub struct Fixture {
    /// The store.
    pub ledger: Arc<dyn Ledger>,
    shift: Shift,
    _keep: Box<dyn Any + Send + Sync>,
}

impl Deref for Fixture {
    type Target = dyn Ledger;
    fn deref(&self) -> &Self::Target {
        &*self.ledger
    }
}

impl Fixture {
    /// `keep` lives as long as the store: its folder, its server.
    pub fn new(ledger: Arc<dyn Ledger>, shift: Shift, keep: Box<dyn Any + Send + Sync>) -> Self {
        Self {
            ledger,
            shift,
            _keep: keep,
        }
    }

    /// Moves the ledger's clock on.
    pub async fn shift(&self, seconds: i64) {
        (self.shift)(seconds).await;
    }

    /// The ledger's time.
    pub async fn time(&self) -> Time {
        self.now().await.expect("the ledger tells the time")
    }

    /// Accepts jobs that must all be new.
    pub async fn add(&self, jobs: &[NewJob]) -> Vec<JobId> {
        let answers = self.accept(jobs).await.expect("jobs are accepted");
        assert_eq!(answers.len(), jobs.len());
        let new = answers.into_iter().map(|it| match it {
            Acceptance::New { id, .. } => id,
            other => panic!("not new: {other:?}"),
        });
        new.collect()
    }

    /// Enters a new run, and how it claims: in [`LANE`], the kind [`KIND`].
    pub async fn enter(&self) -> Claim {
        let run = run(self.time().await);
        self.begin_run(&run, LEASE).await.expect("a run is entered");
        Claim {
            run: run.id,
            generation: None,
            lane: LANE.to_owned(),
            kinds: kinds().into(),
            concurrency: None,
            shut: Arc::default(),
            fair: Arc::default(),
        }
    }

    /// Claims one job that must be free, whatever its lane and kind.
    pub async fn take(&self, claim: &Claim, id: JobId) -> Job {
        let job = self.look(id).await;
        let claim = Claim {
            lane: job.lane,
            kinds: Arc::new([job.kind]),
            ..claim.clone()
        };
        let mut jobs = self
            .claim(&claim, &[id])
            .await
            .expect("a claim is answered");
        jobs.pop().expect("the job was free")
    }

    /// Accepts a job and claims it for a new run.
    pub async fn start(&self, new: NewJob) -> (Claim, Job) {
        let claim = self.enter().await;
        let ids = self.add(&[new]).await;
        let job = self.take(&claim, ids[0]).await;
        (claim, job)
    }

    /// The job, which must be there.
    pub async fn look(&self, id: JobId) -> Job {
        self.job(id)
            .await
            .expect("a job is read")
            .expect("the job is there")
    }

    /// Settles one.
    pub async fn settle_one(&self, settlement: Settlement) -> Settled {
        let settled = self
            .settle(&[settlement])
            .await
            .expect("a settlement is answered");
        assert_eq!(settled.len(), 1);
        settled[0]
    }

    /// Lets an event happen to a job as it was last seen, and returns it as it is then.
    pub async fn happen(&self, job: &Job, event: Event) -> Job {
        let settlement = follows(job, event, self.time().await);
        assert_eq!(self.settle_one(settlement).await, Settled::Done);
        self.look(job.id).await
    }
}

/// A job of a kind, in [`LANE`], due at once, without a key.
pub fn job(kind: &str) -> NewJob {
    let payload = r#"{"n":1}"#;
    NewJob {
        id: JobId::mint(),
        kind: kind.to_owned(),
        lane: LANE.to_owned(),
        tenant: "default".to_owned(),
        account: None,
        priority: Priority::Normal,
        key: None,
        payload: payload.into(),
        digest: Digest::of_bytes(payload.as_bytes()),
        run_at: None,
        not_after: None,
        late: None,
        late_after_s: None,
        attempts_max: 5,
        timeout_s: 60,
        age_max_s: 7 * 86_400,
        labels: BTreeMap::new(),
        traceparent: None,
        reply_to: None,
        options: "{}".to_owned(),
        said: None,
    }
}

/// A job with an idempotency key.
pub fn keyed(key: &str) -> NewJob {
    NewJob {
        key: Some(key.to_owned()),
        ..job(KIND)
    }
}

/// The same with another payload, and another digest.
pub fn with_payload(new: NewJob, payload: &str) -> NewJob {
    NewJob {
        payload: payload.into(),
        digest: Digest::of_bytes(payload.as_bytes()),
        ..new
    }
}

/// The kinds of jobs that name no other.
pub fn kinds() -> Vec<String> {
    vec![KIND.to_owned()]
}

/// At most so many of the lane at once.
pub fn at_most(concurrency: u32, claim: &Claim) -> Claim {
    Claim {
        concurrency: Some(concurrency),
        ..claim.clone()
    }
}

/// A run that begins.
pub fn run(now: Time) -> Run {
    Run {
        id: Uuid::new_v4(),
        host: "host".to_owned(),
        boot: Some("boot".to_owned()),
        pid: 7,
        version: "0.1.0".to_owned(),
        began_at: now,
    }
}

/// What a write under the job's lease compares.
pub fn fence(job: &Job) -> Fence {
    Fence {
        job: job.id,
        revision: job.revision,
        token: job.token.expect("the job is claimed"),
        run: job.run.expect("the job is claimed"),
    }
}

/// What follows from an event, guarded by the lease where there is one.
pub fn follows(job: &Job, event: Event, now: Time) -> Settlement {
    let transition = advance(&job.facts(Policy::default()), event, now).expect("it can happen");
    Settlement {
        id: job.id,
        guard: job.token.map_or(Guard::Version(job.version), Guard::Token),
        transition,
        attempt: None,
        result: None,
        fingerprint: None,
        edit: None,
        audit: None,
    }
}

/// Somebody's deed.
pub fn audit(action: &str, job: Option<JobId>, now: Time) -> Audit {
    Audit {
        actor: "ann".to_owned(),
        action: action.to_owned(),
        job,
        detail: "as asked".to_owned(),
        at: now,
    }
}

/// Whether two times are less than a minute apart: a real clock moves while a test runs.
pub fn near(a: Time, b: Time) -> bool {
    (a - b).abs() < chrono::Duration::minutes(1)
}
