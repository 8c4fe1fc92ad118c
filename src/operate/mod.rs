//! What people do to jobs: cancel, revive, discard, let go on, resolve. Every door that a person
//! uses calls these; each change is guarded by the job's version, and audited.

pub mod stops;
pub mod askers;
pub mod outlook;
pub mod paces;
pub mod budgets;
pub mod why;
pub mod full;
pub mod facts;
pub mod place;
pub mod goes;
pub mod explain;
pub mod receipt;
pub mod deed;
pub mod tokens;
pub mod accounts;
pub mod persons;
pub mod logins;

use std::sync::Arc;

use serde::Serialize;

use crate::clock::{Time, stamp};
use crate::effect::{Effect, EffectState, Evidence, RESOLVED_BY, Receipt};
use crate::inbox::tenant_at;
use crate::intake::{Answer, Rules, accept, admit_envelope, admit_of, quarantined};
use crate::job::{Envelope, Job, JobId};
use crate::ledger::{
    Conclusion, Filter, Guard, Ledger, LedgerError, Quarantined, Reason, Settled, Settlement,
};
use crate::lifecycle::{Event, State, advance};
use crate::outcome::{Class, LATE};
use crate::retry::Policy;
use crate::sabotage;

pub use deed::{By, Refused};

/// The job of an id.
///
/// # Errors
/// When there is none.
pub async fn job(ledger: &dyn Ledger, id: JobId) -> Result<Job, Refused> {
    let found = ledger.job(id).await?;
    found.ok_or_else(|| {
        Refused::Missing(format!(
            "there is no job {id}; `presswork jobs list` shows those there are"
        ))
    })
}

/// A job that somebody else is changing is read again so often.
const TRIES: usize = 5;

/// Makes one event happen to a job; `audit` is what is written down about it, and by whom.
async fn happen(
    ledger: &dyn Ledger,
    id: JobId,
    event: &Event,
    audit: Option<(&str, &By)>,
    edit: Option<&Edited>,
) -> Result<State, Refused> {
    for _ in 0..TRIES {
        let job = job(ledger, id).await?;
        let now = ledger.now().await?;
        let mut facts = job.facts(Policy::default());
        if *event == Event::CancelAsked {
            let effects = ledger.effects(id).await?;
            facts.open = effects.iter().any(Effect::is_unfinished);
        }
        let transition = advance(&facts, event.clone(), now)
            .map_err(|e| Refused::Unfit(format!("job {id}: {e}")))?;
        let to = transition.to;
        let settlement = Settlement {
            id,
            guard: job.token.map_or(Guard::Version(job.version), Guard::Token),
            fingerprint: None,
            transition,
            attempt: None,
            result: None,
            edit: edit.cloned(),
            audit: audit.map(|(action, by)| by.audit(action, id, now)),
        };
        if ledger.settle(&[settlement]).await? == [Settled::Done] {
            return Ok(to);
        }
    }
    let why = discarded(ledger, id).await?;
    let why = why.unwrap_or_else(|| "is being changed by others; try again".to_owned());
    Err(Refused::Unfit(format!("job {id} {why}")))
}

/// Of a dead letter that was given up: it lies in the history, where nothing changes it any more.
async fn discarded(ledger: &dyn Ledger, id: JobId) -> Result<Option<String>, Refused> {
    let last = ledger.audit(Some(id), 1).await?.into_iter().next();
    let last = last.filter(|it| it.action == "discard");
    Ok(last.map(|it| {
        let at = stamp(it.at);
        let (actor, reason) = (it.actor, it.detail);
        format!("was given up by {actor} at {at} ({reason}); enqueue a new one")
    }))
}

/// Calls a job off: a waiting one at once, a running one is told to stop. Returns its state.
///
/// # Errors
/// When it has ended, or waits for a person's word on an effect.
pub async fn cancel(ledger: &dyn Ledger, id: JobId, by: &By) -> Result<State, Refused> {
    happen(ledger, id, &Event::CancelAsked, Some(("cancel", by)), None).await
}

/// Lets a held job go on, now or at another time. What is held since it is late is done however late it is;
/// put to another time, it is late from then on.
///
/// # Errors
/// When it isn't held, or its `not_after` is before that time.
pub async fn release(
    ledger: &dyn Ledger,
    id: JobId,
    at: Option<Time>,
    by: &By,
) -> Result<State, Refused> {
    let job = job(ledger, id).await?;
    if let (Some(at), Some(end)) = (at, job.not_after)
        && end < at
    {
        let end = stamp(end);
        return Err(Refused::Unfit(format!(
            "job {id}: its not_after is {end}, before that time; enqueue a new one"
        )));
    }
    let late = job.failure.is_some_and(|it| it.code == LATE);
    let event = match late || at.is_some() {
        true => Event::Admitted(at),
        false => Event::Mended,
    };
    happen(ledger, id, &event, Some(("release", by)), None).await
}

/// Gives a dead letter up for good.
///
/// # Errors
/// When it is no dead letter.
pub async fn discard(ledger: &dyn Ledger, id: JobId, by: &By) -> Result<State, Refused> {
    happen(ledger, id, &Event::Discarded, Some(("discard", by)), None).await
}

/// What a revive would do about one effect of the job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EffectOutlook {
    /// What is done: `mastodon.status`.
    pub op: String,
    /// For which account.
    pub account: String,
    /// `already live`, `under way, would be asked about`, `would send`, `blocked`.
    pub outlook: &'static str,
    /// Where it can be seen.
    pub url: Option<String>,
}

/// What a revive would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outlook {
    /// The dead letter.
    pub id: JobId,
    /// Which handler.
    pub kind: String,
    /// Its effects so far.
    pub effects: Vec<EffectOutlook>,
    /// Why it can't be revived now.
    pub blocked: Option<String>,
}

/// Says what reviving a dead letter would do. Changes nothing.
///
/// # Errors
/// When there is no such job.
pub async fn outlook(ledger: &dyn Ledger, id: JobId, edited: bool) -> Result<Outlook, Refused> {
    let job = job(ledger, id).await?;
    let effects = ledger.effects(id).await?;
    let mut blocked = match job.state {
        State::Dead => None,
        state => Some(format!("it is {state}: only dead letters are revived")),
    };
    if blocked.is_none() {
        blocked = discarded(ledger, id).await?.map(|it| format!("it {it}"));
    }
    let unknown = effects.iter().find(|it| it.is_open());
    let unknown = unknown.filter(|_| !sabotage!("revive.unknown"));
    if let (None, Some(effect)) = (&blocked, unknown) {
        blocked = Some(format!(
            "its {} may or may not have happened: `presswork unresolved resolve {id}` first",
            effect.op
        ));
    }
    if edited && blocked.is_none() && effects.iter().any(|it| it.state == EffectState::Confirmed) {
        blocked = Some("it has happened already: an edited payload would make it happen twice; enqueue a new job instead".to_owned());
    }
    let effects = effects.iter().map(effect_outlook).collect();
    Ok(Outlook {
        id,
        kind: job.kind,
        effects,
        blocked,
    })
}

fn effect_outlook(effect: &Effect) -> EffectOutlook {
    let outlook = match effect.state {
        EffectState::Confirmed if effect.handle.is_some() => "under way, would be asked about",
        EffectState::Confirmed => "already live",
        EffectState::Intended | EffectState::Refused => "would send",
        EffectState::Sending | EffectState::Unknown | EffectState::Unresolved => "blocked",
    };
    let url = effect.receipt.as_ref().and_then(|it| it.url.clone());
    EffectOutlook {
        op: effect.op.clone(),
        account: effect.account.clone(),
        outlook,
        url,
    }
}

/// A payload's new bytes, checked.
pub type Edited = Arc<str>;

/// Checks an edited payload against the job's kind.
///
/// # Errors
/// Every violation at once.
pub fn edit(rules: &Rules, job: &Job, payload: &str) -> Result<Edited, Refused> {
    let envelope = Envelope {
        kind: job.kind.clone(),
        payload: payload.to_owned(),
        account: job.account.clone(),
        lane: Some(job.lane.clone()),
        key: job.key.clone(),
        ..Envelope::default()
    };
    match admit_envelope(rules, job.id, &envelope) {
        Ok(new) => Ok(new.payload),
        Err(refusal) => Err(Refused::Invalid(refusal.violations)),
    }
}

/// Brings a dead letter back, with another payload if `edited` is given.
///
/// # Errors
/// When it is no dead letter, or an effect of it may or may not have happened.
pub async fn revive(
    ledger: &dyn Ledger,
    id: JobId,
    edited: Option<&Edited>,
    by: &By,
) -> Result<State, Refused> {
    let outlook = outlook(ledger, id, edited.is_some()).await?;
    match outlook.blocked {
        Some(why) => Err(Refused::Unfit(format!("job {id}: {why}"))),
        None => happen(ledger, id, &Event::Revived, Some(("revive", by)), edited).await,
    }
}

/// The dead letters that a filter lets through.
///
/// # Errors
/// When the ledger is away.
pub async fn dead(ledger: &dyn Ledger, filter: &Filter) -> Result<Vec<Job>, Refused> {
    let filter = Filter {
        states: vec![State::Dead],
        ..filter.clone()
    };
    Ok(ledger.jobs(&filter).await?)
}

/// A person's word on what happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is there.
    Happened {
        /// Where it can be seen.
        url: Option<String>,
    },
    /// It isn't: it may be sent.
    DidNotHappen,
}

/// Says what happened to the open effects of an unresolved job (or of a dead letter), and lets an
/// unresolved one go on from there.
///
/// # Errors
/// When the job has no open effect, or is running.
pub async fn resolve(
    ledger: &dyn Ledger,
    id: JobId,
    verdict: &Verdict,
    by: &By,
) -> Result<State, Refused> {
    let job = job(ledger, id).await?;
    if job.state == State::Running {
        return Err(Refused::Unfit(format!(
            "job {id} is running: it may still find out by itself"
        )));
    }
    let effects = ledger.effects(id).await?;
    let open: Vec<&Effect> = effects.iter().filter(|it| it.is_open()).collect();
    // a resolve that was cut off after its effects were concluded: the job itself is left to do
    if open.is_empty() && job.state == State::Unresolved {
        return happen(ledger, id, &Event::Resolved, Some(("resolve", by)), None).await;
    }
    if open.is_empty() {
        return Err(Refused::Unfit(format!(
            "job {id} has no effect whose outcome is unknown; `presswork jobs show {id}` shows them"
        )));
    }
    let now = ledger.now().await?;
    for effect in open {
        let conclusion = verdict_on(verdict, by, now);
        let audit = by.audit("resolve", id, now);
        if !ledger
            .decide(
                effect.id,
                (effect.state, effect.sends),
                &conclusion,
                Some(&audit),
            )
            .await?
        {
            return Err(Refused::Unfit(format!(
                "effect {} was concluded meanwhile; look again",
                effect.id
            )));
        }
    }
    match job.state {
        // the audit has it already, effect by effect
        State::Unresolved => happen(ledger, id, &Event::Resolved, None, None).await,
        state => Ok(state),
    }
}

/// A look told what became of an effect: the job that waits for that goes on at once.
///
/// # Errors
/// When it waits for something else.
pub async fn looked(ledger: &dyn Ledger, id: JobId) -> Result<State, Refused> {
    let job = job(ledger, id).await?;
    match job.failure.map(|it| it.class) {
        Some(Class::Unknown) => happen(ledger, id, &Event::Looked, None, None).await,
        _ => Err(Refused::Unfit(format!("job {id} waits for no look"))),
    }
}

/// What a platform's call-back led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// The job that waits for it goes on at once.
    Woken(JobId),
    /// Its job is asking the platform right now, and may have asked too early.
    Asking(JobId),
    /// No job waits for it (any more, or yet: the platform may call before its own answer is here).
    Nobody,
}

/// A platform called about the work that it does for an account under `handle`: the job that waits for
/// it asks at once. What the platform says of the work itself isn't believed.
///
/// # Errors
/// When the ledger is away.
pub async fn called(
    ledger: &dyn Ledger,
    account: &str,
    handle: &str,
) -> Result<Called, LedgerError> {
    let Some(id) = ledger.job_of_handle(account, handle).await? else {
        return Ok(Called::Nobody);
    };
    let state = ledger.job(id).await?.map(|it| it.state);
    match state {
        Some(State::Running) => return Ok(Called::Asking(id)),
        Some(State::Scheduled | State::Retrying) => {}
        // one that is ready will ask by itself
        Some(State::Ready) => return Ok(Called::Woken(id)),
        _ => return Ok(Called::Nobody),
    }
    match happen(ledger, id, &Event::Looked, None, None).await {
        Ok(_) => Ok(Called::Woken(id)),
        Err(Refused::Ledger(e)) => Err(e),
        // it was claimed between the two looks
        Err(_) => Ok(Called::Asking(id)),
    }
}

/// A send journal told what became of an effect that the ledger had lost: the job that waits for that,
/// or for a person's word, goes on.
///
/// # Errors
/// When it waits for something else.
pub async fn told(ledger: &dyn Ledger, id: JobId) -> Result<State, Refused> {
    match job(ledger, id).await?.state {
        // what still isn't known is asked again
        State::Unresolved => happen(ledger, id, &Event::Resolved, None, None).await,
        _ => looked(ledger, id).await,
    }
}

fn verdict_on(verdict: &Verdict, by: &By, now: Time) -> Conclusion {
    let (to, receipt, seen) = match verdict {
        Verdict::Happened { url } => {
            let detail = serde_json::json!({RESOLVED_BY: by.actor});
            let receipt = Receipt {
                remote_id: None,
                url: url.clone(),
                at: now,
                detail,
            };
            let at = url
                .as_deref()
                .map_or(String::new(), |it| format!(" ({it})"));
            (
                EffectState::Confirmed,
                Some(receipt),
                format!("{} says: it happened{at}", by.actor),
            )
        }
        Verdict::DidNotHappen => (
            EffectState::Refused,
            None,
            format!("{} says: it did not happen", by.actor),
        ),
    };
    let seen = if by.reason.is_empty() {
        seen
    } else {
        format!("{seen}: {}", by.reason)
    };
    Conclusion {
        to,
        receipt,
        evidence: Evidence::new(now, seen),
        look_in: None,
    }
}

/// Tries to accept an entry of the quarantine again, as it is or with other bytes; it leaves the
/// quarantine when it is accepted. Returns the job's id.
///
/// # Errors
/// When there is no such entry, or it still can't be accepted.
pub async fn release_quarantined(
    ledger: &dyn Ledger,
    rules: &Rules,
    id: JobId,
    bytes: Option<&[u8]>,
    by: &By,
) -> Result<JobId, Refused> {
    let missing = || {
        Refused::Missing(format!(
            "there is no entry {id} in quarantine; `presswork quarantine list` shows them"
        ))
    };
    let entry = ledger.quarantined_one(id).await?.ok_or_else(missing)?;
    let bytes = bytes.unwrap_or(&entry.bytes);
    let answer = take_again(ledger, rules, &entry, bytes, by).await?;
    if let Answer::Refused(it) = answer {
        return Err(Refused::Invalid(it.violations));
    }
    match (
        quarantined(&entry.door, id, entry.at, bytes, &answer),
        answer.id(),
    ) {
        (None, Some(job)) => Ok(job),
        (still, _) => Err(Refused::Unfit(
            still.map_or_else(String::new, |it| it.message),
        )),
    }
}

/// Tries to accept an entry; it leaves the quarantine when it is accepted. The same entry may be tried
/// by several at once: without a key of its own its id is its key, as at its door.
async fn take_again(
    ledger: &dyn Ledger,
    rules: &Rules,
    entry: &Quarantined,
    bytes: &[u8],
    by: &By,
) -> Result<Answer, LedgerError> {
    let mut job = match admit_of(rules, entry.id, bytes, tenant_at(&entry.door)) {
        Ok(job) => job,
        Err(refusal) => return Ok(Answer::Refused(refusal)),
    };
    job.key
        .get_or_insert_with(|| format!("{}:{}", entry.door, entry.id));
    let answers = accept(ledger, &[job]).await?;
    let answer = answers.into_iter().next();
    let answer = answer.ok_or_else(|| LedgerError::Other("it gave no answer".to_owned()))?;
    if let Answer::New { id, .. } | Answer::Same { id, .. } = answer {
        let audit = by.audit("release", id, ledger.now().await?);
        ledger.unquarantine(entry.id, &audit).await?;
    }
    Ok(answer)
}

/// What became of entries of the quarantine whose kind is known by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// They were accepted.
    pub accepted: usize,
    /// They can't be accepted for another reason, which they bear now: they aren't tried again.
    pub refused: usize,
}

/// Tries to accept entries of the quarantine whose kind was unknown and is known by these rules, at
/// most `most`. Harmless when several daemons do it at once, and when it is left amid it.
///
/// # Errors
/// When the ledger is away: the next call goes on.
pub async fn release_known(
    ledger: &dyn Ledger,
    rules: &Rules,
    most: u32,
    by: &By,
) -> Result<Known, LedgerError> {
    let kinds: Vec<String> = rules.kinds.iter().map(|it| it.name().to_owned()).collect();
    let mut known = Known::default();
    for id in ledger.quarantined_kinds(&kinds, most).await? {
        let Some(entry) = ledger.quarantined_one(id).await? else {
            continue; // somebody else was faster
        };
        let answer = match take_again(ledger, rules, &entry, &entry.bytes, by).await {
            Ok(answer) => answer,
            Err(e) if e.is_away() => return Err(e),
            Err(e) => {
                // one that the ledger fails at mustn't keep the others
                tracing::warn!(entry = %id, "quarantine: {e}");
                continue;
            }
        };
        match quarantined(&entry.door, id, entry.at, &entry.bytes, &answer) {
            None => known.accepted += 1,
            Some(still) if ledger.requarantine(Reason::UnknownKind, &still).await? => {
                known.refused += 1;
            }
            Some(_) => {}
        }
    }
    Ok(known)
}

/// Throws an entry of the quarantine away.
///
/// # Errors
/// When there is no such entry.
pub async fn discard_quarantined(ledger: &dyn Ledger, id: JobId, by: &By) -> Result<(), Refused> {
    let now = ledger.now().await?;
    if ledger
        .unquarantine(id, &by.audit("discard", id, now))
        .await?
    {
        return Ok(());
    }
    Err(Refused::Missing(format!(
        "there is no entry {id} in quarantine; `presswork quarantine list` shows them"
    )))
}
