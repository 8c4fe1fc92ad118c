//! `presswork quarantine`: what couldn't be accepted, with its bytes and the exact reason.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use serde::Serialize;

use super::cx::Cx;
use super::editor::{Draft, until_right};
use super::out::{Cell, CliError, Exit, Table, Tone, cut, plain, stamp, when};
use super::pick::Few;
use super::story::{heading, pretty, table, told};
use crate::inbox::tenant_at;
use crate::intake::admit_of;
use crate::job::JobId;
use crate::ledger::{Ledger, Quarantined, Reason};
use crate::operate;
use crate::operate::why::Advice;

const AFTER: &str = "\
Examples:
  presswork quarantine list
  presswork quarantine show ID
  presswork quarantine show ID --bytes > envelope.json
  presswork quarantine release ID                  it can be accepted by now
  presswork quarantine release ID --edit           correct it first
  presswork quarantine discard ID --reason 'sent by mistake'

Exit codes: 0 done, 2 still wrong or asked wrongly, 3 not found, 4 refused, 5 ledger away";

/// What couldn't be accepted, with the exact reason: look, release, discard
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List what is in quarantine, newest first
    List {
        #[command(flatten)]
        few: Few,
    },
    /// Show one: the reason, all that is wrong, and the bytes as they came
    Show {
        /// The entry's id
        #[arg(value_name = "ID")]
        id: JobId,
        /// The bytes alone, as they came
        #[arg(long, conflicts_with = "json")]
        bytes: bool,
    },
    /// Try to accept one again
    Release {
        /// The entry's id
        #[arg(value_name = "ID")]
        id: JobId,
        /// Correct it first ($VISUAL or $EDITOR); it is checked before it is taken
        #[arg(long)]
        edit: bool,
        /// Why, for the audit
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        reason: String,
    },
    /// Throw entries away
    Discard {
        /// The entries' ids
        #[arg(value_name = "ID", required = true)]
        ids: Vec<JobId>,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
        reason: String,
    },
}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let ledger = cx.ledger().await?;
    match args.command {
        Command::List { few } => list(cx, &*ledger, &few).await,
        Command::Show { id, bytes } => show(cx, &entry(&*ledger, id).await?, bytes, &*ledger).await,
        Command::Release { id, edit, reason } => release(cx, &*ledger, id, edit, &reason).await,
        Command::Discard { ids, reason } => discard(cx, &*ledger, &ids, &reason).await,
    }
}

async fn list(cx: &Cx, ledger: &dyn Ledger, few: &Few) -> Result<(), CliError> {
    let mut found = ledger.quarantined(few.kind.as_deref(), few.asked()).await?;
    few.cut(&cx.out, &mut found);
    if cx.out.json {
        let shown: Vec<Shown> = found.iter().map(Shown::of).collect();
        return cx.out.document(&shown);
    }
    if found.is_empty() {
        return cx.out.line(match few.kind {
            Some(_) => "Nothing like that is in quarantine.",
            None => "Nothing is in quarantine.",
        });
    }
    let now = ledger.now().await?;
    let mut table = Table::new(&["ID", "CAME", "DOOR", "REASON", "KIND", "BYTES", "MESSAGE"]);
    for it in &found {
        table.row([
            it.id.to_string().into(),
            when(it.at, now).into(),
            it.door.as_str().into(),
            Cell::toned(Tone::Bad, it.reason.as_str()),
            it.kind.as_deref().unwrap_or("-").into(),
            Cell::number(it.bytes.len()),
            cut(&plain(&it.message), 60).into(),
        ]);
    }
    table.print(&cx.out)
}

async fn entry(ledger: &dyn Ledger, id: JobId) -> Result<Quarantined, CliError> {
    let found = ledger.quarantined_one(id).await?;
    found.ok_or_else(|| {
        CliError::missing(format!("there is no entry {id} in quarantine"))
            .hint("`presswork quarantine list` shows those there are")
    })
}

/// An entry for programs: its bytes as text where they are text, and exactly.
#[derive(Serialize)]
struct Shown<'a> {
    id: JobId,
    door: &'a str,
    at: crate::clock::Time,
    reason: crate::ledger::Reason,
    message: &'a str,
    kind: Option<&'a str>,
    size: usize,
    text: Option<&'a str>,
    base64: String,
}

impl<'a> Shown<'a> {
    fn of(it: &'a Quarantined) -> Self {
        Self {
            id: it.id,
            door: &it.door,
            at: it.at,
            reason: it.reason,
            message: &it.message,
            kind: it.kind.as_deref(),
            size: it.bytes.len(),
            text: std::str::from_utf8(&it.bytes).ok(),
            base64: STANDARD.encode(&it.bytes),
        }
    }
}

async fn show(cx: &Cx, it: &Quarantined, bytes: bool, ledger: &dyn Ledger) -> Result<(), CliError> {
    if bytes {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&it.bytes)?;
        return Ok(stdout.flush()?);
    }
    if cx.out.json {
        return cx.out.document(&Shown::of(it));
    }
    let now = ledger.now().await?;
    let reason = cx.out.paint(Tone::Bad, it.reason.as_str());
    cx.out.line(&format!("{}  {reason}", it.id))?;
    let mut facts = vec![
        ("came", format!("{} ({})", stamp(it.at), when(it.at, now))),
        ("door", plain(&it.door)),
        ("size", format!("{} bytes", it.bytes.len())),
    ];
    facts.extend(it.kind.as_deref().map(|it| ("kind", plain(it))));
    table(&cx.out, &facts)?;
    heading(&cx.out, "What is wrong")?;
    for line in it.message.lines() {
        cx.out.line(&format!("  {}", plain(line)))?;
    }
    heading(&cx.out, "Bytes")?;
    for line in readable(&it.bytes) {
        cx.out.line(&format!("  {line}"))?;
    }
    told(&cx.out, "What to do", &advice(it))
}

/// What to do about an entry, by why it is here.
fn advice(it: &Quarantined) -> Advice {
    let release = format!("presswork quarantine release {}", it.id);
    let (text, first) = match it.reason {
        Reason::UnknownKind => (
            "If the kind is right, release it with a Presswork that knows it; if it is a slip, correct it. Or throw it away.",
            vec![release.clone(), format!("{release} --edit")],
        ),
        Reason::Conflict => (
            "If it is meant as another job, give it another key. If not, its key has done what it is for: throw it away.",
            vec![format!("{release} --edit")],
        ),
        Reason::Repeats => (
            "If it is meant, say \"again\": true in the envelope. If not, the guard of its account has done what it is for: throw it away.",
            vec![format!("{release} --edit"), release.clone()],
        ),
        Reason::Refused | Reason::Forbidden => (
            "The ledger didn't take it. Try again, correct it, or throw it away.",
            vec![release.clone(), format!("{release} --edit")],
        ),
        Reason::TooLarge => (
            "Only its beginning may be kept. Have it sent again, with media referred to instead of within, and throw this away.",
            Vec::new(),
        ),
        Reason::Malformed | Reason::Invalid => (
            "Correct it and take it in one step: the editor opens with it. As it is it can be accepted only once the configuration fits it. Or throw it away.",
            vec![format!("{release} --edit"), release],
        ),
    };
    let mut commands = first;
    commands.push(format!(
        "presswork quarantine discard {} --reason 'not wanted'",
        it.id
    ));
    Advice {
        text: text.to_owned(),
        commands,
    }
}

/// So many bytes of what is no text are shown; `--bytes` gives all.
const DUMPED: usize = 1_024;
/// So many bytes of a text are shown.
const TOLD: usize = 16 * 1_024;

/// JSON with a member a line, other text as it is, the rest as a dump; each line plain.
fn readable(bytes: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(bytes)
        .ok()
        .filter(|it| !it.contains('\0'));
    match text {
        Some(text) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => {
            beginning(pretty(text).lines().map(str::to_owned))
        }
        Some(text) => beginning(text.lines().map(plain)),
        None => dump(bytes),
    }
}

/// The lines up to [`TOLD`] bytes, the last one cut.
fn beginning(lines: impl Iterator<Item = String>) -> Vec<String> {
    let (mut told, mut room) = (Vec::new(), TOLD);
    for mut line in lines {
        if room < line.len() {
            line.truncate(line.floor_char_boundary(room));
            told.push(line);
            told.push("and more; --bytes gives all".to_owned());
            return told;
        }
        room -= line.len();
        told.push(line);
    }
    told
}

fn dump(bytes: &[u8]) -> Vec<String> {
    let shown = &bytes[..bytes.len().min(DUMPED)];
    let line = |(at, row): (usize, &[u8])| {
        let hex: Vec<String> = row.iter().map(|it| format!("{it:02x}")).collect();
        let seen = |it: &u8| {
            if it.is_ascii_graphic() || *it == b' ' {
                char::from(*it)
            } else {
                '.'
            }
        };
        let text: String = row.iter().map(seen).collect();
        format!("{:06x}  {:47}  {text}", at * 16, hex.join(" "))
    };
    let mut lines: Vec<String> = shown.chunks(16).enumerate().map(line).collect();
    if shown.len() < bytes.len() {
        lines.push(format!(
            "and {} bytes more; --bytes gives all",
            bytes.len() - shown.len()
        ));
    }
    lines
}

async fn release(
    cx: &Cx,
    ledger: &dyn Ledger,
    id: JobId,
    edit: bool,
    reason: &str,
) -> Result<(), CliError> {
    let rules = cx.rules();
    let entry = entry(ledger, id).await?;
    let edited = match edit {
        true => {
            // the text itself, not a prettier one: what is no JSON must stay what it was
            let draft = Draft::new("envelope.json", &entry.bytes)
                .map_err(|e| CliError::failed(format!("{e:#}")))?;
            let check = |text: &[u8]| {
                let text = text.trim_ascii();
                admit_of(&rules, id, text, tenant_at(&entry.door))
                    .map(|_| text.to_vec())
                    .map_err(|it| it.violations)
            };
            Some(until_right(&cx.out, draft, check).await?)
        }
        false => None,
    };
    let by = cx.by(reason);
    let released = operate::release_quarantined(ledger, &rules, id, edited.as_deref(), &by).await;
    let job = released.map_err(|e| match e {
        operate::Refused::Invalid(wrong) => {
            CliError::violations("it still can't be accepted", &wrong).hint(format!(
                "`presswork quarantine release {id} --edit` corrects it first"
            ))
        }
        e @ operate::Refused::Unfit(_) => CliError::from(e).hint(format!(
            "`presswork quarantine release {id} --edit` gives it another key"
        )),
        e => e.into(),
    })?;
    if cx.out.json {
        return cx.out.document(&serde_json::json!({"id": id, "job": job}));
    }
    let said = if job == id {
        String::new()
    } else {
        " (the same was accepted before)".to_owned()
    };
    cx.out.line(&format!(
        "{} as job {job}{said}",
        cx.out.paint(Tone::Good, "accepted")
    ))
}

async fn discard(
    cx: &Cx,
    ledger: &dyn Ledger,
    ids: &[JobId],
    reason: &str,
) -> Result<(), CliError> {
    let by = cx.by(reason);
    let (mut discarded, mut missing) = (Vec::new(), Vec::new());
    for id in ids {
        match operate::discard_quarantined(ledger, *id, &by).await {
            Ok(()) => discarded.push(id),
            // one that isn't there doesn't keep the others
            Err(operate::Refused::Missing(why)) => missing.push((id, why)),
            Err(e) => return Err(CliError::from(e).with("discarded", &discarded)),
        }
    }
    if cx.out.json {
        let refused = missing
            .iter()
            .map(|(id, why)| serde_json::json!({"id": id, "why": why}));
        let refused: Vec<_> = refused.collect();
        cx.out
            .document(&serde_json::json!({"discarded": discarded, "refused": refused}))?;
    } else {
        let word = cx.out.paint(Tone::Good, "discarded");
        for id in &discarded {
            cx.out.line(&format!("{word} {id}"))?;
        }
        let word = cx.out.paint(Tone::Bad, "refused");
        for (_, why) in &missing {
            cx.out.line(&format!("{word} {}", plain(why)))?;
        }
    }
    match (missing.is_empty(), discarded.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => Err(CliError::said(Exit::Missing)),
        (false, false) => Err(CliError::said(Exit::Conflict)),
    }
}
