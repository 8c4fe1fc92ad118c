//! Bills: what is reserved of budgets that count money, and whose sender didn't live to say what became of
//! it, is settled by what the ledger knows of the effect.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::rounds::rounds;
use super::shared::Shared;
use crate::budget::{Hold, Paid};
use crate::clock::Time;
use crate::effect::{Effect, EffectClass, EffectId, EffectState};
use crate::job::JobId;
use crate::ledger::Result;
use crate::platform::gate;

/// How often reserved money is looked at.
const EVERY: Duration = Duration::from_secs(5);
/// Who sends usually says so by itself within this.
const AGE: chrono::Duration = chrono::Duration::seconds(15);
/// Twice the longest lease: who took it and wasn't permitted by then never will be.
const NEVER_PERMITTED: chrono::Duration = chrono::Duration::hours(2);
/// Reserved amounts that are looked at in one round.
const MOST: usize = 1_000;

/// Settles bills for a daemon.
pub struct Bills {
    shared: Arc<Shared>,
}

impl Bills {
    /// The settler of bills.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Ticks until the daemon has ended.
    pub async fn run(&self) {
        rounds(EVERY, "bills", || self.tick()).await;
    }

    /// One round: what became of each amount that is reserved for long enough. How many were settled.
    ///
    /// # Errors
    /// When the ledger is away; the next round goes on.
    pub async fn tick(&self) -> Result<usize> {
        let purses = self.shared.gate.purses().await?;
        let now = self.shared.now();
        let mut known: HashMap<Uuid, Vec<Effect>> = HashMap::new();
        let mut settled = 0;
        for purse in &purses {
            let old = purse.reserved().filter(|it| age(it.1, now) >= AGE);
            for reserved in old.take(MOST) {
                let hold = reserved.1;
                let effects = match known.entry(hold.job) {
                    Entry::Occupied(it) => it.into_mut(),
                    Entry::Vacant(it) => {
                        let ledger = &self.shared.ledger;
                        it.insert(ledger.effects(JobId(hold.job)).await?)
                    }
                };
                let id = EffectId(hold.effect);
                let effect = effects.iter().find(|it| it.id == id);
                if let Some(paid) = settles(effect, hold, now) {
                    self.shared.gate.settle(purse.debt(reserved), paid);
                    settled += 1;
                }
            }
        }
        Ok(settled)
    }
}

fn age(hold: &Hold, now: Time) -> chrono::Duration {
    chrono::Duration::microseconds(now.timestamp_micros().saturating_sub(hold.at))
}

/// What the effect's row says of what was reserved for a send of it; `None`: nothing yet. Never less than
/// what may have been paid.
fn settles(effect: Option<&Effect>, hold: &Hold, now: Time) -> Option<Paid> {
    // it was written down before anything was reserved, so its job has been cleared away since
    let Some(effect) = effect else {
        return Some(Paid::Estimate);
    };
    if effect.sends < hold.send {
        return (NEVER_PERMITTED <= age(hold, now)).then_some(Paid::Nothing);
    }
    match (effect.state, &effect.receipt) {
        (EffectState::Refused, _) => Some(Paid::Nothing),
        (EffectState::Confirmed, _) if effect.handle.is_some() => None,
        (EffectState::Confirmed, Some(receipt)) => {
            let is_this = hold.send == effect.sends || effect.class != EffectClass::P;
            match is_this {
                true => gate::paid(receipt).or(Some(Paid::Estimate)),
                // its answer was lost: it may have been made
                false => Some(Paid::Estimate),
            }
        }
        (EffectState::Confirmed, None) => Some(Paid::Estimate),
        (
            EffectState::Intended
            | EffectState::Sending
            | EffectState::Unknown
            | EffectState::Unresolved,
            _,
        ) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::effect::{Receipt, UNDER_WAY};

    const STATES: &[EffectState] = EffectState::ALL;

    fn effect(state: EffectState, sends: u32, detail: Value) -> Effect {
        let class = EffectClass::P;
        let receipt = (state == EffectState::Confirmed).then(|| Receipt {
            remote_id: Some("r1".to_owned()),
            url: None,
            at: Time::UNIX_EPOCH,
            detail,
        });
        Effect {
            state,
            sends,
            receipt,
            ..Effect::new(
                (JobId(Uuid::nil()), 1),
                ("a", 0),
                "b",
                "openai.image",
                class,
            )
        }
    }

    fn hold(send: u32) -> Hold {
        Hold {
            job: Uuid::nil(),
            effect: Uuid::nil(),
            send,
            each: true,
            by: Uuid::nil(),
            micros: 100,
            period: 1,
            at: 0,
        }
    }

    fn of(effect: &Effect, send: u32) -> Option<Paid> {
        settles(Some(effect), &hold(send), Time::UNIX_EPOCH + AGE)
    }

    #[test]
    fn only_what_provably_didnt_happen_is_given_back() {
        let cost = json!({"cost_micros": 7});
        for state in STATES {
            for sends in 1..4 {
                for send in 1..=sends {
                    let given = of(&effect(*state, sends, cost.clone()), send);
                    let expected = match state {
                        EffectState::Refused => Some(Paid::Nothing),
                        EffectState::Confirmed if send == sends => Some(Paid::Cost(7)),
                        EffectState::Confirmed => Some(Paid::Estimate),
                        _ => None,
                    };
                    assert_eq!(given, expected, "{state} {send} of {sends}");
                }
                // taken, and not permitted yet: its sender may only be slow
                assert_eq!(of(&effect(*state, sends, cost.clone()), sends + 1), None);
                let late = Time::UNIX_EPOCH + NEVER_PERMITTED;
                let one = effect(*state, sends, cost.clone());
                let given = settles(Some(&one), &hold(sends + 1), late);
                assert_eq!(given, Some(Paid::Nothing));
            }
        }
        assert_eq!(
            settles(None, &hold(1), Time::UNIX_EPOCH),
            Some(Paid::Estimate)
        );
    }

    #[test]
    fn work_that_goes_on_is_settled_at_its_end() {
        let mut begun = effect(EffectState::Confirmed, 1, json!({UNDER_WAY: true}));
        begun.handle = Some("r1".to_owned());
        assert_eq!(of(&begun, 1), None);
        // its daemon died before it could say the cost
        begun.handle = None;
        assert_eq!(of(&begun, 1), Some(Paid::Estimate));
        let unpriced = effect(EffectState::Confirmed, 1, json!({"cost_micros": null}));
        assert_eq!(of(&unpriced, 1), Some(Paid::Estimate));
    }
}
