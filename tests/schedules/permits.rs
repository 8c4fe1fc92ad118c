//! The permit, the journal and the send: what leaves is permitted once, and written down before, on this
//! host and in the ledger; who asks it to stop, or takes the ledger over, is not overtaken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use presswork::budget::Price;
use presswork::clock::Time;
use presswork::effect::{
    Effect, EffectClass, EffectId, EffectState, Evidence, Looking, Receipt, Rule,
};
use presswork::gate::{Closure, Subject};
use presswork::job::JobId;
use presswork::outcome::Outcome;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::disk::{Real, Slow};
use crate::in_any_order;
use crate::journal::record::SendId;
use crate::journal::{Journal, Options, on, within};
use crate::journals::{RUN, SYNCED, run};
use crate::ledger::{
    Audit, Conclusion, Fence, History, Ledger, LedgerError, Result as LedgerResult, Run,
};
use crate::protocol::Protocol;
use crate::sync::point;
use crate::wanted::{Permit, Wanted};

/// A ledger of a few rows, each of whose calls takes a while.
#[derive(Default)]
struct Books {
    rows: Mutex<HashMap<EffectId, Effect>>,
    /// The journal's disk, where it is in memory.
    disk: Option<Slow>,
    /// Another server has taken the ledger over by now.
    taken_over: AtomicBool,
    /// A permit was given after that.
    late: AtomicBool,
}

const FENCE: Fence = Fence {
    job: JobId(Uuid::from_u128(1)),
    revision: 0,
    token: Uuid::from_u128(2),
    run: RUN,
};

#[async_trait::async_trait]
impl Ledger for Books {
    async fn live_runs(&self) -> LedgerResult<Vec<Run>> {
        Ok(vec![run()])
    }

    async fn history(&self) -> LedgerResult<Option<History>> {
        Ok(None)
    }

    async fn told_of(&self, _effects: &[EffectId]) -> LedgerResult<Option<Vec<EffectId>>> {
        Ok(Some(Vec::new()))
    }

    async fn closures(&self) -> LedgerResult<Vec<Closure>> {
        Ok(vec![])
    }

    async fn intend(&self, _: &Fence, effect: &Effect) -> LedgerResult<Option<(Effect, Time)>> {
        point();
        let mut rows = self.rows.lock().unwrap();
        let row = rows.entry(effect.id).or_insert_with(|| effect.clone());
        Ok(Some((row.clone(), Time::UNIX_EPOCH)))
    }

    async fn permit(
        &self,
        fence: &Fence,
        id: EffectId,
        from: (EffectState, u32),
        _: Duration,
        _: Option<&str>,
    ) -> LedgerResult<bool> {
        point();
        let permitted = {
            let mut rows = self.rows.lock().unwrap();
            let row = rows.get_mut(&id).expect("it was intended");
            let is_as_seen = (row.state, row.sends) == from;
            if is_as_seen {
                row.state = EffectState::Sending;
                row.sends += 1;
                row.permit_at = Some(Time::UNIX_EPOCH);
                row.permit_run = Some(fence.run);
                let late = self.taken_over.load(Ordering::SeqCst);
                self.late.store(late, Ordering::SeqCst);
            }
            is_as_seen
        };
        point();
        Ok(permitted)
    }

    async fn repeats(&self, _: EffectId, _: Duration) -> LedgerResult<Option<Effect>> {
        Ok(None)
    }

    async fn conclude(&self, id: EffectId, send: u32, it: &Conclusion) -> LedgerResult<bool> {
        point();
        if let Some(disk) = &self.disk {
            let answer = (SendId { effect: id, send }, true);
            assert!(
                disk.holds(RUN, true).contains(&answer),
                "an answer is on this host before the ledger is told"
            );
        }
        let mut rows = self.rows.lock().unwrap();
        let row = rows.get_mut(&id).expect("it was intended");
        row.state = it.to;
        row.receipt.clone_from(&it.receipt);
        Ok(true)
    }

    async fn decide(
        &self,
        _: EffectId,
        _: (EffectState, u32),
        _: &Conclusion,
        _: Option<&Audit>,
    ) -> LedgerResult<bool> {
        Err(LedgerError::Away("nobody decides here".to_owned()))
    }

    async fn witness(&self, _: EffectId, _: &Evidence) -> LedgerResult<()> {
        Ok(())
    }
}

/// An attempt at the job.
fn attempt(books: &Arc<Books>, journal: &Journal, cancelled: &CancellationToken) -> Protocol {
    let lease = Duration::from_secs(3_600);
    let subject = Subject {
        account: Some("alice".to_owned()),
        ..Subject::default()
    };
    Protocol::new(
        books.clone(),
        Some(journal.clone()),
        FENCE,
        (subject, None, None),
        lease,
        cancelled.clone(),
    )
}

/// Says something on a platform that knows no keys; `send` is the one call.
async fn says<S, F>(protocol: &Protocol, send: S) -> Result<Receipt, Outcome>
where
    S: FnOnce(Permit) -> F,
    F: Future<Output = ()>,
{
    let wanted = Wanted {
        step: "publish",
        ordinal: 0,
        op: "x.tweet",
        rule: Rule::looked_up(EffectClass::C, Looking::USUAL, Duration::from_secs(3_600)),
        intent: serde_json::json!("hello"),
        keep: serde_json::Value::Null,
        says: None,
        budget: Duration::from_secs(3_600),
        price: Price::Free,
    };
    let send = async |permit| {
        send(permit).await;
        Ok(Receipt {
            remote_id: Some("1".to_owned()),
            url: None,
            at: Time::UNIX_EPOCH,
            detail: serde_json::Value::Null,
        })
    };
    protocol.effect(wanted, send).await
}

#[test]
fn nothing_leaves_before_its_permit_and_its_journal_are_safe() {
    in_any_order(|| async {
        let disk = Slow::default();
        let journal = on(Box::new(disk.clone()), &run(), SYNCED).expect("a journal");
        let books = Arc::new(Books {
            disk: Some(disk.clone()),
            ..Books::default()
        });
        let acts = Arc::new(AtomicUsize::new(0));
        // two attempts at one job: one of them is taken for dead, and isn't
        let attempts: Vec<_> = (0..2)
            .map(|_| {
                let protocol = attempt(&books, &journal, &CancellationToken::new());
                let (books, disk, acts) = (books.clone(), disk.clone(), acts.clone());
                shuttle::future::spawn(async move {
                    says(&protocol, async |permit: Permit| {
                        let row = books.rows.lock().unwrap()[&permit.id].clone();
                        assert_eq!((row.state, row.sends), (EffectState::Sending, permit.send));
                        let (effect, send) = (permit.id, permit.send);
                        let noted = (SendId { effect, send }, false);
                        assert!(disk.holds(RUN, true).contains(&noted), "it isn't safe yet");
                        acts.fetch_add(1, Ordering::SeqCst);
                        point();
                    })
                    .await
                    .is_ok()
                })
            })
            .collect();
        let mut done = 0;
        for it in attempts {
            done += usize::from(it.await.expect("nobody called it off"));
        }
        assert_eq!(acts.load(Ordering::SeqCst), 1, "it was said once");
        assert!(1 <= done, "who said it knows so");
    });
}

#[test]
fn what_an_old_server_permitted_is_told_or_not_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    in_any_order(move || {
        let path = path.clone();
        async move {
            let options = Options {
                fsync: false,
                ..SYNCED
            };
            let journal = within(&path, Box::new(Real), &run(), options).expect("a journal");
            let books = Arc::new(Books::default());
            let acted = Arc::new(Mutex::new(None));
            let protocol = attempt(&books, &journal, &CancellationToken::new());
            let (sent, over) = (acted.clone(), journal.clone());
            let sends = shuttle::future::spawn(async move {
                let _ = says(&protocol, async |permit: Permit| {
                    *sent.lock().unwrap() = Some(permit.id);
                })
                .await;
            });
            let taken = books.clone();
            let takes_over = shuttle::future::spawn(async move {
                point();
                taken.taken_over.store(true, Ordering::SeqCst);
                over.turn();
                over.told().await.expect("it can be read")
            });
            let told = takes_over.await.expect("nobody called it off");
            sends.await.expect("nobody called it off");
            let acted = *acted.lock().unwrap();
            if let Some(effect) = acted
                && !books.late.load(Ordering::SeqCst)
            {
                let id = SendId { effect, send: 1 };
                assert!(told.sends.contains_key(&id), "it was sent, and isn't told");
            }
        }
    });
}

#[test]
fn who_is_asked_to_stop_begins_nothing_and_is_idle_once_it_says_so() {
    in_any_order(|| async {
        let disk = Slow::default();
        let journal = on(Box::new(disk.clone()), &run(), SYNCED).expect("a journal");
        let books = Arc::new(Books::default());
        let cancelled = CancellationToken::new();
        let protocol = Arc::new(attempt(&books, &journal, &cancelled));
        let (under_way, idle) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (sends, calls, told) = (protocol.clone(), under_way.clone(), idle.clone());
        let sends = shuttle::future::spawn(async move {
            let said = says(&sends, async |_| {
                assert!(!told.load(Ordering::SeqCst), "it said that it is idle");
                calls.fetch_add(1, Ordering::SeqCst);
                point();
                calls.fetch_sub(1, Ordering::SeqCst);
            });
            let _ = said.await;
        });
        point();
        cancelled.cancel();
        protocol.idle().await;
        idle.store(true, Ordering::SeqCst);
        assert_eq!(under_way.load(Ordering::SeqCst), 0);
        let rows = books.rows.lock().unwrap().clone();
        let is_open = |it: &Effect| it.state == EffectState::Sending;
        assert!(!rows.values().any(is_open), "its conclusion is written");
        sends.await.expect("nobody called it off");
    });
}
