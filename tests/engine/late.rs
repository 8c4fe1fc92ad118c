//! Jobs that come late: paced by account, skipped, put before a person; and what was begun is finished.

use std::time::Duration;

use presswork::clock::Time;
use presswork::config::{Account, Config};
use presswork::effect::EffectState;
use presswork::job::JobId;
use presswork::ledger::Ledger;
use presswork::lifecycle::State;
use presswork::operate::{self, Verdict, budgets};
use presswork::outcome::Held;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::probe::{Says, World, kinds};
use crate::rig::{Base, Rig, somebody};
use crate::{LANE, SOON, kit};

const PACE: i64 = 60;

/// Two accounts with a pace, and room for a few of their jobs at once.
fn paced(config: &mut Config) {
    for name in ["ann", "bob"] {
        let url = "http://127.0.0.1:1".parse().unwrap();
        let account = Account {
            pace: Some(Duration::from_secs(PACE.unsigned_abs())),
            ..Account::at("x", url)
        };
        config.accounts.insert(name.to_owned(), account);
    }
    crate::limits(Some(4), 4)(config);
}

fn post(world: &World, name: &str, at: Time) -> Value {
    let mut envelope = world.job("keyed", name);
    envelope["account"] = name.split(' ').next().into();
    envelope["run_at"] = at.to_rfc3339().into();
    envelope
}

/// A host, and the loop that tells the ledger which requests are over.
struct Host {
    rig: Rig,
    _telling: AbortOnDropHandle<()>,
}

impl Host {
    async fn new(base: &Base) -> Self {
        let rig = Rig::new(base, kinds(), paced).await;
        let gate = rig.shared.gate.clone();
        let telling = tokio::spawn(async move { gate.run().await });
        Self {
            rig,
            _telling: AbortOnDropHandle::new(telling),
        }
    }

    /// Waits until the ledger knows that no paced request is under way: time that stands still mustn't be
    /// moved before.
    async fn told(&self, sends: usize) {
        let ledger = &self.rig.base.ledger;
        kit::wait::until("the ledger knows what is over", SOON, async || {
            let rows = ledger.all_counted().await.unwrap();
            let changes = rows.iter().filter(|it| it.key.name == "pace");
            // taken and finished
            2 * sends <= changes.map(|it| usize::try_from(it.version).unwrap()).sum()
        })
        .await;
    }
}

/// When each job's effect was permitted, by the ledger's clock.
async fn sent_at(ledger: &dyn Ledger, ids: &[JobId]) -> Vec<Option<Time>> {
    let mut all = Vec::new();
    for id in ids {
        let effects = ledger.effects(*id).await.unwrap();
        all.push(effects.first().and_then(|it| it.first_sent_at));
    }
    all
}

async fn is_over(ledger: &dyn Ledger, ids: &[JobId]) -> Option<Time> {
    let mut next = None;
    for id in ids {
        let job = ledger.job(*id).await.unwrap().unwrap();
        if job.state.is_claimable() {
            next = Some(next.map_or(job.run_at, |it: Time| it.min(job.run_at)));
        }
    }
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_each_accounts_posts_go_at_its_pace_in_their_order() {
    const EACH: usize = 8;
    for base in Base::both().await {
        let hosts = [Host::new(&base).await, Host::new(&base).await];
        let rig = &hosts[0].rig;
        let world = World::new();
        let start = base.clock.now();
        // due in the two hours in which nothing runs, one every fifteen minutes of each
        let (mut anns, mut bobs) = (Vec::new(), Vec::new());
        for n in 0..EACH {
            let at = start + chrono::Duration::minutes(i64::try_from(n).unwrap() * 15);
            anns.push(rig.enqueue(&post(&world, &format!("ann {n}"), at)).await);
            bobs.push(rig.enqueue(&post(&world, &format!("bob {n}"), at)).await);
        }
        rig.advance(Duration::from_secs(7_200)).await;
        let all = [anns.clone(), bobs.clone()].concat();
        let now = base.ledger.now().await.unwrap();
        let fresh = rig.enqueue(&post(&world, "ann fresh", now)).await;
        let whole = [all.clone(), vec![fresh]].concat();
        let ended_at = base.ledger.now().await.unwrap();
        // what is told ahead: all wait, the first goes now, the last after the turns of the others
        let config = rig.shared.config.load_full();
        let told = async || {
            let limits = budgets::limits(&*base.ledger, &config, &rig.shared.kinds).await;
            limits.unwrap().paces
        };
        for (pace, name) in told().await.iter().zip(["ann", "bob"]) {
            assert_eq!((&*pace.account, pace.waiting), (name, EACH as u64));
            let last = pace.drains_at.unwrap() - pace.next_at.unwrap();
            let turns = i64::try_from(EACH).unwrap() - 1;
            assert!(
                (0..=turns).contains(&(last.num_seconds() - turns * PACE)),
                "{pace:?}"
            );
        }
        assert_eq!(told().await.len(), 2);
        let mut claims = 0;
        for turn in 0.. {
            for host in &hosts {
                host.rig.lease.lock().await.tick().await;
                claims += host.rig.step(LANE).await;
            }
            let sent = sent_at(&*base.ledger, &all).await;
            hosts[0].told(sent.iter().flatten().count()).await;
            let Some(next) = is_over(&*base.ledger, &whole).await else {
                break;
            };
            if turn == 0 {
                continue;
            }
            assert!(turn < 200, "{sent:?}");
            let now = base.ledger.now().await.unwrap();
            let wait = (next - now).to_std().unwrap_or_default();
            base.advance(wait + Duration::from_millis(2)).await;
        }
        assert!(told().await.iter().all(|it| it.waiting == 0));
        for ids in [&anns, &bobs] {
            let sent: Vec<Time> = sent_at(&*base.ledger, ids)
                .await
                .into_iter()
                .map(|it| it.expect("none was skipped"))
                .collect();
            for pair in sent.windows(2) {
                let apart = pair[1] - pair[0];
                // where the ledger's clock stands still, what passes on this machine since it told its time
                // (at most five seconds) seems to pass there, too; the exact pace is measured in real time
                assert!(chrono::Duration::seconds(PACE - 5) < apart, "{sent:?}");
                // where the ledger's clock is a real one, a busy machine's time adds to it
                assert!(apart < chrono::Duration::seconds(2 * PACE), "{sent:?}");
            }
            assert!(
                sent[0] - ended_at < chrono::Duration::seconds(PACE),
                "{sent:?}"
            );
        }
        // what is in time waits for nobody, and was done in the first round
        let at = sent_at(&*base.ledger, &[fresh]).await[0].unwrap();
        assert!(at - ended_at < chrono::Duration::seconds(PACE / 2), "{at}");
        assert_eq!(world.sends(), all.len() + 1);
        for id in &all {
            let job = rig.expect(*id, State::Completed).await;
            assert_eq!(job.attempts, 0, "waiting for a turn is no failure");
        }
        // nobody spins: each is put off, comes to its turn, and now and then a little early
        assert!(claims <= 5 * all.len(), "{claims} attempts");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_late_is_skipped_or_put_before_a_person() {
    for base in Base::both().await {
        let host = Host::new(&base).await;
        let rig = &host.rig;
        let world = World::new();
        let at = base.clock.now();
        let late = |name: &str, policy: &str| {
            let mut it = post(&world, name, at);
            it["late"] = policy.into();
            it["late_after_s"] = 1_800.into();
            it
        };
        let skipped = rig.enqueue(&late("ann skip", "skip")).await;
        let [now, then, dropped] =
            ["now", "then", "dropped"].map(|it| late(&format!("bob {it}"), "ask"));
        let now = rig.enqueue(&now).await;
        let then = rig.enqueue(&then).await;
        let dropped = rig.enqueue(&dropped).await;
        let mut limited = late("ann limited", "ask");
        limited["not_after"] = (at + chrono::Duration::hours(1)).to_rfc3339().into();
        let limited = rig.enqueue(&limited).await;
        rig.advance(Duration::from_secs(7_200)).await;
        while 0 < rig.step(LANE).await {}
        assert_eq!(world.sends(), 0);
        assert_eq!(world.starts().len(), 0, "nothing was made ready in vain");
        let job = rig.expect(skipped, State::Dead).await;
        let failure = job.failure.expect("why it was skipped");
        assert_eq!((failure.code.as_str(), job.attempts), ("late", 0));
        assert!(failure.message.contains("2 h late"), "{failure}");
        // its deadline wins over a question
        let job = rig.expect(limited, State::Dead).await;
        assert_eq!(job.failure.expect("why").code, "expired");
        for id in [now, then, dropped] {
            let job = rig.expect(id, State::Held).await;
            assert_eq!((job.held, job.attempts), (Some(Held::Policy), 0));
            assert_eq!(job.failure.expect("why it is held").code, "late");
        }
        // a person says: now, later, not at all
        let ledger = &*base.ledger;
        let state = operate::release(ledger, now, None, &somebody()).await;
        assert_eq!(state.unwrap(), State::Ready);
        let later = ledger.now().await.unwrap() + chrono::Duration::hours(3);
        let state = operate::release(ledger, then, Some(later), &somebody()).await;
        assert_eq!(state.unwrap(), State::Scheduled);
        let state = operate::cancel(ledger, dropped, &somebody()).await;
        assert_eq!(state.unwrap(), State::Cancelled);
        assert_eq!(rig.step(LANE).await, 1);
        rig.expect(now, State::Completed).await;
        let audit = ledger.audit(Some(now), 1).await.unwrap();
        assert_eq!((&*audit[0].actor, &*audit[0].action), ("anna", "release"));
        // put to another time, it is late again from then on
        rig.advance(Duration::from_secs(3 * 3_600 + 10)).await;
        assert_eq!(rig.step(LANE).await, 1);
        rig.expect(then, State::Completed).await;
        assert_eq!(world.sends(), 2);
        // and what was skipped is done once a person wants it
        operate::revive(ledger, skipped, None, &somebody())
            .await
            .unwrap();
        assert_eq!(rig.step(LANE).await, 1);
        rig.expect(skipped, State::Completed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_is_finished_however_late() {
    for base in Base::both().await {
        let host = Host::new(&base).await;
        let rig = &host.rig;
        let world = World::new();
        let at = base.clock.now();
        let blind = |policy: &str| {
            let mut it = post(&world, "ann blind", at);
            it["payload"]["act"] = "blind".into();
            it["late"] = policy.into();
            it["late_after_s"] = 60.into();
            it
        };
        let keyed = |policy: &str| {
            let mut it = post(&world, "bob keyed", at);
            it["late"] = policy.into();
            it["late_after_s"] = 60.into();
            it
        };
        world.answers([Says::Lost, Says::Lost]);
        let blind = rig.enqueue(&blind("skip")).await;
        let keyed = rig.enqueue(&keyed("ask")).await;
        assert_eq!(rig.step(LANE).await, 2);
        for id in [blind, keyed] {
            let effects = rig.effects(id).await;
            assert_eq!(
                (effects[0].state, effects[0].sends),
                (EffectState::Unknown, 1)
            );
        }
        // by the time that anybody looks at them again they are later than they may be
        rig.advance(Duration::from_secs(1_800)).await;
        let job = rig.drive(keyed).await;
        assert_eq!(job.state, State::Completed, "{job:?}");
        // what nobody can look for is put before a person for that, not skipped
        let job = rig.drive(blind).await;
        assert_eq!(job.state, State::Unresolved, "{job:?}");
        let verdict = Verdict::DidNotHappen;
        operate::resolve(&*base.ledger, blind, &verdict, &somebody())
            .await
            .unwrap();
        let job = rig.drive(blind).await;
        assert_eq!(job.state, State::Completed, "{job:?}");
        assert_eq!(job.result, Some(json!({"id": "remote-2"}).to_string()));
    }
}
