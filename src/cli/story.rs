//! All of one job: what `jobs show`, `dead show` and `unresolved show` tell, for people and programs.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use super::cx::Cx;
use super::out::{CliError, Out, Table, Tone, plain, span, stamp, when};
use crate::clock::Time;
use crate::effect::{Effect, EffectState};
use crate::job::{Job, JobId};
use crate::ledger::{Attempt, Audit, Ledger};
use crate::lifecycle::{State, is_suspect};
use crate::operate;
use crate::operate::why::{Advice, Around, why};

/// So much of what people did to a job is told.
const AUDITS: u32 = 50;

/// All of one job.
#[derive(Serialize)]
pub struct Story {
    /// The job.
    pub job: Job,
    /// Its payload, its numbers as they came.
    pub payload: Option<Box<RawValue>>,
    /// Its attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// Its effects, in the order they were written down.
    pub effects: Vec<Effect>,
    /// What people did to it, newest first.
    pub audit: Vec<Audit>,
    /// Why it stands where it stands, and what to do.
    pub advice: Advice,
    /// The ledger's time when it was read.
    pub now: Time,
}

impl Story {
    /// Reads a job's story.
    ///
    /// # Errors
    /// When there is no such job, or the ledger is away.
    pub async fn read(cx: &Cx, ledger: &Arc<dyn Ledger>, id: JobId) -> Result<Self, CliError> {
        let job = operate::job(&**ledger, id).await?;
        let (attempts, effects) = (ledger.attempts(id).await?, ledger.effects(id).await?);
        let audit = ledger.audit(Some(id), AUDITS).await?;
        let around = Around::read(&**ledger, cx.known(), &job).await?;
        Ok(Self {
            payload: RawValue::from_string(job.payload.to_string()).ok(),
            advice: why(&job, &around, &effects),
            now: around.now,
            job,
            attempts,
            effects,
            audit,
        })
    }

    /// Tells it: the facts, payload, attempts, effects, and what to do.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn print(&self, out: &Out) -> Result<(), CliError> {
        self.facts(out)?;
        heading(out, "Payload")?;
        for line in pretty(&self.job.payload).lines() {
            out.line(&format!("  {line}"))?;
        }
        if let Some(result) = &self.job.result {
            heading(out, "Result")?;
            for line in pretty(result).lines() {
                out.line(&format!("  {line}"))?;
            }
        }
        self.told_attempts(out)?;
        self.told_effects(out)?;
        if !self.audit.is_empty() {
            heading(out, "What people did")?;
            for it in self.audit.iter().rev() {
                let detail = if it.detail.is_empty() {
                    String::new()
                } else {
                    format!(": {}", plain(&it.detail))
                };
                let (at, who) = (stamp(it.at), plain(&it.actor));
                out.line(&format!("  {at}  {who}  {}{detail}", plain(&it.action)))?;
            }
        }
        match self.title() {
            Some(title) => told(out, title, &self.advice),
            None => Ok(()),
        }
    }

    /// What the advice is about; none where the facts have said it all.
    fn title(&self) -> Option<&'static str> {
        match self.job.state {
            State::Completed | State::Cancelled => None,
            State::Dead | State::Unresolved | State::Held => Some("What to do"),
            _ => Some("Why it isn't done yet"),
        }
    }

    fn facts(&self, out: &Out) -> Result<(), CliError> {
        let job = &self.job;
        let state = out.paint(tone(job.state), job.state.as_str());
        out.line(&format!("{}  {}  {state}", job.id, plain(&job.kind)))?;
        let at = |it: Time| format!("{} ({})", stamp(it), when(it, self.now));
        let mut facts = vec![
            ("lane", plain(&job.lane)),
            ("priority", job.priority.to_string()),
            ("tenant", plain(&job.tenant)),
            ("accepted", at(job.created_at)),
        ];
        let mut more = |name, value: Option<String>| facts.extend(value.map(|it| (name, it)));
        more("account", job.account.as_deref().map(plain));
        more("key", job.key.as_deref().map(plain));
        more("due", job.state.is_claimable().then(|| at(job.run_at)));
        more("not after", job.not_after.map(at));
        more("late", job.late.map(|it| it.to_string()));
        more("ended", job.ended_at.map(at));
        more(
            "failed",
            Some(format!("{} of {} attempts", job.attempts, job.attempts_max)),
        );
        more(
            "crashes",
            (0 < job.crashes).then(
                || match is_suspect(job.crashes) && !job.state.is_terminal() {
                    true => format!("{} in a row: a suspect, it runs alone", job.crashes),
                    false => job.crashes.to_string(),
                },
            ),
        );
        more(
            "revision",
            (0 < job.revision).then(|| format!("{} (its payload was edited)", job.revision)),
        );
        let labels = job
            .labels
            .iter()
            .map(|(k, v)| format!("{}={}", plain(k), plain(v)));
        more(
            "labels",
            (!job.labels.is_empty()).then(|| labels.collect::<Vec<_>>().join(" ")),
        );
        let progress = job
            .progress
            .as_ref()
            .filter(|_| job.state == State::Running);
        more(
            "progress",
            progress.map(|it| format!("{}% {}", it.percent, plain(&it.message))),
        );
        more("held", job.held.map(|it| it.to_string()));
        if !matches!(job.state, State::Completed) {
            let last = job.failure.as_ref();
            more(
                "failure",
                last.map(|it| format!("{} {}: {}", it.class, plain(&it.code), plain(&it.message))),
            );
            more("group", last.and(job.fingerprint.clone()));
        }
        table(out, &facts)
    }

    fn told_attempts(&self, out: &Out) -> Result<(), CliError> {
        if self.attempts.is_empty() {
            return Ok(());
        }
        heading(out, "Attempts")?;
        let mut table = Table::new(&[
            "  NO", "BEGAN", "TOOK", "HOST", "OUTCOME", "CLASS", "CODE", "MESSAGE",
        ]);
        for it in &self.attempts {
            let failure = it.failure.as_ref();
            table.row([
                format!("  {}", it.number).into(),
                stamp(it.began_at).into(),
                span(it.ended_at - it.began_at).into(),
                it.host.as_str().into(),
                it.outcome.as_str().into(),
                failure.map_or("", |it| it.class.as_str()).into(),
                failure.map_or("", |it| it.code.as_str()).into(),
                failure.map_or("", |it| it.message.as_str()).into(),
            ]);
        }
        table.print(out)
    }

    fn told_effects(&self, out: &Out) -> Result<(), CliError> {
        if self.effects.is_empty() {
            return Ok(());
        }
        heading(out, "Effects")?;
        for it in &self.effects {
            let tone = match it.state {
                EffectState::Confirmed => Tone::Good,
                EffectState::Intended | EffectState::Refused => Tone::Plain,
                _ => Tone::Warn,
            };
            let url = it.receipt.as_ref().and_then(|it| it.url.as_deref());
            let url = url.map_or(String::new(), |it| format!("  {}", plain(it)));
            let state = out.paint(tone, it.state.as_str());
            let (op, account) = (plain(&it.op), plain(&it.account));
            out.line(&format!("  {op}  {account}  {state}{url}"))?;
            for seen in &it.evidence {
                out.line(&format!("    {}  {}", stamp(seen.at), plain(&seen.seen)))?;
            }
        }
        Ok(())
    }
}

/// A heading, after an empty line.
///
/// # Errors
/// When nobody reads any more.
pub fn heading(out: &Out, text: &str) -> Result<(), CliError> {
    out.line("")?;
    out.line(&out.paint(Tone::Strong, text))
}

/// Names and values below each other. The values must have been made plain.
///
/// # Errors
/// When nobody reads any more.
pub fn table(out: &Out, facts: &[(&str, String)]) -> Result<(), CliError> {
    let widest = facts.iter().map(|it| it.0.len()).max().unwrap_or(0);
    for (name, value) in facts {
        let name = out.paint(Tone::Faint, &format!("{name:widest$}"));
        out.line(&format!("  {name}  {value}"))?;
    }
    Ok(())
}

/// An advice, with its commands below.
///
/// # Errors
/// When nobody reads any more.
pub fn told(out: &Out, title: &str, advice: &Advice) -> Result<(), CliError> {
    heading(out, title)?;
    out.line(&format!("  {}", plain(&advice.text)))?;
    for it in &advice.commands {
        out.line(&format!("    {}", plain(it)))?;
    }
    Ok(())
}

/// The tone of a state.
pub fn tone(state: State) -> Tone {
    match state {
        State::Completed => Tone::Good,
        State::Dead => Tone::Bad,
        State::Held | State::Unresolved | State::Retrying => Tone::Warn,
        State::Running => Tone::Busy,
        State::Waiting | State::Scheduled | State::Ready | State::Cancelled => Tone::Plain,
    }
}

/// JSON with a member a line. Numbers and strings stay as they were written (`serde_json` would
/// round); what could play tricks on a terminal is spelt as JSON escapes, so that it stays the same
/// document. What is no JSON comes out escaped, on one line or more.
pub fn pretty(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if quoted {
            write_plain(&mut out, c);
            (quoted, escaped) = match c {
                _ if escaped => (true, false),
                '\\' => (true, true),
                '"' => (false, false),
                _ => (true, false),
            };
            continue;
        }
        match c {
            ' ' | '\t' | '\n' | '\r' => {}
            '"' => {
                out.push(c);
                quoted = true;
            }
            '{' | '[' => {
                out.push(c);
                while rest.next_if(|it| it.is_ascii_whitespace()).is_some() {}
                match rest.next_if(|it| matches!(it, '}' | ']')) {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        new_line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => write_plain(&mut out, c),
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    for _ in 0..depth {
        out.push_str("  ");
    }
}

fn write_plain(out: &mut String, c: char) {
    let mut one = [0; 4];
    let one = c.encode_utf8(&mut one);
    if plain(one) == *one {
        out.push(c);
        return;
    }
    let mut units = [0; 2];
    for unit in c.encode_utf16(&mut units) {
        out.push_str(&format!("\\u{unit:04x}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Digest;

    #[test]
    fn a_payload_is_shown_as_it_came() {
        let text = r#"{"n":123456789012345678901234567890,"a":[1.0, {}, [ ]],"s":"x\"{,"}"#;
        let shown = pretty(text);
        assert!(
            shown.contains("\"n\": 123456789012345678901234567890,\n"),
            "{shown}"
        );
        assert!(shown.contains("1.0,\n    {},\n    []\n  ],"), "{shown}");
        assert_eq!(Digest::of_json(&shown), Digest::of_json(text));
    }

    #[test]
    fn tricks_are_spelt_out_and_stay_the_same_document() {
        let text = "{\"s\":\"a\u{202e}b\u{9b}c\\u001b\"}";
        let shown = pretty(text);
        assert!(shown.contains(r"a\u202eb\u009bc\u001b"), "{shown}");
        assert_eq!(Digest::of_json(&shown), Digest::of_json(text));
    }
}
