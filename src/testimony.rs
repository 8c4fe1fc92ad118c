//! What a send journal tells a ledger whose server was replaced by a standby that lacked the newest
//! commits: all sends and answers, so that nothing is sent that was sent already.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use uuid::Uuid;

use crate::clock::Time;
use crate::effect::{EffectId, EffectState, Evidence};
use crate::journal::{PERMIT_LAG, Past, Seen, replay};
use crate::ledger::{History, Ledger, Mended, Result, Run, Told};
use crate::telemetry::metrics;

/// Sends that are told at once.
const BATCH: usize = 500;

/// Tells the ledger all that is in a run's journal; what that changed.
///
/// # Errors
/// When the ledger is away, or another server of it answers: told again it changes nothing twice.
pub async fn testify(ledger: &dyn Ledger, timeline: &str, past: &Past) -> Result<Mended> {
    let mut all = Mended::default();
    for round in rounds(past) {
        for told in round.chunks(BATCH) {
            let mended = ledger.testify(timeline, past.run, told).await?;
            metrics::testified((mended.forward + mended.kept) as u64);
            all.forward += mended.forward;
            all.kept += mended.kept;
            all.jobs.extend(mended.jobs);
        }
    }
    Ok(all)
}

/// What a journal tells: in the first round of each effect its first send, and so on.
fn rounds(past: &Past) -> Vec<Vec<Told>> {
    let mut rounds: Vec<Vec<Told>> = Vec::new();
    let mut before: BTreeMap<Uuid, usize> = BTreeMap::new();
    for (id, seen) in &past.sends {
        let nth = before.entry(id.effect.0).or_default();
        if rounds.len() == *nth {
            rounds.push(Vec::new());
        }
        let host = past.host.as_deref().unwrap_or("unknown");
        if let Some(told) = told(id.effect, id.send, seen, host) {
            rounds[*nth].push(told);
        }
        *nth += 1;
    }
    rounds
}

/// Nothing, of a send whose time is lost with its record and that has no answer either.
fn told(effect: EffectId, send: u32, seen: &Seen, host: &str) -> Option<Told> {
    let answer = seen.answer.as_ref();
    let at = seen.sent_at.or(answer.map(|it| it.evidence.at))?;
    let (state, receipt, evidence) = match answer {
        Some(it) if it.to != EffectState::Intended => {
            (it.to, it.receipt.clone(), it.evidence.clone())
        }
        _ => {
            let seen = format!(
                "send {send}: the send journal of host {host} tells of it, and the ledger had lost it; no answer is known"
            );
            (EffectState::Sending, None, Evidence::new(at, seen))
        }
    };
    Some(Told {
        effect,
        send,
        at,
        // what a person has to decide was decided by what is lost: it is to be decided again
        state: match state {
            EffectState::Unresolved | EffectState::Intended => EffectState::Unknown,
            it => it,
        },
        receipt,
        evidence,
    })
}

/// Whether a journal holds all that the run sent and the ledger may have lost, which knows all that was
/// written before `known_until`. What isn't kept (it is dropped after a while, and the end of a file that
/// wasn't synced is lost with the host's power) may have been sent, too.
pub fn is_whole(past: &Past, here: &Run, known_until: Time) -> bool {
    let is_kept = past
        .dropped_until
        .is_none_or(|it| it + PERMIT_LAG < known_until);
    past.complete && is_kept && (past.run == here.id || past.has_its_tail(here))
}

/// A daemon that starts tells what the dead runs of this host sent, as far as their journals in `folder`
/// say, which are theirs: the lock of the state folder is ours. What that changed.
///
/// # Errors
/// When the folder can't be read, or the ledger is away.
pub async fn of_the_dead(
    ledger: &dyn Ledger,
    here: &Run,
    history: &History,
    folder: &Path,
) -> anyhow::Result<Mended> {
    let mut all = Mended::default();
    let Some(fork) = &history.fork else {
        return Ok(all);
    };
    let told = || format!("can't read the send journals in {}", folder.display());
    for past in replay(folder).with_context(told)? {
        if history.heard.contains(&past.run) {
            continue;
        }
        let mended = testify(ledger, &history.current, &past).await?;
        if is_whole(&past, here, fork.known_until) {
            ledger.heard(&history.current, past.run, None).await?;
        } else {
            tracing::warn!(run = %past.run, "the send journal of a dead run of this host doesn't hold all that it sent: what it may have sent is doubted");
        }
        all.forward += mended.forward;
        all.kept += mended.kept;
        all.jobs.extend(mended.jobs);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::record::SendId;
    use crate::ledger::Conclusion;
    use chrono::{TimeDelta, TimeZone as _, Utc};

    fn at(second: i64) -> Time {
        Utc.timestamp_opt(1_000_000 + second, 0).unwrap()
    }

    fn past(sends: &[(u128, u32, Option<EffectState>)]) -> Past {
        let seen = |to: &Option<EffectState>| Seen {
            sent_at: Some(at(0)),
            answer: to.map(|to| Conclusion {
                to,
                receipt: None,
                evidence: Evidence::new(at(1), "send 1: heard".to_owned()),
                look_in: None,
            }),
            concluded: true,
        };
        let id = |effect: &u128, send: &u32| SendId {
            effect: EffectId(Uuid::from_u128(*effect)),
            send: *send,
        };
        Past {
            run: Uuid::from_u128(7),
            host: Some("here".to_owned()),
            boot: Some("boot".to_owned()),
            fsync: false,
            complete: true,
            ended: false,
            dropped_until: None,
            sends: sends
                .iter()
                .map(|(effect, send, to)| (id(effect, send), seen(to)))
                .collect(),
            damage: vec![],
            files: vec![],
        }
    }

    #[test]
    fn each_effect_is_told_of_once_a_round_and_in_order() {
        use EffectState::{Confirmed, Sending, Unknown};
        let all = past(&[
            (1, 1, Some(Unknown)),
            (1, 2, Some(Confirmed)),
            (2, 1, None),
            (3, 4, Some(EffectState::Unresolved)),
        ]);
        let told: Vec<Vec<(u128, u32, EffectState)>> = rounds(&all)
            .iter()
            .map(|round| {
                let one = |it: &Told| (it.effect.0.as_u128(), it.send, it.state);
                round.iter().map(one).collect()
            })
            .collect();
        let first = vec![(1, 1, Unknown), (2, 1, Sending), (3, 4, Unknown)];
        assert_eq!(told, [first, vec![(1, 2, Confirmed)]]);
    }

    #[test]
    fn a_journal_that_may_lack_something_is_not_whole() {
        let here = |id: u128, boot: &str| Run {
            id: Uuid::from_u128(id),
            host: "here".to_owned(),
            boot: Some(boot.to_owned()),
            pid: 1,
            version: String::new(),
            began_at: at(0),
        };
        let (same, later) = (here(9, "boot"), here(9, "another"));
        let whole = past(&[]);
        assert!(is_whole(&whole, &same, at(0)));
        // the host lost its power, and with it what wasn't on the disk
        assert!(!is_whole(&whole, &later, at(0)));
        let synced = Past {
            fsync: true,
            ..whole.clone()
        };
        assert!(is_whole(&synced, &later, at(0)));
        let damaged = Past {
            complete: false,
            ..whole.clone()
        };
        assert!(!is_whole(&damaged, &same, at(0)));
        // its own, while it lives
        assert!(is_whole(&whole, &here(7, "another"), at(0)));
        let short = Past {
            dropped_until: Some(at(0)),
            ..whole
        };
        let known = at(0) + PERMIT_LAG;
        assert!(!is_whole(&short, &same, known));
        assert!(is_whole(&short, &same, known + TimeDelta::seconds(1)));
    }
}
