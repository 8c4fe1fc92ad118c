//! What kills its daemons: after two crashes in a row a job is a suspect, suspects run one at a time,
//! and only what was the one that had begun is charged. Hosts are rigs over one pair of stores.

use presswork::job::{Job, JobId};
use presswork::ledger::Attempt;
use presswork::lifecycle::{CRASHES_MAX, CRASHES_SUSPECT, State};
use presswork::operate;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;

use crate::probe::{Says, World, kinds};
use crate::rig::{Base, Rig, somebody};
use crate::wrap::Faulty;
use crate::{LANE, SOON, kit, limits};

async fn rig(base: &Base) -> Rig {
    let rig = Rig::new(base, kinds(), limits(None, 100)).await;
    // it knows the queue's generation: so it frees what it takes back
    rig.relay.tick().await;
    rig
}

/// A host that the test kills.
struct Host {
    rig: Rig,
    taken: Vec<presswork::engine::shared::Assigned>,
    runs: Vec<JoinHandle<()>>,
}

impl Host {
    /// A new one, which has claimed all that is due.
    async fn new(base: &Base) -> Self {
        let rig = rig(base).await;
        Self {
            taken: rig.take(LANE).await,
            rig,
            runs: Vec::new(),
        }
    }

    /// Begins the claimed jobs that `pick` names; how many.
    fn begin(&mut self, pick: impl Fn(&Job) -> bool) -> usize {
        let (picked, left): (Vec<_>, Vec<_>) = self.taken.drain(..).partition(|it| pick(&it.job));
        self.taken = left;
        let count = picked.len();
        self.runs
            .extend(picked.into_iter().map(|it| self.rig.begin(it)));
        count
    }

    /// As a kill does: nothing of it goes on, and its lease is over. Somebody else takes its jobs back.
    async fn die(self, survivor: &Rig) {
        // all at once: nobody gets the turn of one that was stopped before
        self.runs.iter().rev().for_each(JoinHandle::abort);
        for run in self.runs {
            // aborted, or it had ended
            let _ = run.await;
        }
        let run = self.rig.shared.run_id();
        self.rig.base.ledger.end_run(run).await.unwrap();
        survivor.sweeper.reclaim().await.unwrap();
        assert_eq!(survivor.sweeper.reclaim().await.unwrap(), 0);
    }

    /// Waits until all that was begun has ended.
    async fn ended(&mut self) {
        for run in self.runs.drain(..) {
            tokio::time::timeout(SOON, run)
                .await
                .expect("it ends")
                .unwrap();
        }
    }
}

/// Jobs that hosts died under until they were suspects, none of which had begun.
async fn suspects(rig: &Rig, envelopes: &[Value]) -> Vec<JobId> {
    let mut ids = Vec::new();
    for it in envelopes {
        ids.push(rig.enqueue(it).await);
    }
    for crash in 1..=CRASHES_SUSPECT {
        let host = Host::new(&rig.base).await;
        assert_eq!(host.taken.len(), ids.len());
        host.die(rig).await;
        for id in &ids {
            assert_eq!(rig.expect(*id, State::Ready).await.crashes, crash);
        }
    }
    ids
}

async fn until_started(world: &Arc<World>, name: &str, times: u32) {
    let what = format!("{name} has begun {times} times");
    let count = || world.starts().iter().filter(|it| *it == name).count();
    kit::wait::until(&what, SOON, async || count() == times as usize).await;
}

fn words(attempts: &[Attempt]) -> Vec<&str> {
    attempts.iter().map(|it| it.outcome.as_str()).collect()
}

/// Also an innocent one that ends at once: by then whatever would begin has begun.
async fn breathe(host: &mut Host, world: &Arc<World>, name: String) {
    let id = host.rig.enqueue(&world.job("yield", &name)).await;
    host.taken.extend(host.rig.take(LANE).await);
    assert_eq!(host.begin(|it| it.id == id), 1);
    let done = async || host.rig.job(id).await.state == State::Completed;
    kit::wait::until("an innocent one beside it has ended", SOON, done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kills_its_owners_is_buried_as_poison_and_nothing_else() {
    for base in Base::both().await {
        let rig = rig(&base).await;
        let (world, short) = (World::new(), World::new());
        let poison = rig.enqueue(&world.job("watch", "poison")).await;
        let mut long = Vec::new();
        for n in 0..3 {
            long.push(rig.enqueue(&world.job("gate", format!("long {n}"))).await);
        }
        // beside each other: all are charged
        for crash in 1..=CRASHES_SUSPECT {
            let mut host = Host::new(&base).await;
            assert_eq!(host.begin(|_| true), 4);
            until_started(&world, "poison", crash).await;
            for n in 0..3 {
                until_started(&world, &format!("long {n}"), crash).await;
            }
            breathe(&mut host, &short, format!("beside {crash}")).await;
            host.die(&rig).await;
            for id in long.iter().chain([&poison]) {
                let it = rig.expect(*id, State::Ready).await;
                assert_eq!((it.attempts, it.crashes), (0, crash));
            }
        }
        world.peak.store(0, Ordering::SeqCst);
        // one at a time: what waits isn't charged
        for crash in CRASHES_SUSPECT + 1..CRASHES_MAX {
            let mut host = Host::new(&base).await;
            host.begin(|it| it.id == poison);
            until_started(&world, "poison", crash).await;
            assert_eq!(rig.job(poison).await.crashes, crash, "charged ahead");
            assert_eq!(host.begin(|_| true), 3);
            breathe(&mut host, &short, format!("beside {crash}")).await;
            host.die(&rig).await;
            assert_eq!(rig.expect(poison, State::Ready).await.crashes, crash);
            for id in &long {
                let it = rig.expect(*id, State::Ready).await;
                assert_eq!(it.crashes, CRASHES_SUSPECT, "it only waited");
            }
        }
        // the long ones have their turn before it, one after the other
        world.gate.add_permits(3);
        let mut host = Host::new(&base).await;
        assert_eq!(host.begin(|it| it.id != poison), 3);
        host.ended().await;
        host.begin(|_| true);
        until_started(&world, "poison", CRASHES_MAX).await;
        host.die(&rig).await;
        assert_eq!(world.peak.load(Ordering::SeqCst), 1, "each ran alone");
        for id in long {
            let it = rig.expect(id, State::Completed).await;
            assert_eq!(it.crashes, 0, "{it:?}");
        }
        let it = rig.expect(poison, State::Dead).await;
        assert_eq!((it.attempts, it.crashes), (0, CRASHES_MAX));
        assert_eq!(it.failure.unwrap().code, "poison");
        let history = rig.attempts(poison).await;
        assert_eq!(words(&history), ["reclaimed"; CRASHES_MAX as usize]);
    }
}

/// A poison job is no suspect at its first crashes: what runs beside it then may be one already.
#[tokio::test(flavor = "multi_thread")]
async fn an_innocent_suspect_outlives_a_new_poison() {
    for base in Base::both().await {
        let rig = rig(&base).await;
        let world = World::new();
        let innocent = suspects(&rig, &[world.job("gate", "innocent")]).await[0];
        let poison = rig.enqueue(&world.job("watch", "poison")).await;
        for crash in 1..=CRASHES_SUSPECT {
            let mut host = Host::new(&base).await;
            assert_eq!(host.begin(|_| true), 2);
            until_started(&world, "innocent", crash).await;
            until_started(&world, "poison", crash).await;
            host.die(&rig).await;
            let it = rig.expect(innocent, State::Ready).await;
            assert_eq!(it.crashes, CRASHES_SUSPECT + crash);
        }
        world.gate.add_permits(1);
        for crash in CRASHES_SUSPECT + 1..=CRASHES_MAX {
            let mut host = Host::new(&base).await;
            host.begin(|_| true);
            until_started(&world, "poison", crash).await;
            host.die(&rig).await;
        }
        rig.expect(poison, State::Dead).await;
        let it = rig.drive(innocent).await;
        assert_eq!((it.state, it.crashes), (State::Completed, 0), "{it:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_ends_by_itself_is_no_row_of_crashes() {
    for base in Base::both().await {
        let rig = rig(&base).await;
        let world = World::new();
        let id = rig.enqueue(&world.job("gate_fail", "x")).await;
        // more deaths than bury, with an attempt of its own now and then
        for round in 0..CRASHES_MAX {
            for crash in 1..=CRASHES_SUSPECT {
                Host::new(&base).await.die(&rig).await;
                let it = rig.job(id).await;
                assert_eq!(it.crashes, crash, "round {round}: {it:?}");
                // the host's idea of the ledger's time may be ahead by a little
                rig.advance(Duration::from_secs(1)).await;
            }
            world.gate.add_permits(1);
            let mut host = Host::new(&base).await;
            assert_eq!(host.begin(|_| true), 1);
            host.ended().await;
            let it = rig.job(id).await;
            assert_eq!(it.crashes, 0, "{it:?}");
            if it.state == State::Dead {
                assert_eq!((round, it.attempts), (2, 3), "its attempts buried it");
                break;
            }
            rig.advance(Duration::from_secs(5)).await;
        }
        let code = rig.expect(id, State::Dead).await.failure.unwrap().code;
        assert_eq!(code, "asked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_gives_suspects_back_as_they_were() {
    let base = Base::embedded_live().await;
    let world = World::new();
    let jobs = [world.job("watch", "one"), world.job("watch", "two")];
    let ids = suspects(&rig(&base).await, &jobs).await;
    let engine = base.whole(limits(None, 100), kinds()).await;
    let crashes = async || {
        let mut crashes = Vec::new();
        for id in &ids {
            let job = base.ledger.job(*id).await.unwrap().unwrap();
            crashes.push((job.state, job.crashes));
        }
        crashes.sort();
        crashes
    };
    kit::wait::until("one has begun", SOON, async || world.starts().len() == 1).await;
    let held = async || engine.shared.running.len() == 2;
    kit::wait::until("the other is held", SOON, held).await;
    let waits = (State::Running, CRASHES_SUSPECT);
    let begun = (State::Running, CRASHES_SUSPECT + 1);
    assert_eq!(crashes().await, [waits, begun]);
    assert_eq!(engine.drain(Duration::from_millis(50)).await, 2);
    assert_eq!(crashes().await, [(State::Ready, CRASHES_SUSPECT); 2]);
    assert_eq!(world.starts().len(), 1, "the other never began");
    for id in ids {
        let history = base.ledger.attempts(id).await.unwrap();
        assert_eq!(words(&history), ["reclaimed", "reclaimed", "released"]);
    }
}

/// One that has begun and holds the turn, and one that waits for it.
async fn begun_and_waiting(host: &mut Host, world: &Arc<World>, ids: &[JobId]) {
    assert_eq!(host.begin(|it| it.id == ids[0]), 1);
    until_started(world, "first", 1).await;
    assert_eq!(host.begin(|_| true), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_suspect_is_called_off_at_once() {
    for base in Base::both().await {
        let rig = rig(&base).await;
        let world = World::new();
        let jobs = [world.job("gate", "first"), world.job("note", "second")];
        let ids = suspects(&rig, &jobs).await;
        let mut host = Host::new(&base).await;
        begun_and_waiting(&mut host, &world, &ids).await;
        operate::cancel(&*base.ledger, ids[1], &somebody())
            .await
            .unwrap();
        host.rig.control.tick().await.unwrap();
        let waiting = host.runs.pop().unwrap();
        tokio::time::timeout(SOON, waiting)
            .await
            .expect("it ends")
            .unwrap();
        rig.expect(ids[1], State::Cancelled).await;
        world.gate.add_permits(1);
        host.ended().await;
        rig.expect(ids[0], State::Completed).await;
        assert_eq!(world.starts(), ["first"]);
    }
}

/// The effect may have happened: that is looked at first, and a suspect looks when it has its turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_suspect_that_is_called_off_with_an_open_effect_still_looks() {
    for base in Base::both().await {
        let rig = rig(&base).await;
        let world = World::new();
        world.answers([Says::Never]);
        let id = rig.enqueue(&world.job("keyed", "second")).await;
        let mut host = Host::new(&base).await;
        assert_eq!(host.begin(|_| true), 1);
        kit::wait::until("it is sent", SOON, async || world.sends() == 1).await;
        host.die(&rig).await;
        let first = rig.enqueue(&world.job("gate", "first")).await;
        for _ in 0..CRASHES_SUSPECT {
            Host::new(&base).await.die(&rig).await;
        }
        let mut host = Host::new(&base).await;
        begun_and_waiting(&mut host, &world, &[first, id]).await;
        operate::cancel(&*base.ledger, id, &somebody())
            .await
            .unwrap();
        host.rig.control.tick().await.unwrap();
        let told = async || host.rig.shared.running.why(id).is_none();
        kit::wait::until("it looks, though it is called off", SOON, told).await;
        assert!(host.rig.shared.running.is_called_off(id));
        world.gate.add_permits(1);
        host.ended().await;
        assert_eq!(rig.job(first).await.state, State::Completed);
        assert_eq!(world.starts(), ["second", "first", "second"]);
        let it = rig.drive(id).await;
        assert_eq!((it.state, it.crashes), (State::Completed, 0), "{it:?}");
        assert_eq!(world.sends(), 2, "sent again under its key");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_that_lost_its_lease_while_it_waited_never_begins() {
    for base in Base::both().await {
        let rig = rig(&base).await;
        let world = World::new();
        let jobs = [world.job("gate", "first"), world.job("note", "second")];
        let ids = suspects(&rig, &jobs).await;
        let mut host = Host::new(&base).await;
        begun_and_waiting(&mut host, &world, &ids).await;
        // declared dead, and nobody has told it yet
        base.ledger.end_run(host.rig.shared.run_id()).await.unwrap();
        assert_eq!(rig.sweeper.reclaim().await.unwrap(), 2);
        world.gate.add_permits(2);
        host.ended().await;
        assert_eq!(world.starts(), ["first"]);
        let crashes = [rig.job(ids[0]).await.crashes, rig.job(ids[1]).await.crashes];
        assert_eq!(crashes, [CRASHES_SUSPECT + 1, CRASHES_SUSPECT]);
        for id in ids {
            assert_eq!(rig.drive(id).await.state, State::Completed);
        }
    }
}

/// Else a daemon that dies between two of them would charge both.
#[tokio::test(flavor = "multi_thread")]
async fn a_turn_lasts_from_the_written_charge_to_the_written_outcome() {
    let mut base = Base::embedded().await;
    let faulty = Faulty::new(base.ledger.clone());
    base.ledger = faulty.clone();
    let rig = rig(&base).await;
    let world = World::new();
    let ids = suspects(&rig, &[world.job("gate", "x")]).await;
    let mut host = Host::new(&base).await;
    let tries = async || {
        let before = faulty.calls("settle");
        let tried = async || before + 2 < faulty.calls("settle");
        kit::wait::until("it tried", SOON, tried).await;
    };
    faulty.away("settle");
    assert_eq!(host.begin(|_| true), 1);
    tries().await;
    assert!(world.starts().is_empty(), "it hasn't begun");
    faulty.back();
    until_started(&world, "x", 1).await;
    faulty.away("settle");
    world.gate.add_permits(1);
    tries().await;
    let turns = || host.rig.shared.suspects.available_permits();
    assert_eq!(turns(), 0, "its outcome isn't written");
    faulty.back();
    kit::wait::until("its turn is over", SOON, async || turns() == 1).await;
    host.ended().await;
    rig.expect(ids[0], State::Completed).await;
}
