//! What dead runs of this host were sending: told by their send journals, and written down before
//! anybody takes their jobs over.

use std::path::Path;

use anyhow::Context as _;
use chrono::TimeDelta;

use crate::clock::Time;
use crate::effect::{Effect, EffectState, Evidence};
use crate::journal::{Asked, Past, Proof, proves, replay};
use crate::ledger::{Conclusion, Ledger, Run};

/// A journal stays so long after its run: a ledger that is restored or promoted with a lost tail may
/// ask for what it once knew.
const KEEP: TimeDelta = TimeDelta::hours(1);

/// What was found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Sends that certainly never left.
    pub not_sent: usize,
    /// Sends whose answer had been heard.
    pub answered: usize,
    /// Sends that may have happened.
    pub sent: usize,
}

/// Reads the journals in `folder` and concludes what they prove. The caller holds the lock of the
/// state folder, which is no copy of another machine's: whoever wrote them is dead.
///
/// # Errors
/// When the folder can't be read, or the ledger is away: nothing was forgotten, the next start goes on.
pub async fn recover(ledger: &dyn Ledger, here: &Run, folder: &Path) -> anyhow::Result<Recovered> {
    let told = || format!("can't read the send journals in {}", folder.display());
    let pasts = replay(folder).with_context(told)?;
    let mut found = Recovered::default();
    for past in &pasts {
        for damage in &past.damage {
            tracing::error!("a send journal is damaged, so that it proves less: {damage}");
        }
        for effect in ledger.sending(past.run).await? {
            conclude(ledger, here, past, &effect, &mut found).await?;
        }
        if is_old(past, here.began_at) {
            past.retire().with_context(told)?;
        }
    }
    Ok(found)
}

/// Removes the journals of a folder that was copied from another machine: its runs may well live.
///
/// # Errors
/// When they can't be removed.
pub fn forget(folder: &Path) -> std::io::Result<()> {
    replay(folder)?.iter().try_for_each(Past::retire)
}

fn is_old(past: &Past, now: Time) -> bool {
    let touched = |it: &Path| std::fs::metadata(it).and_then(|it| it.modified()).ok();
    let last = past.files.iter().filter_map(|it| touched(it)).max();
    last.is_none_or(|it| KEEP < now - Time::from(it))
}

async fn conclude(
    ledger: &dyn Ledger,
    here: &Run,
    past: &Past,
    effect: &Effect,
    found: &mut Recovered,
) -> anyhow::Result<()> {
    let Some(asked) = Asked::last_of(effect) else {
        return Ok(());
    };
    let proof = proves(past, here, &asked);
    let now = ledger.now().await?;
    match proof {
        Proof::Answered(conclusion) => {
            found.answered += 1;
            ledger
                .conclude(effect.id, effect.sends, &conclusion)
                .await?;
        }
        Proof::NotSent => {
            found.not_sent += 1;
            let it = not_sent(effect, now);
            ledger.conclude(effect.id, effect.sends, &it).await?;
        }
        Proof::Sent => {
            found.sent += 1;
            let seen = format!(
                "send {}: it was about to leave host {} when its daemon died; its journal has no answer",
                effect.sends, here.host
            );
            ledger.witness(effect.id, &Evidence::new(now, seen)).await?;
        }
        Proof::Nothing => {}
    }
    Ok(())
}

fn not_sent(effect: &Effect, now: Time) -> Conclusion {
    // the sends before it are as unknown as they were
    let to = match effect.lost() {
        0 | 1 => EffectState::Refused,
        _ => EffectState::Unknown,
    };
    let why = "its daemon died before the first byte left, by the journal of the host";
    Conclusion {
        to,
        receipt: None,
        evidence: Evidence::refusal(now, effect.sends, why),
        look_in: None,
    }
}
