//! The one way in: check an envelope, apply defaults, write it down under its key.
//!
//! [`admit`] decides without asking anybody, [`accept`] writes a batch and finds the culprit when
//! the ledger refuses one. Every door gives the same answer to the same bytes.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

use crate::clock::Time;
use crate::config::{Account, Config};
use crate::content::Said;
use crate::handler::Kind;
use crate::job::envelope::ENVELOPE_MAX;
use crate::job::{DEFAULT_TENANT, Envelope, JobId, NewJob, Priority};
use crate::json::{Digest, Violation, did_you_mean, differences};
use crate::ledger::{Acceptance, Ledger, LedgerError, Quarantined, Reason};
use crate::telemetry::redact;
use crate::token::{Asked, Grant};

/// Why an envelope isn't accepted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refusal {
    /// In one word.
    pub reason: Reason,
    /// What is wrong, where, and what to write instead: all of it, or the first fifty.
    pub violations: Vec<Violation>,
    /// The envelope's kind, where it could be read.
    #[serde(skip)]
    pub kind: Option<String>,
}

/// The most violations that a refusal tells; the last of them says how many more there are.
const TOLD_MAX: usize = 50;
/// The longest pointer, and the longest message, of a violation, in bytes: what they quote may be as
/// long as the envelope, and they are answered, logged and kept.
const QUOTED_MAX: usize = 500;

impl Refusal {
    /// A refusal of an envelope of this kind: of more than fifty violations the last says how many more
    /// there are.
    pub fn new(reason: Reason, kind: Option<&str>, mut violations: Vec<Violation>) -> Self {
        let more = violations.len().saturating_sub(TOLD_MAX);
        if 0 < more {
            violations.truncate(TOLD_MAX - 1);
            let message = format!("{} more things are wrong with it", more + 1);
            violations.push(Violation::new("", message));
        }
        for it in &mut violations {
            shown(&mut it.pointer);
            shown(&mut it.message);
        }
        Self {
            reason,
            violations,
            kind: kind.map(str::to_owned),
        }
    }

    /// All of it in one text, a line each.
    pub fn message(&self) -> String {
        let lines: Vec<String> = self.violations.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }
}

/// What is quoted may be long, and may be a secret where none belongs.
fn shown(text: &mut String) {
    if QUOTED_MAX < text.len() {
        text.truncate(text.floor_char_boundary(QUOTED_MAX));
        text.push('…');
    }
    if let Cow::Owned(hidden) = redact::text(text) {
        *text = hidden;
    }
}

/// The answer to an envelope.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A new job.
    New {
        /// Its id.
        id: JobId,
        /// Where it waits.
        lane: String,
        /// It may be dispatched now.
        due: bool,
        /// The last job that said the same for the same account shortly before.
        repeats: Option<JobId>,
    },
    /// The same again.
    Same {
        /// The job that is there.
        id: JobId,
        /// Options that were asked otherwise this time; nothing was changed.
        differs: Vec<String>,
    },
    /// The key is taken by another payload.
    Conflict {
        /// The job that has the key.
        id: JobId,
        /// Where the payloads differ, as JSON pointers; empty when the other's is gone.
        differs: Vec<String>,
    },
    /// Its account said the same shortly before, and its guard refuses that.
    Repeats {
        /// The job that said it, or is about to.
        id: JobId,
    },
    /// It can't be accepted as it is.
    Refused(Refusal),
}

impl Answer {
    /// The job's id, where there is one.
    pub fn id(&self) -> Option<JobId> {
        match self {
            Self::New { id, .. } | Self::Same { id, .. } | Self::Conflict { id, .. } => Some(*id),
            Self::Repeats { .. } | Self::Refused(_) => None,
        }
    }

    /// Why it wasn't taken: in one word, and in a text for people (all that is wrong, a line each), the
    /// same at every door. `None`: it was taken.
    pub fn refusal(&self) -> Option<(Reason, String)> {
        match self {
            Self::New { .. } | Self::Same { .. } => None,
            Self::Conflict { id, differs } => {
                let differs = match differs.is_empty() {
                    true => String::new(),
                    false => format!(" (differs at: {})", differs.join(", ")),
                };
                let told = format!("its key is taken by job {id} with another payload{differs}");
                Some((Reason::Conflict, told))
            }
            Self::Repeats { id } => Some((Reason::Repeats, repeats(&format!("job {id}")))),
            Self::Refused(it) => Some((it.reason, it.message())),
        }
    }
}

/// Why an account's guard refuses a job that says the same as another, and what helps.
pub fn repeats(other: &str) -> String {
    format!(
        "its account says the same in {other}, and `same_content` of the account refuses that (`again` is for where it is meant)"
    )
}

/// What intake decides by.
#[derive(Clone)]
pub struct Rules {
    /// The configuration.
    pub config: Arc<Config>,
    /// The kinds that this program knows.
    pub kinds: Arc<[Kind]>,
}

/// Reads and checks an envelope and makes the job of it, with its defaults. Pure.
///
/// # Errors
/// Every violation at once.
pub fn admit(rules: &Rules, id: JobId, bytes: &[u8]) -> Result<NewJob, Refusal> {
    admit_of(rules, id, bytes, None)
}

/// What alone is taken where an envelope came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Within<'a> {
    /// Only jobs of this tenant, and those that name none become its own.
    pub tenant: Option<&'a str>,
    /// Only jobs of kinds that its token may make.
    pub grant: Option<&'a Grant>,
}

/// As [`admit`]; `tenant`: it came where only jobs of that one are taken.
///
/// # Errors
/// As [`admit`], and when it says that it is another one's.
pub fn admit_of(
    rules: &Rules,
    id: JobId,
    bytes: &[u8],
    tenant: Option<&str>,
) -> Result<NewJob, Refusal> {
    let grant = None;
    admit_within(rules, id, bytes, Within { tenant, grant })
}

/// As [`admit`], where only some jobs are taken.
///
/// # Errors
/// As [`admit`], and when it is no such job.
pub fn admit_within(
    rules: &Rules,
    id: JobId,
    bytes: &[u8],
    within: Within<'_>,
) -> Result<NewJob, Refusal> {
    let too_large = ENVELOPE_MAX < bytes.len();
    let mut envelope = Envelope::parse(bytes).map_err(|violations| {
        let reason = if too_large {
            Reason::TooLarge
        } else {
            Reason::Malformed
        };
        Refusal::new(reason, None, violations)
    })?;
    let kind = envelope.kind.as_str();
    let may = |it: &Grant| it.may(Asked::Enqueue(kind));
    if !within.grant.is_none_or(may) {
        let message = format!(
            "`{kind}` may not be made with this token; one with the scope enqueue:{kind} may"
        );
        let violation = Violation::new("/kind", message);
        return Err(Refusal::new(Reason::Forbidden, Some(kind), vec![violation]));
    }
    let Some(tenant) = within.tenant else {
        return admit_envelope(rules, id, &envelope);
    };
    let said = envelope.tenant.replace(tenant.to_owned());
    let foreign = said.filter(|it| it != tenant).map(|it| {
        let message =
            format!("is `{it}`, and here only jobs of `{tenant}` are taken; leave it out");
        Violation::new("/tenant", message)
    });
    let admitted = admit_envelope(rules, id, &envelope);
    match (admitted, foreign) {
        (admitted, None) => admitted,
        (Ok(job), Some(it)) => Err(Refusal::new(Reason::Invalid, Some(&job.kind), vec![it])),
        (Err(mut refusal), Some(it)) => {
            refusal.violations.insert(0, it);
            Err(refusal)
        }
    }
}

/// The kind of a name.
///
/// # Errors
/// When these rules know none of it.
pub fn known<'a>(rules: &'a Rules, name: &str) -> Result<&'a Kind, Refusal> {
    let found = rules.kinds.iter().find(|it| it.name() == name);
    found.ok_or_else(|| {
        let near = did_you_mean(name, rules.kinds.iter().map(Kind::name));
        let message = format!("`{name}` is no kind that this daemon knows{near} (presswork kinds)");
        let violations = vec![Violation::new("/kind", message)];
        Refusal::new(Reason::UnknownKind, Some(name), violations)
    })
}

/// Checks an envelope that was read already.
///
/// # Errors
/// Every violation at once.
pub fn admit_envelope(rules: &Rules, id: JobId, envelope: &Envelope) -> Result<NewJob, Refusal> {
    let config = &rules.config;
    let named = Some(envelope.kind.as_str());
    let kind = known(rules, &envelope.kind)?;
    let settings = kind.settings(config);
    let mut violations = Vec::new();
    let lane = kind.lane(envelope, config);
    if !config.lanes.contains_key(&lane) {
        let near = did_you_mean(&lane, config.lanes.keys().map(String::as_str));
        violations.push(Violation::new(
            "/lane",
            format!("`{lane}` is no lane of jobs.toml{near}"),
        ));
    }
    if config.require_key && envelope.key.is_none() {
        let message = "is missing, and this daemon requires one: without it a repeated send makes a second job";
        violations.push(Violation::new("/key", message));
    }
    violations.extend(account(config, kind, envelope));
    let in_payload = |it: Violation| Violation::new(format!("/payload{}", it.pointer), it.message);
    violations.extend(kind.check(envelope, config).into_iter().map(in_payload));
    let digest = Digest::of_json(&envelope.payload).map_err(|it| {
        Refusal::new(
            Reason::Malformed,
            named,
            vec![Violation::new(
                format!("/payload{}", it.pointer),
                it.message,
            )],
        )
    })?;
    if !violations.is_empty() {
        return Err(Refusal::new(Reason::Invalid, named, violations));
    }
    Ok(NewJob {
        said: said(config, kind, envelope),
        id,
        kind: envelope.kind.clone(),
        lane,
        tenant: envelope
            .tenant
            .clone()
            .unwrap_or_else(|| DEFAULT_TENANT.to_owned()),
        account: envelope.account.clone(),
        priority: envelope.priority.unwrap_or(Priority::Normal),
        key: envelope.key.clone(),
        payload: envelope.payload.as_str().into(),
        digest,
        run_at: envelope.run_at,
        not_after: envelope.not_after,
        late: envelope.late,
        late_after_s: envelope.late_after_s,
        attempts_max: envelope.attempts_max.unwrap_or(settings.retry.attempts_max),
        timeout_s: envelope.timeout_s.unwrap_or(settings.timeout_s),
        age_max_s: settings.age_max_s,
        labels: envelope.labels.clone(),
        traceparent: envelope.traceparent.clone(),
        reply_to: envelope.reply_to.clone(),
        options: envelope.options(),
    })
}

/// What it is going to say, where its account's guard looks.
fn said(config: &Config, kind: &Kind, envelope: &Envelope) -> Option<Said> {
    let account = config.accounts.get(envelope.account.as_deref()?)?;
    account.guard.looks_back_s()?;
    Some(Said {
        digest: kind.says(&envelope.payload)?,
        guard: account.guard,
        again: envelope.again,
    })
}

fn account(config: &Config, kind: &Kind, envelope: &Envelope) -> Option<Violation> {
    let platforms = kind.defaults.platforms;
    if platforms.is_empty() {
        return None;
    }
    let tenant = envelope.tenant.as_deref().unwrap_or(DEFAULT_TENANT);
    let fits = |it: &Account| platforms.contains(&it.platform.as_str());
    // another tenant's account is told like one that isn't there
    let of_name = |name| config.accounts.get(name).filter(|it| it.is_for(tenant));
    let platform = platforms.join(" or ");
    let fitting = || {
        config
            .accounts
            .iter()
            .filter(|(_, it)| fits(it) && it.is_for(tenant))
            .map(|(name, _)| name.as_str())
    };
    let message = match envelope.account.as_deref() {
        None => format!(
            "is missing: {} acts for an account of {platform}",
            kind.name()
        ),
        Some(name) => match of_name(name) {
            Some(it) if fits(it) => return None,
            Some(it) => format!(
                "`{name}` is an account of {}, not of {platform}",
                it.platform
            ),
            None => format!(
                "`{name}` is no account that is there for it{}",
                did_you_mean(name, fitting())
            ),
        },
    };
    let known: Vec<&str> = fitting().collect();
    let known = if known.is_empty() {
        "none is configured".to_owned()
    } else {
        format!("configured: {}", known.join(", "))
    };
    Some(Violation::new("/account", format!("{message} ({known})")))
}

/// Writes a batch down. One answer each, in order. A row that the ledger refuses is found by
/// halving, so that it never blocks the others.
///
/// # Errors
/// When the ledger is away: then nothing of what is still unanswered was written, or it was and the
/// same call again says `Same`.
pub async fn accept(ledger: &dyn Ledger, jobs: &[NewJob]) -> Result<Vec<Answer>, LedgerError> {
    let mut answers = Vec::with_capacity(jobs.len());
    let mut todo = vec![jobs];
    while let Some(part) = todo.pop() {
        match ledger.accept(part).await {
            Ok(found) => {
                for (job, acceptance) in part.iter().zip(found) {
                    answers.push(answer(ledger, job, acceptance).await?);
                }
            }
            Err(LedgerError::Row(message)) if part.len() == 1 => {
                let violations = vec![Violation::new("", message)];
                answers.push(Answer::Refused(Refusal::new(
                    Reason::Refused,
                    Some(&part[0].kind),
                    violations,
                )));
            }
            Err(LedgerError::Row(_)) => {
                let (left, right) = part.split_at(part.len() / 2);
                todo.push(right);
                todo.push(left);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(answers)
}

/// The most differences that a conflict names.
const DIFFERS_MAX: usize = 16;

/// What the ledger's word on a job is as an answer.
///
/// # Errors
/// When the ledger is away: it is asked for a conflict's other payload.
pub async fn answer(
    ledger: &dyn Ledger,
    job: &NewJob,
    acceptance: Acceptance,
) -> Result<Answer, LedgerError> {
    Ok(match acceptance {
        Acceptance::New { id, due, repeats } => Answer::New {
            id,
            lane: job.lane.clone(),
            due,
            repeats,
        },
        Acceptance::Repeats { id } => Answer::Repeats { id },
        Acceptance::Same { id, options } => Answer::Same {
            id,
            differs: differs(&options, &job.options),
        },
        Acceptance::Conflict { id } => {
            let other = ledger.job(id).await?;
            let differs = other.map_or_else(Vec::new, |it| differs(&it.payload, &job.payload));
            Answer::Conflict { id, differs }
        }
    })
}

/// Where two documents differ, as JSON pointers, the first of them.
pub fn differs(a: &str, b: &str) -> Vec<String> {
    match (serde_json::from_str(a), serde_json::from_str(b)) {
        (Ok(a), Ok(b)) => differences(&a, &b, DIFFERS_MAX),
        _ => Vec::new(),
    }
}

/// The most bytes of an entry that quarantine keeps.
const KEPT_MAX: usize = 1 << 20;

/// What quarantine keeps of an entry that wasn't accepted: `None` when it was. Of more than
/// `KEPT_MAX` bytes the first, and the message says how many there were, and their digest.
pub fn quarantined(
    door: &str,
    id: JobId,
    at: Time,
    bytes: &[u8],
    answer: &Answer,
) -> Option<Quarantined> {
    let (reason, mut message) = answer.refusal()?;
    let kind = match answer {
        Answer::Refused(it) => it.kind.clone(),
        _ => Envelope::parse(bytes).ok().map(|it| it.kind),
    };
    let kept = &bytes[..bytes.len().min(KEPT_MAX)];
    if kept.len() < bytes.len() {
        message = format!(
            "{message}; it had {} bytes (SHA-256 {}), of which the first {KEPT_MAX} are kept",
            bytes.len(),
            Digest::of_bytes(bytes).hex()
        );
    }
    Some(Quarantined {
        id,
        door: door.to_owned(),
        at,
        reason,
        message,
        kind,
        bytes: kept.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_short_whatever_it_quotes() {
        let rules = Rules {
            config: Config::default_embedded(std::path::Path::new("/nowhere")).into(),
            kinds: Arc::new([]),
        };
        let refusal = |text: String| {
            let refusal = admit(&rules, JobId::mint(), text.as_bytes()).unwrap_err();
            let told = refusal.message();
            assert!(
                told.len() <= TOLD_MAX * 2 * (QUOTED_MAX + 8),
                "{}",
                told.len()
            );
            refusal.violations
        };
        let strange: Vec<String> = (0..9_000).map(|n| format!("\"x{n}\":{n}")).collect();
        let told = refusal(format!("{{{}}}", strange.join(",")));
        assert_eq!(told.len(), TOLD_MAX);
        let more = 9_000 + 2 - (TOLD_MAX - 1); // kind and payload are missing, too
        let last = told.last().map(ToString::to_string).unwrap();
        assert!(last.starts_with(&more.to_string()), "{last}");
        let long = "é".repeat(60_000);
        let told = refusal(format!(
            r#"{{"{long}":1,"v":"{long}","kind":"a","payload":{{}}}}"#
        ));
        assert_eq!(told.len(), 2);
    }

    #[test]
    fn quarantine_keeps_the_beginning_of_what_is_too_large() {
        let at = Time::UNIX_EPOCH;
        let answer = Answer::Refused(Refusal::new(
            Reason::TooLarge,
            None,
            vec![Violation::new("", "too large")],
        ));
        let keep = |bytes: &[u8]| {
            quarantined("inbox", JobId::mint(), at, bytes, &answer).expect("it was refused")
        };
        let mut bytes = vec![7; KEPT_MAX];
        let whole = keep(&bytes);
        assert_eq!(whole.bytes, bytes);
        assert!(!whole.message.contains("SHA-256"), "{}", whole.message);
        bytes.extend([1, 2, 3]);
        let part = keep(&bytes);
        assert_eq!(part.bytes, bytes[..KEPT_MAX]);
        for said in [
            "too large",
            "1048579 bytes",
            &Digest::of_bytes(&bytes).hex(),
        ] {
            assert!(part.message.contains(said), "{said}: {}", part.message);
        }
    }
}
