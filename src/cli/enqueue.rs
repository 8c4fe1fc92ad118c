//! `presswork enqueue`: a job from the command line, or a file of them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::value::RawValue;

use super::bulk::{self, Source};
use super::cx::{Cx, refused};
use super::follow::{end, follow};
use super::out::{CliError, Exit, plain};
use super::pick;
use super::rows::Defaults;
use crate::clock::Time;
use crate::engine::doors::receipt;
use crate::intake::{Answer, accept, admit};
use crate::job::envelope::ENVELOPE_MAX;
use crate::job::{Job, JobId};
use crate::lifecycle::State;

const AFTER: &str = "\
Works with the daemon down: the job waits in the ledger. A running daemon takes it within 250 ms.

Examples:
  presswork enqueue test.job --payload '{\"sleep_ms\": 500}' --wait
  presswork enqueue post.mastodon --account alice --key launch-2027 \\
      --payload '{\"text\": \"We are live: https://example.com\"}' --at 2027-01-31T09:00:00Z
  presswork enqueue generate.text --account studio --payload @prompt.json --wait --json
  presswork enqueue --jsonl jobs.jsonl            an envelope a line
  presswork enqueue post.mastodon --csv posts.csv --key-column post_id --account alice
  echo '{\"text\": \"Hello\"}' | presswork enqueue post.bluesky --account bella --payload - --at 'in 10m'

A file: columns are the payload's fields (images.0.url for one within a list), the envelope's members
(run_at, account, labels.NAME ...), typed by the kind's schema; an empty cell says nothing. The other
options hold for each row that doesn't say otherwise. A bad row is told with its line, written to the
rejects file with the reason, and stops none of the others: mend that file and send it the same way.
The same file again adds nothing: a row without a key has its own content for one (of two rows that
are alike, the second is another job).

Exit codes: 0 accepted (new, or the same again under its key), 2 refused, 4 the key is taken by
another payload, 5 the ledger can't be reached. With --wait: 0 completed, 1 died, was cancelled,
needs a person, or the time was up, 130 interrupted (the job goes on). Of a file: 2 when a row was
rejected";

/// Enqueue a job, and wait for its end if asked; or a file of jobs
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// Which kind; `presswork kinds` lists them
    #[arg(required_unless_present = "jsonl")]
    kind: Option<String>,
    /// The payload: JSON, @FILE, or - for standard input
    #[arg(long, short, value_name = "JSON", default_value = "{}")]
    payload: String,
    /// The idempotency key: the same key and payload is the same job, however often it is sent
    #[arg(long)]
    key: Option<String>,
    /// A file of envelopes, one a line (JSON Lines); - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["csv", "payload", "key", "wait"])]
    jsonl: Option<PathBuf>,
    /// A file with a job a row, the columns named in its head; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["payload", "key", "wait"])]
    csv: Option<PathBuf>,
    /// The column that holds the idempotency keys [else each row's own content is its key]
    #[arg(long, value_name = "NAME", requires = "csv")]
    key_column: Option<String>,
    /// Where rejected rows are written [default: FILE.rejects.csv or .jsonl]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Not before: RFC 3339, or `in 10m`
    #[arg(long, value_name = "WHEN")]
    at: Option<String>,
    /// Not after: RFC 3339, or `in 2h`
    #[arg(long, value_name = "WHEN")]
    not_after: Option<String>,
    /// What becomes of it when it comes late: publish, skip, ask
    #[arg(long, value_name = "POLICY")]
    late: Option<String>,
    /// How many seconds after its time that is
    #[arg(long, value_name = "SECONDS")]
    late_after: Option<u32>,
    /// What goes first in its lane: high, normal, low
    #[arg(long)]
    priority: Option<String>,
    /// Whose job it is
    #[arg(long)]
    tenant: Option<String>,
    /// The account it acts for, by its name in jobs.toml
    #[arg(long)]
    account: Option<String>,
    /// The lane it waits in
    #[arg(long)]
    lane: Option<String>,
    /// Attempts in all
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// An attempt is ended after this many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// A label of your own; may be given often
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// W3C trace context
    #[arg(long)]
    traceparent: Option<String>,
    /// It is meant although the account said the same shortly before
    #[arg(long)]
    again: bool,
    /// Follow the job to its end, and exit by it
    #[arg(long)]
    wait: bool,
    /// Wait at most so long: 30s, 5m
    #[arg(long, value_name = "SPAN", requires = "wait", value_parser = pick::span)]
    wait_timeout: Option<std::time::Duration>,
}

/// An envelope on its way out; the payload's bytes stay as they were given.
#[derive(Serialize)]
struct Sent<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    payload: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    late: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    late_after_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts_max: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_s: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    again: bool,
}

/// Runs it.
///
/// # Errors
/// When the job isn't accepted, or its end wasn't a good one.
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    if let Some(path) = args.jsonl.as_ref().or(args.csv.as_ref()) {
        let source = Source {
            path,
            csv: args.csv.is_some(),
            key: args.key_column.as_deref(),
            rejects: args.rejects.as_deref(),
        };
        return bulk::run(cx, &source, defaults(cx, &args)?).await;
    }
    let payload = payload(&args.payload)?;
    // what needs no ledger is told without one
    let told = admitted(cx, &args, &payload, cx.clock.now());
    let ledger = match (cx.ledger().await, told) {
        (Ok(it), _) => it,
        (Err(_), Err(told)) => return Err(told),
        (Err(e), Ok(_)) => return Err(e),
    };
    let job = admitted(cx, &args, &payload, ledger.now().await?)?;
    cx.room(&*ledger).await?;
    let answers = accept(&*ledger, &[job]).await?;
    let Some(answer) = answers.into_iter().next() else {
        return Err(CliError::failed("the ledger gave no answer: a defect"));
    };
    let id = taken(cx, &args, &answer)?;
    if !args.wait {
        return Ok(());
    }
    let ended = follow(cx, &ledger, id, args.wait_timeout).await?;
    tell_end(cx, &answer, &ended)
}

/// The envelope that the arguments describe, as intake judges it; spans count from `now`.
fn admitted(
    cx: &Cx,
    args: &Args,
    payload: &RawValue,
    now: Time,
) -> Result<crate::job::NewJob, CliError> {
    let envelope = sent(args, payload, now)?;
    let bytes = serde_json::to_vec(&envelope).map_err(std::io::Error::from)?;
    admit(&cx.rules(), JobId::mint(), &bytes)
        .map_err(|refusal| refused(args.kind.as_deref().unwrap_or_default(), &refusal))
}

/// What the options say of each row that doesn't say it itself.
fn defaults(cx: &Cx, args: &Args) -> Result<Defaults, CliError> {
    let nothing = RawValue::from_string("null".to_owned()).map_err(std::io::Error::from)?;
    let envelope = sent(args, &nothing, cx.clock.now())?;
    let said = serde_json::to_value(&envelope).map_err(std::io::Error::from)?;
    let mut said = match said {
        serde_json::Value::Object(said) => said,
        _ => Defaults::new(),
    };
    said.remove("payload");
    Ok(said)
}

fn sent<'a>(args: &'a Args, payload: &'a RawValue, now: Time) -> Result<Sent<'a>, CliError> {
    Ok(Sent {
        kind: args.kind.as_deref(),
        payload,
        key: args.key.as_deref(),
        tenant: args.tenant.as_deref(),
        account: args.account.as_deref(),
        lane: args.lane.as_deref(),
        priority: args.priority.as_deref(),
        run_at: args
            .at
            .as_deref()
            .map(|it| pick::time("--at", it, now))
            .transpose()?,
        not_after: args
            .not_after
            .as_deref()
            .map(|it| pick::time("--not-after", it, now))
            .transpose()?,
        late: args.late.as_deref(),
        late_after_s: args.late_after,
        attempts_max: args.attempts,
        timeout_s: args.timeout,
        labels: labels(&args.labels)?,
        traceparent: args.traceparent.as_deref(),
        again: args.again,
    })
}

fn payload(said: &str) -> Result<Box<RawValue>, CliError> {
    let (from, text) = match said.strip_prefix('@') {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| CliError::usage(format!("--payload @{path} can't be read: {e}")))?;
            (format!("{path}:"), text)
        }
        None if said == "-" => {
            let mut text = String::new();
            // one byte more tells that there is too much
            let most = ENVELOPE_MAX as u64 + 1;
            std::io::stdin()
                .take(most)
                .read_to_string(&mut text)
                .map_err(|e| {
                    CliError::usage(format!(
                        "the payload can't be read from standard input: {e}"
                    ))
                })?;
            ("standard input:".to_owned(), text)
        }
        None => ("--payload".to_owned(), said.to_owned()),
    };
    serde_json::from_str::<Box<RawValue>>(text.trim()).map_err(|e| {
        CliError::usage(format!("{from} is no JSON: {e}"))
            .hint("put it into single quotes: --payload '{\"text\": \"Hello\"}', or write @FILE")
    })
}

fn labels(said: &[String]) -> Result<BTreeMap<&str, &str>, CliError> {
    let mut labels = BTreeMap::new();
    for it in said {
        let parts = it.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) =
            parts.ok_or_else(|| CliError::usage(format!("--label {it:?} must be NAME=VALUE")))?;
        if labels.insert(name, value).is_some() {
            return Err(CliError::usage(format!(
                "--label {name} is there twice; keep one"
            )));
        }
    }
    Ok(labels)
}

/// Why it wasn't taken.
fn told_of(answer: &Answer) -> String {
    answer.refusal().map_or(String::new(), |it| it.1)
}

/// Tells the answer; the job's id where it was taken.
fn taken(cx: &Cx, args: &Args, answer: &Answer) -> Result<JobId, CliError> {
    let told = |id: &JobId, what: String| {
        if cx.out.json && args.wait {
            return Ok(*id);
        }
        if cx.out.json {
            cx.out.document(&receipt(answer))?;
        } else {
            cx.out.line(&format!("{id}  {what}"))?;
        }
        Ok(*id)
    };
    match answer {
        Answer::New {
            id,
            lane,
            due,
            repeats,
        } => {
            let when = if *due {
                ""
            } else {
                ", its time hasn't come yet"
            };
            let same = match repeats {
                Some(other) => format!("; its account says the same in job {other}"),
                None => String::new(),
            };
            told(id, format!("new, in lane {}{when}{same}", plain(lane)))
        }
        Answer::Same { id, differs } if differs.is_empty() => {
            told(id, "the same again: nothing new was made".to_owned())
        }
        Answer::Same { id, differs } => told(
            id,
            format!(
                "the same again: nothing new was made, and its options stay (asked otherwise: {})",
                plain(&differs.join(", "))
            ),
        ),
        Answer::Conflict { id, differs } => Err(CliError::conflict(told_of(answer))
            .hint(format!("another job needs another key; `presswork jobs show {id}` shows the one that has it"))
            .with("id", id)
            .with("differs", differs)),
        Answer::Repeats { id } => Err(CliError::conflict(told_of(answer))
            .hint(format!(
                "--again if it is meant; `presswork jobs show {id}` shows the other"
            ))
            .with("id", id)),
        Answer::Refused(refusal) => Err(refused(args.kind.as_deref().unwrap_or_default(), refusal)),
    }
}

/// Tells a job's end; only a completed one is a good one.
fn tell_end(cx: &Cx, answer: &Answer, job: &Job) -> Result<(), CliError> {
    if !cx.out.json {
        return end(cx, job);
    }
    let mut told = receipt(answer);
    told["job"] = serde_json::to_value(job).map_err(std::io::Error::from)?;
    cx.out.document(&told)?;
    match job.state {
        State::Completed => Ok(()),
        // the document says it all
        _ => Err(CliError::said(Exit::Failed)),
    }
}
