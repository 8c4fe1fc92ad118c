//! The gate that every request to a platform goes through: whoever counts requests is asked before, and told
//! when they are over. An adapter can't forget it, since the one client asks.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::budget::{Asked, Paid, Price, Spend};
use crate::clock::Time;
use crate::effect::{Effect, EffectClass, Receipt};
use crate::outcome::{Class, Failure, Held, Outcome, Scope};
use crate::sabotage;

/// Whoever counts requests.
#[async_trait]
pub trait Gate: Send + Sync {
    /// Takes what a request needs of its budgets, all or none. It is surely over `within` from now. Waits
    /// for it, but no longer than `patience`.
    ///
    /// # Errors
    /// It doesn't fit yet.
    async fn take(
        &self,
        asked: &Asked<'_>,
        within: Duration,
        patience: Duration,
    ) -> Result<Pass, Full>;

    /// It is known at last what a send cost whose answer was only the beginning; `None`: it is known that
    /// it isn't known. Best effort: what is never told counts as what was reserved.
    async fn paid(&self, effect: Uuid, cost: Option<u64>);
}

/// It may not go yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Full {
    /// What is used up, for people.
    pub message: String,
    /// When to ask again, from now.
    pub wait: Duration,
    /// No wait helps: a person has to change something.
    pub stuck: bool,
    /// It comes late, and waits for its turn among those of its account.
    pub paced: bool,
}

type Back = Box<dyn FnOnce(bool) + Send>;

/// The right to make one request. Dropped, it counts as made.
#[must_use = "what isn't used must be given back"]
pub struct Pass {
    back: Option<Back>,
    bill: Bill,
}

impl Pass {
    /// A pass; `back` is told once whether the request may have reached the platform.
    pub fn new(back: impl FnOnce(bool) + Send + 'static) -> Self {
        Self {
            back: Some(Box::new(back)),
            bill: Bill::default(),
        }
    }

    /// A pass of nobody who counts.
    pub const fn free() -> Self {
        Self {
            back: None,
            bill: Bill(None),
        }
    }

    /// With what was reserved for it.
    pub fn billed(mut self, bill: Bill) -> Self {
        self.bill = bill;
        self
    }

    /// What was reserved for it: known once the answer is, which is later than that the request is over.
    pub fn bill(&mut self) -> Bill {
        std::mem::take(&mut self.bill)
    }

    /// The request is over; `sent`: a byte of it may have left.
    pub fn over(mut self, sent: bool) {
        if !sent {
            self.bill().settle(Paid::Nothing);
        }
        self.end(sent);
    }

    fn end(&mut self, sent: bool) {
        if let Some(back) = self.back.take() {
            back(sent);
        }
    }
}

type Settle = Box<dyn FnOnce(Paid) + Send>;

/// What was reserved for a send. Dropped, it stays reserved: it isn't known what became of it.
#[derive(Default)]
pub struct Bill(Option<(Settle, bool)>);

impl Bill {
    /// A bill; `settle` is told at most once. `repeats`: sends before it may have acted, and a refusal of
    /// this one says nothing of them.
    pub fn new(settle: impl FnOnce(Paid) + Send + 'static, repeats: bool) -> Self {
        Self(Some((Box::new(settle), repeats)))
    }

    /// What became of it.
    pub fn settle(self, paid: Paid) {
        match self.0 {
            Some((_, true)) if paid == Paid::Nothing => {}
            Some((settle, _)) => settle(paid),
            None => {}
        }
    }
}

/// The next send of an effect, for budgets that count money; `by` the lease's token.
pub fn spend(effect: &Effect, price: &Price, by: Uuid) -> Spend {
    let each = effect.class == EffectClass::P;
    Spend {
        job: effect.job.0,
        effect: effect.id.0,
        send: effect.sends + 1,
        each,
        repeats: !each && 0 < effect.lost(),
        by,
        price: price.clone(),
    }
}

/// What a receipt says of its send's cost; `None` while the platform goes on.
pub fn paid(receipt: &Receipt) -> Option<Paid> {
    match (receipt.handle(), receipt.detail["cost_micros"].as_u64()) {
        (Some(_), _) => None,
        (None, Some(cost)) => Some(Paid::Cost(cost)),
        (None, None) => Some(Paid::Estimate),
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.end(true);
    }
}

/// Whoever judges how late a job's sends come.
#[async_trait]
pub trait Lateness: Send + Sync {
    /// Whether the next send of this effect comes so late that it goes at its account's pace.
    ///
    /// # Errors
    /// It is too late, or others of its account go first: how the attempt ends.
    async fn judge(&self, effect: &Effect, now: Time) -> Result<bool, Outcome>;
}

/// For whom requests are made. Cloning is cheap.
#[derive(Clone)]
pub struct Caller {
    /// Whoever counts them.
    pub gate: Arc<dyn Gate>,
    /// The account's platform; empty without an account.
    pub platform: Arc<str>,
    /// The account's app; empty where it names none.
    pub app: Arc<str>,
    /// The job's account; empty without one.
    pub account: Arc<str>,
    /// The job's tenant.
    pub tenant: Arc<str>,
    /// The job's kind.
    pub kind: Arc<str>,
    /// The account is on a server of one's own.
    pub nearby: bool,
    /// When the job was wanted, where it was scheduled.
    pub wanted_at: Option<Time>,
    /// Who judges how late its sends come; `None`: none does.
    pub lateness: Option<Arc<dyn Lateness>>,
    /// What is overdue of the account goes one in each span of this length. `None`: at once.
    pub pace: Option<chrono::Duration>,
    /// What is sent comes late.
    pub overdue: bool,
}

/// A request that is made in between may wait so long for its turn, instead of ending its attempt.
pub const PATIENCE: Duration = Duration::from_secs(2);

impl Caller {
    /// Takes what a request of this operation needs: see [`Gate::take`].
    ///
    /// # Errors
    /// It doesn't fit yet.
    pub async fn take(
        &self,
        (op, spend): (&str, Option<&Spend>),
        within: Duration,
        patience: Duration,
    ) -> Result<Pass, Full> {
        let asked = Asked {
            platform: &self.platform,
            app: &self.app,
            account: &self.account,
            tenant: &self.tenant,
            kind: &self.kind,
            op,
            nearby: self.nearby,
            spend,
            wanted_at: self.wanted_at,
            pace: self
                .pace
                .filter(|_| self.overdue && !sabotage!("late.pace")),
        };
        self.gate.take(&asked, within, patience).await
    }

    /// The operation of a request that is no effect, by its method: `x.read`, `x.write`.
    pub fn op(&self, method: &str) -> String {
        let does = match method {
            "GET" | "HEAD" => "read",
            _ => "write",
        };
        format!("{}.{does}", self.platform)
    }
}

/// The caller of an effect's next send, which may come late.
///
/// # Errors
/// See [`Lateness::judge`].
pub async fn in_turn(
    caller: Option<&Caller>,
    effect: &Effect,
    now: Time,
) -> Result<Option<Caller>, Outcome> {
    let Some(caller) = caller else {
        return Ok(None);
    };
    let overdue = match &caller.lateness {
        Some(it) => it.judge(effect, now).await?,
        None => false,
    };
    Ok(Some(Caller {
        overdue,
        ..caller.clone()
    }))
}

/// Takes what an effect's send needs; of nobody who counts, at once.
///
/// # Errors
/// It doesn't fit yet: the attempt goes on later, at no charge. Where that never helps, it is held.
pub async fn pass(
    caller: Option<&Caller>,
    (op, spend): (&str, Option<&Spend>),
    within: Duration,
) -> Result<Pass, Outcome> {
    match caller {
        None => Ok(Pass::free()),
        Some(_) if sabotage!("budget.gate") => Ok(Pass::free()),
        Some(it) => Ok(it.take((op, spend), within, PATIENCE).await?),
    }
}

impl From<Full> for Outcome {
    fn from(full: Full) -> Self {
        match full.stuck {
            true => {
                let why = Failure::new(Class::Permanent, Scope::Handler, BUDGET, full.message);
                Self::Held(Held::Budget, why)
            }
            false => Self::Failed(full.into()),
        }
    }
}

impl From<Full> for Failure {
    fn from(full: Full) -> Self {
        let wait = chrono::Duration::from_std(full.wait).ok();
        let code = match full.paced {
            true => PACED,
            false => BUDGET,
        };
        Self::new(Class::Throttled, Scope::Handler, code, full.message).after(wait)
    }
}

/// The code of what a budget held back.
pub const BUDGET: &str = "budget";
/// The code of what waits for its turn among what comes late.
pub const PACED: &str = "paced";

tokio::task_local! {
    /// What was taken before for the next request: an effect is permitted only after its budgets were.
    static TAKEN: RefCell<Option<Pass>>;
}

/// Does some work whose first request goes with `pass`. The pass, if none was made.
pub async fn with<T>(pass: Pass, work: impl Future<Output = T>) -> (T, Option<Pass>) {
    let scope = TAKEN.scope(RefCell::new(Some(pass)), async {
        let done = work.await;
        (done, TAKEN.with(RefCell::take))
    });
    scope.await
}

/// What was taken before for the request that is about to be made.
pub(super) fn taken() -> Option<Pass> {
    TAKEN.try_with(RefCell::take).ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn pass() -> (Pass, mpsc::Receiver<bool>) {
        let (back, told) = mpsc::channel();
        let pass = Pass::new(move |sent| {
            let _ = back.send(sent);
        });
        (pass, told)
    }

    #[tokio::test]
    async fn the_first_request_goes_with_what_was_taken_before() {
        let (first, told) = pass();
        let (taken, left) = with(first, async { (taken(), taken().is_none()) }).await;
        assert!(left.is_none());
        let (mine, second_has_none) = taken;
        assert!(second_has_none);
        mine.unwrap().over(false);
        assert!(!told.recv().unwrap());
        assert!(super::taken().is_none(), "nothing is left outside");
    }

    #[tokio::test]
    async fn what_isnt_used_comes_back_and_what_is_dropped_counts_as_sent() {
        let (first, told) = pass();
        let ((), left) = with(first, async {}).await;
        left.unwrap().over(false);
        assert!(!told.recv().unwrap());
        let (second, told) = pass();
        drop(second);
        assert!(told.recv().unwrap());
    }
}
