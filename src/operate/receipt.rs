//! Receipts: what a job did to the outside world, from where, and the proof.

use serde::Serialize;

use crate::clock::Time;
use crate::effect::{Effect, EffectClass, EffectId, EffectState, Evidence, RESOLVED_BY};
use crate::job::{Job, JobId};
use crate::json::Digest;
use crate::ledger::{Attempt, Ledger, LedgerError, Run};
use crate::lifecycle::State;

/// What a job did to the outside world.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Receipt {
    /// The job.
    pub job: JobId,
    /// Which handler.
    pub kind: String,
    /// Where the job stands.
    pub state: State,
    /// The SHA-256 of its payload in canonical form, hexadecimal: what was asked.
    pub payload: String,
    /// Its effects, in the order they were written down.
    pub effects: Vec<Sent>,
}

/// One effect, and the proof.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sent {
    /// Its id, which platforms that dedupe were given as a key.
    pub id: EffectId,
    /// The named part of the job.
    pub step: String,
    /// What was done: `mastodon.status`.
    pub op: String,
    /// For which account.
    pub account: String,
    /// How the truth can be learnt.
    pub class: EffectClass,
    /// Where it stands.
    pub state: EffectState,
    /// The digest of what was sent (text, media digests, target, options), hexadecimal.
    pub intent: String,
    /// How often it was permitted to be sent.
    pub sends: u32,
    /// When it was first permitted.
    pub first_sent_at: Option<Time>,
    /// When it was last permitted.
    pub last_sent_at: Option<Time>,
    /// The host that held the last permit, where that is known.
    pub host: Option<String>,
    /// The number of the attempt that held it.
    pub attempt: Option<u32>,
    /// The platform's id of what was made.
    pub remote_id: Option<String>,
    /// Under which id the platform goes on working; absent once it is known what became of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under_way: Option<String>,
    /// Where it can be seen.
    pub url: Option<String>,
    /// When that was learnt.
    pub confirmed_at: Option<Time>,
    /// The person on whose word it rests, where one had to say.
    pub resolved_by: Option<String>,
    /// What was seen, newest last: answers, lost answers, look-ups, a person's word.
    pub evidence: Vec<Evidence>,
}

/// The receipt of a job.
///
/// # Errors
/// When the ledger is away.
pub async fn receipt(ledger: &dyn Ledger, job: &Job) -> Result<Receipt, LedgerError> {
    let attempts = ledger.attempts(job.id).await?;
    let runs = ledger.live_runs().await?;
    let effects = ledger.effects(job.id).await?;
    let digest =
        Digest::of_json(&job.payload).unwrap_or_else(|_| Digest::of_bytes(job.payload.as_bytes()));
    Ok(Receipt {
        job: job.id,
        kind: job.kind.clone(),
        state: job.state,
        payload: digest.hex(),
        effects: effects
            .into_iter()
            .map(|it| sent(it, &attempts, &runs))
            .collect(),
    })
}

fn sent(effect: Effect, attempts: &[Attempt], runs: &[Run]) -> Sent {
    let host = host(&effect, attempts, runs);
    let attempt = during(&effect, attempts).map(|it| it.number);
    let proof = effect.receipt;
    let word = |it: &crate::effect::Receipt| it.detail[RESOLVED_BY].as_str().map(str::to_owned);
    Sent {
        id: effect.id,
        step: effect.step,
        op: effect.op,
        account: effect.account,
        class: effect.class,
        state: effect.state,
        intent: effect.intent,
        sends: effect.sends,
        first_sent_at: effect.first_sent_at,
        last_sent_at: effect.permit_at,
        host,
        attempt,
        resolved_by: proof.as_ref().and_then(word),
        confirmed_at: proof.as_ref().map(|it| it.at),
        url: proof.as_ref().and_then(|it| it.url.clone()),
        remote_id: proof.and_then(|it| it.remote_id),
        under_way: effect.handle,
        evidence: effect.evidence,
    }
}

/// The attempt during which an effect's last permit was given, once that attempt has ended.
fn during<'a>(effect: &Effect, attempts: &'a [Attempt]) -> Option<&'a Attempt> {
    let at = effect.permit_at?;
    let mut latest = attempts.iter().rev();
    latest.find(|it| it.began_at <= at && at <= it.ended_at)
}

/// The host that held an effect's last permit: its attempt names it, or its run while that lives.
pub fn host(effect: &Effect, attempts: &[Attempt], runs: &[Run]) -> Option<String> {
    let run = || runs.iter().find(|it| Some(it.id) == effect.permit_run);
    during(effect, attempts)
        .map(|it| it.host.clone())
        .or_else(|| run().map(|it| it.host.clone()))
}
