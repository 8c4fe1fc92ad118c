//! Lost answers of X and Instagram, by the real daemon and the sandbox's own log: a post is there at
//! most once, what is confirmed is there, what is refused isn't, and what nobody can know is left to a
//! person, with what was seen. And work in any language: a team's endpoints and programs of the host.

#[path = "../kit/mod.rs"]
mod kit;
#[path = "../storm/checker.rs"]
mod checker;
#[path = "../storm/world.rs"]
mod world;
mod adopted;
mod commands;
#[cfg(feature = "crashpoints")]
mod kills;
mod workers;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use checker::{Ends, Wanted, all_ended, by_key, check};
use kit::postgres::Postgres;
use kit::wait;
use presswork::effect::{Effect, EffectState};
use presswork::gate::{Cause, Scope};
use presswork::job::Job;
use presswork::ledger::Ledger;
use presswork::lifecycle::State;
use presswork::operate::stops::{self, Hand};
use serde_json::{Value, json};
use world::{ENDED, Host, Outside, READY, Stores, ended, envelope};

/// What is published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// A text on X: nothing clears it.
    Text,
    /// A picture on X: its key proves it, and nothing clears it either.
    Media,
    /// A container on Instagram: it says yes or no.
    Container,
}

impl Shape {
    const ALL: [Self; 3] = [Self::Text, Self::Media, Self::Container];

    /// Job number `n`, whose text plays a fault.
    fn job(self, n: usize, fault: &str) -> (Wanted, Value) {
        let png = STANDARD.encode(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x02\0\0\0\x03");
        let picture = json!({"data": png, "type": "image/png", "alt": "a bear"});
        match self {
            Self::Text => envelope(n, "post.x", json!({}), fault),
            Self::Media => envelope(n, "post.x", json!({"media": [picture]}), fault),
            Self::Container => envelope(n, "post.instagram", json!({}), fault),
        }
    }
}

/// Room for jobs that wait for an answer that never comes, and looks that don't take long.
const QUICK: &str = "[lanes.x]\nconcurrency = 64\n[lanes.instagram]\nconcurrency = 64\n\
    [kinds.\"post.x\"]\nlook_after_ms = 200\nlook_for_s = 10\n\
    [kinds.\"post.instagram\"]\nlook_after_ms = 200\nlook_for_s = 600\n";

/// A ledger of its own, and the sandbox.
pub struct Place {
    stores: Stores,
    url: String,
    outside: Outside,
    ledger: Arc<dyn Ledger>,
}

impl Place {
    pub async fn new() -> Self {
        let url = Postgres::shared().create_database().await;
        let mut stores = Stores::new(&url, "memory:");
        stores.more = QUICK.to_owned();
        Self {
            ledger: stores.ledger().await,
            stores,
            url,
            outside: Outside::new().await,
        }
    }

    fn host(&self) -> Host {
        Host::new(&self.stores, &self.outside.url)
    }

    /// The job of a key, which may not have begun anything yet.
    async fn stands(&self, key: &str) -> Job {
        let jobs = by_key(&*self.ledger).await;
        let found = jobs.into_iter().find(|it| it.key.as_deref() == Some(key));
        found.expect("it was accepted")
    }

    async fn job(&self, key: &str) -> (Job, Effect) {
        let job = self.stands(key).await;
        let effects = self.ledger.effects(job.id).await.expect("its effects");
        (job, effects.into_iter().next().expect("it has one"))
    }

    /// What was published of a job.
    async fn acts(&self, key: &str) -> usize {
        let acts = self.outside.acts().await;
        let of = |it: &&Value| matches!(it["op"].as_str(), Some("post.create" | "media.publish"));
        let texts = acts.iter().filter(of).filter_map(|it| it["text"].as_str());
        texts.filter(|it| it.starts_with(key)).count()
    }

    /// A person says that a job's post isn't there.
    async fn sent_again(&self, host: &Host, key: &str) {
        let id = self.job(key).await.0.id.to_string();
        let words = ["unresolved", "resolve", &id, "--did-not-happen"];
        let done = host.home.cli(&words).await;
        assert!(done.status.success(), "{done:?}");
    }
}

/// How a fault ends: whether the platform acted, and how the job stands then.
struct Case {
    shape: Shape,
    fault: &'static str,
    acted: bool,
    stands: State,
}

fn cases() -> Vec<Case> {
    // what the platform makes of it at once, or later, unheard
    let acted = [
        "act_hang",
        "act_reset",
        "act_truncate",
        "act_lie",
        "act_500",
        "act_504",
        "act_refuse",
        "act_late delay_ms=1500",
        "act_reset lag_ms=2000",
    ];
    let did_not = ["hang", "reset", "lie", "500", "refuse"];
    let case = |shape, fault, acted| Case {
        shape,
        fault,
        acted,
        stands: match (shape, acted, fault) {
            (_, true, _) => State::Completed,
            (_, _, "refuse") => State::Dead,
            (Shape::Container, ..) => State::Completed,
            _ => State::Unresolved,
        },
    };
    let of = |shape| {
        let acted = acted.iter().map(move |it| case(shape, *it, true));
        acted.chain(did_not.iter().map(move |it| case(shape, *it, false)))
    };
    Shape::ALL.into_iter().flat_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lost_answer_ends_with_one_post_or_in_front_of_a_person() {
    let mut place = Place::new().await;
    // nobody dies here, and a busy machine isn't what is tried
    place.stores.lease_s = 30;
    let host = place.host();
    let daemon = host.run();
    daemon.wait_ready(host.api, READY).await;
    let cases = cases();
    let mut wanted = vec![];
    for (n, it) in cases.iter().enumerate() {
        let (mut job, envelope) = it.shape.job(n, it.fault);
        if it.stands == State::Dead {
            job.ends = Ends::Dead(match it.shape {
                Shape::Container => "graph_100",
                _ => "http_403",
            });
        }
        host.submit(&envelope).await;
        wanted.push(job);
    }
    // an account that its platform restricts waits for a person, who lets it go on here
    let restricted = Scope {
        account: Some("iris".to_owned()),
        ..Scope::default()
    };
    let hand = Hand {
        actor: "test",
        reason: "it may post again",
    };
    let person = async {
        loop {
            wait::until("an account is restricted", ENDED * 3, async || {
                let gone = stops::go(&*place.ledger, (Cause::Account, &restricted), hand).await;
                gone.expect("the ledger answers")
            })
            .await;
        }
    };
    tokio::select! {
        () = ended(&*place.ledger, wanted.len(), ENDED * 2) => {}
        () = person => {}
    }
    for (it, job) in cases.iter().zip(&wanted) {
        looked_for(&place, it, &job.key).await;
    }
    let doubtful = cases.iter().zip(&wanted);
    let doubtful = doubtful.filter(|it| it.0.stands == State::Unresolved);
    for (_, job) in doubtful.clone() {
        place.sent_again(&host, &job.key).await;
    }
    wait::until("what a person cleared is sent", ENDED, async || {
        all_ended(&*place.ledger).await
    })
    .await;
    for (it, job) in doubtful {
        let at = format!("{:?} {}", it.shape, it.fault);
        let (told, effect) = place.job(&job.key).await;
        assert_eq!(told.state, State::Completed, "{at}: {told:?}");
        assert_eq!((effect.sends, place.acts(&job.key).await), (2, 1), "{at}");
    }
    // and all that holds for every job
    let found = check(&*place.ledger, &wanted, &place.outside.acts().await).await;
    println!("{found:?}");
}

/// One case as it stands before anybody was asked.
async fn looked_for(place: &Place, it: &Case, key: &str) {
    let at = format!("{:?} {}", it.shape, it.fault);
    let (job, effect) = place.job(key).await;
    assert_eq!(job.state, it.stands, "{at}: {job:?} {effect:?}");
    let charged = u32::from(it.stands == State::Dead);
    assert_eq!(
        job.attempts, charged,
        "{at}: a lost answer is nobody's fault"
    );
    let state = match it.stands {
        State::Completed => EffectState::Confirmed,
        State::Dead => EffectState::Refused,
        _ => EffectState::Unresolved,
    };
    assert_eq!(effect.state, state, "{at}");
    let acts = usize::from(state == EffectState::Confirmed);
    assert_eq!(place.acts(key).await, acts, "{at}: {effect:?}");
    let sends = match (it.acted, it.stands) {
        (false, State::Completed) => 2,
        _ => 1,
    };
    assert_eq!(effect.sends, sends, "{at}: {effect:?}");
    let seen = |what: &str| effect.evidence.iter().any(|it| it.seen.contains(what));
    assert!(seen("send 1: "), "{at}: {effect:?}");
    // what was heard needn't be looked for
    assert_eq!(seen("look "), it.stands != State::Dead, "{at}: {effect:?}");
    if state == EffectState::Unresolved {
        assert!(seen("it isn't looked for any more"), "{at}: {effect:?}");
    }
}
