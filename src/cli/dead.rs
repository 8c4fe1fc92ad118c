//! `presswork dead`: dead letters, and what to do about them.

use std::sync::Arc;

use clap::Subcommand;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::time::{Duration, Instant};

use super::cx::Cx;
use super::editor::{Draft, until_right};
use super::out::{Cell, CliError, Exit, Table, Tone, cut, plain, when};
use super::pick::{MOST, WhichDead, ask, can_ask, confirm};
use super::story::{Story, pretty};
use crate::job::JobId;
use crate::json::{Digest, Violation};
use crate::ledger::{Filter, Group, Ledger};
use crate::lifecycle::State;
use crate::operate::{self, Edited, Outlook, Refused};

const AFTER: &str = "\
Examples:
  presswork dead list --group                      what went wrong, by cause
  presswork dead show ID                           all of one, and what to do
  presswork dead revive ID --edit                  correct its payload and bring it back
  presswork dead revive --error http_503 --newer 2h --dry-run
  presswork dead revive --error http_503 --newer 2h --yes --reason 'platform is back'
  presswork dead discard ID --reason 'not wanted any more'

Exit codes: 0 done, 2 asked wrongly, 3 not found, 4 refused (some or all), 5 ledger away";

/// Dead letters: look at them, revive them, give them up
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List dead letters, those that died last first
    List {
        #[command(flatten)]
        which: WhichDead,
        /// Group them by the error they share
        #[arg(long)]
        group: bool,
    },
    /// Show all of one: payload, attempts, effects, and what to do about it
    Show {
        /// The job's id
        #[arg(value_name = "ID")]
        id: JobId,
    },
    /// Bring dead letters back: these, or those that a filter lets through
    Revive(Revive),
    /// Give dead letters up for good: these, or those that a filter lets through
    Discard(Discard),
}

/// Which dead letters to change.
#[derive(Debug, clap::Args)]
struct Chosen {
    /// The jobs' ids
    #[arg(value_name = "ID")]
    ids: Vec<JobId>,
    #[command(flatten)]
    which: WhichDead,
    /// All dead letters
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Don't ask before many are changed
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
struct Revive {
    #[command(flatten)]
    chosen: Chosen,
    /// Edit the payload first ($VISUAL or $EDITOR); it is checked against its kind's schema
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
}

#[derive(Debug, clap::Args)]
struct Discard {
    #[command(flatten)]
    chosen: Chosen,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    reason: String,
}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let ledger = cx.ledger().await?;
    match args.command {
        Command::List { which, group: true } => groups(cx, &*ledger, &which).await,
        Command::List { which, .. } => list(cx, &*ledger, &which).await,
        Command::Show { id } => show(cx, &ledger, id).await,
        Command::Revive(it) if it.edit => revive_edited(cx, &ledger, it).await,
        Command::Revive(it) => revive(cx, &ledger, it).await,
        Command::Discard(it) => discard(cx, &ledger, it).await,
    }
}

async fn list(cx: &Cx, ledger: &dyn Ledger, which: &WhichDead) -> Result<(), CliError> {
    let now = ledger.now().await?;
    let filter = which.filter(now, which.few().asked());
    let mut jobs = operate::dead(ledger, &filter).await?;
    which.few().cut(&cx.out, &mut jobs);
    if cx.out.json {
        return cx.out.document(&jobs);
    }
    if jobs.is_empty() {
        return cx.out.line(none(which));
    }
    let heads = ["ID", "KIND", "ACCOUNT", "DIED", "FAILED", "CODE", "MESSAGE"];
    let mut table = Table::new(&heads);
    for job in &jobs {
        let failure = job.failure.as_ref();
        table.row([
            job.id.to_string().into(),
            job.kind.as_str().into(),
            job.account.as_deref().unwrap_or("-").into(),
            job.ended_at
                .map_or_else(String::new, |it| when(it, now))
                .into(),
            format!("{}/{}", job.attempts, job.attempts_max).into(),
            Cell::toned(Tone::Bad, failure.map_or("", |it| it.code.as_str())),
            cut(failure.map_or("", |it| it.message.as_str()), 60).into(),
        ]);
    }
    table.print(&cx.out)
}

fn none(which: &WhichDead) -> &'static str {
    if which.is_empty() {
        "No dead letters."
    } else {
        "No dead letters like that."
    }
}

/// A group, and how to bring it back.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    group: Group,
    revive: String,
}

async fn groups(cx: &Cx, ledger: &dyn Ledger, which: &WhichDead) -> Result<(), CliError> {
    let now = ledger.now().await?;
    let mut found = ledger
        .groups(&which.filter(now, which.few().asked()))
        .await?;
    which.few().cut(&cx.out, &mut found);
    let command = |it: &Group| format!("presswork dead revive --fingerprint {}", it.fingerprint);
    if cx.out.json {
        let listed = found.into_iter().map(|group| Listed {
            revive: command(&group),
            group,
        });
        return cx.out.document(&listed.collect::<Vec<_>>());
    }
    if found.is_empty() {
        return cx.out.line(none(which));
    }
    for (i, it) in found.iter().enumerate() {
        if 0 < i {
            cx.out.line("")?;
        }
        let code = it.failure.as_ref().map_or("unknown", |it| it.code.as_str());
        let message = it.failure.as_ref().map_or("", |it| it.message.as_str());
        let head = format!("{} x {} {}", it.count, plain(&it.kind), plain(code));
        let (first, last) = (when(it.first, now), when(it.last, now));
        cx.out.line(&format!(
            "{}  {}",
            it.fingerprint,
            cx.out.paint(Tone::Strong, &head)
        ))?;
        cx.out.line(&format!("  first {first}, last {last}"))?;
        cx.out.line(&format!("  {}", cut(&plain(message), 160)))?;
        cx.out.line(&format!("    {}", command(it)))?;
    }
    Ok(())
}

async fn show(cx: &Cx, ledger: &Arc<dyn Ledger>, id: JobId) -> Result<(), CliError> {
    let story = Story::read(cx, ledger, id).await?;
    if story.job.state != State::Dead {
        return Err(
            CliError::conflict(format!("job {id} is {}, no dead letter", story.job.state))
                .hint(format!("`presswork jobs show {id}` shows it")),
        );
    }
    match cx.out.json {
        true => cx.out.document(&story),
        false => story.print(&cx.out),
    }
}

/// The ids that are meant, and whether a filter found them.
async fn choose(ledger: &dyn Ledger, chosen: &Chosen) -> Result<Vec<JobId>, CliError> {
    let narrowed = !chosen.which.is_empty();
    if !chosen.ids.is_empty() {
        if narrowed {
            return Err(CliError::usage("name ids or a filter, not both"));
        }
        let mut ids = chosen.ids.clone();
        let mut seen = std::collections::BTreeSet::new();
        ids.retain(|it| seen.insert(*it));
        return Ok(ids);
    }
    if !narrowed && !chosen.all {
        return Err(CliError::usage(
            "which ones? Name ids, a filter such as --error TEXT, or --all",
        )
        .hint("`presswork dead list --group` shows what there is"));
    }
    let filter: Filter = chosen
        .which
        .filter(ledger.now().await?, chosen.which.most());
    let jobs = operate::dead(ledger, &filter).await?;
    Ok(jobs.into_iter().map(|it| it.id).collect())
}

async fn revive(cx: &Cx, ledger: &Arc<dyn Ledger>, args: Revive) -> Result<(), CliError> {
    let ids = choose(&**ledger, &args.chosen).await?;
    if ids.is_empty() {
        return nobody(cx, "revived");
    }
    if args.chosen.dry_run {
        return outlooks(cx, ledger, &ids, false).await;
    }
    sure(cx, &args.chosen, "Revive", ids.len())?;
    let by = cx.by(&args.reason);
    change(cx, &ids, "revived", |id| {
        let (ledger, by) = (ledger.clone(), by.clone());
        async move { operate::revive(&*ledger, id, None, &by).await }
    })
    .await
}

async fn discard(cx: &Cx, ledger: &Arc<dyn Ledger>, args: Discard) -> Result<(), CliError> {
    let ids = choose(&**ledger, &args.chosen).await?;
    if ids.is_empty() {
        return nobody(cx, "discarded");
    }
    if args.chosen.dry_run {
        return discards(cx, &**ledger, &ids).await;
    }
    sure(cx, &args.chosen, "Discard for good", ids.len())?;
    let by = cx.by(&args.reason);
    change(cx, &ids, "discarded", |id| {
        let (ledger, by) = (ledger.clone(), by.clone());
        async move { operate::discard(&*ledger, id, &by).await }
    })
    .await
}

fn letters(n: usize) -> String {
    match n {
        1 => "1 dead letter".to_owned(),
        n => format!("{n} dead letters"),
    }
}

/// Makes sure of a change to what a filter found.
fn sure(cx: &Cx, chosen: &Chosen, what: &str, found: usize) -> Result<(), CliError> {
    if !chosen.ids.is_empty() {
        return Ok(());
    }
    if MOST as usize <= found {
        cx.out.note(&format!(
            "{MOST} are changed at once; run it again for the rest."
        ));
    }
    confirm(&cx.out, chosen.yes, &format!("{what} {}?", letters(found)))
}

fn nobody(cx: &Cx, done: &str) -> Result<(), CliError> {
    match cx.out.json {
        true => cx
            .out
            .document(&serde_json::json!({done: [], "refused": []})),
        false => cx
            .out
            .line("No dead letters like that; nothing was changed."),
    }
}

/// What wasn't changed, and why.
#[derive(Serialize)]
struct Left {
    id: JobId,
    why: String,
}

/// So many are changed at once; the ledger commits those together that come together.
const AT_ONCE: usize = 8;
/// While many are changed, a word is said this often.
const EVERY: Duration = Duration::from_secs(1);
/// Of so many each one is named.
const NAMED: usize = 20;

/// Changes them all, tells how it goes and how it went.
async fn change<F, R>(cx: &Cx, ids: &[JobId], done: &str, make: F) -> Result<(), CliError>
where
    F: Fn(JobId) -> R,
    R: Future<Output = Result<State, Refused>>,
{
    let one = |id: JobId| {
        let made = make(id);
        async move { (id, made.await) }
    };
    let mut changes = stream::iter(ids.iter().copied()).map(one).buffered(AT_ONCE);
    let (mut changed, mut left, mut worst) = (Vec::new(), Vec::new(), Exit::Done);
    let mut told = Instant::now();
    while let Some((id, result)) = changes.next().await {
        match result.map_err(CliError::from) {
            Ok(_) => changed.push(id),
            Err(e) if matches!(e.exit, Exit::Away | Exit::Failed) => {
                let so_far = format!("{} of {} were {done} before that", changed.len(), ids.len());
                return Err(e.hint(so_far).with(done, &changed));
            }
            Err(e) => {
                worst = if left.is_empty() {
                    e.exit
                } else {
                    Exit::Conflict
                };
                left.push(Left { id, why: e.message });
            }
        }
        if EVERY <= told.elapsed() {
            told = Instant::now();
            let so_far = changed.len() + left.len();
            cx.out.note(&format!("{so_far} of {}", ids.len()));
        }
    }
    tell(cx, done, &changed, &left)?;
    match worst {
        Exit::Done => Ok(()),
        worst => Err(CliError::said(worst)),
    }
}

fn tell(cx: &Cx, done: &str, changed: &[JobId], left: &[Left]) -> Result<(), CliError> {
    if cx.out.json {
        let done = done.replace(' ', "_");
        return cx
            .out
            .document(&serde_json::json!({done: changed, "refused": left}));
    }
    if changed.len() <= NAMED {
        for id in changed {
            cx.out
                .line(&format!("{} {id}", cx.out.paint(Tone::Good, done)))?;
        }
    } else {
        cx.out.line(&format!(
            "{} {}",
            cx.out.paint(Tone::Good, done),
            letters(changed.len())
        ))?;
    }
    for it in left.iter().take(NAMED) {
        cx.out.line(&format!(
            "{} {}",
            cx.out.paint(Tone::Bad, "refused"),
            plain(&it.why)
        ))?;
    }
    if NAMED < left.len() {
        cx.out.line(&format!(
            "and {} more were refused; --json names them all",
            left.len() - NAMED
        ))?;
    }
    Ok(())
}

/// What a revive would do, changing nothing.
async fn outlooks(
    cx: &Cx,
    ledger: &Arc<dyn Ledger>,
    ids: &[JobId],
    edited: bool,
) -> Result<(), CliError> {
    let look = |id: JobId| async move { operate::outlook(&**ledger, id, edited).await };
    let mut looks = stream::iter(ids.iter().copied())
        .map(look)
        .buffered(AT_ONCE);
    let mut found = Vec::with_capacity(ids.len());
    while let Some(it) = looks.next().await {
        found.push(it?);
    }
    if cx.out.json {
        return cx.out.document(&found);
    }
    let mut table = Table::new(&["ID", "KIND", "WOULD"]);
    for it in &found {
        let (tone, would) = would(it);
        table.row([
            it.id.to_string().into(),
            it.kind.as_str().into(),
            Cell::toned(tone, would),
        ]);
    }
    table.print(&cx.out)?;
    let blocked = found.iter().filter(|it| it.blocked.is_some()).count();
    cx.out.line(&format!(
        "{} would be revived, {blocked} would be refused. Nothing was changed.",
        found.len() - blocked
    ))
}

fn would(outlook: &Outlook) -> (Tone, String) {
    if let Some(why) = &outlook.blocked {
        return (Tone::Bad, format!("be refused: {why}"));
    }
    if outlook.effects.is_empty() {
        return (
            Tone::Plain,
            "run from its start; nothing was sent so far".to_owned(),
        );
    }
    let one = |it: &operate::EffectOutlook| match &it.url {
        Some(url) => format!("{} ({}): {}: {url}", it.op, it.account, it.outlook),
        None => format!("{} ({}): {}", it.op, it.account, it.outlook),
    };
    let all: Vec<String> = outlook.effects.iter().map(one).collect();
    (Tone::Plain, all.join("; "))
}

async fn discards(cx: &Cx, ledger: &dyn Ledger, ids: &[JobId]) -> Result<(), CliError> {
    let (mut would, mut left) = (Vec::new(), Vec::new());
    for id in ids {
        let job = operate::job(ledger, *id).await?;
        match job.state {
            State::Dead => would.push(*id),
            state => left.push(Left {
                id: *id,
                why: format!("job {id} is {state}: only dead letters are discarded"),
            }),
        }
    }
    tell(cx, "would discard", &would, &left)?;
    if cx.out.json {
        return Ok(());
    }
    cx.out.line("Nothing was changed.")
}

/// What came back from the editor.
enum Written {
    Same,
    New(Edited),
}

async fn revive_edited(cx: &Cx, ledger: &Arc<dyn Ledger>, args: Revive) -> Result<(), CliError> {
    let [id] = args.chosen.ids[..] else {
        return Err(CliError::usage("--edit edits one dead letter: name its id")
            .hint("presswork dead revive ID --edit"));
    };
    if args.chosen.dry_run {
        return outlooks(cx, ledger, &[id], true).await;
    }
    let job = operate::job(&**ledger, id).await?;
    if let Some(why) = operate::outlook(&**ledger, id, true).await?.blocked {
        return Err(CliError::conflict(format!("job {id}: {why}")));
    }
    let rules = cx.rules();
    let before = Digest::of_json(&job.payload).ok();
    let draft = Draft::new(
        "payload.json",
        format!("{}\n", pretty(&job.payload)).as_bytes(),
    )
    .map_err(|e| CliError::failed(format!("{e:#}")))?;
    let check = |text: &[u8]| {
        let text = object(text)?;
        match Digest::of_json(text) {
            Ok(digest) if Some(digest) == before => return Ok(Written::Same),
            Ok(_) => {}
            Err(wrong) => return Err(vec![wrong]),
        }
        match operate::edit(&rules, &job, text) {
            Ok(it) => Ok(Written::New(it)),
            Err(Refused::Invalid(wrong)) => Err(wrong.into_iter().map(in_payload).collect()),
            Err(e) => Err(vec![Violation::new("", e.to_string())]),
        }
    };
    let written = until_right(&cx.out, draft, check).await?;
    let edited = match &written {
        Written::New(it) => Some(it),
        Written::Same => {
            unchanged(cx, args.chosen.yes, id)?;
            None
        }
    };
    let by = cx.by(&args.reason);
    operate::revive(&**ledger, id, edited, &by).await?;
    tell(cx, "revived", &[id], &[])
}

/// An edit that changed nothing is most often a change of mind.
fn unchanged(cx: &Cx, yes: bool, id: JobId) -> Result<(), CliError> {
    if yes || (can_ask(&cx.out) && ask("The payload wasn't changed. Revive it as it is?")?) {
        return Ok(());
    }
    Err(
        CliError::usage("the payload wasn't changed, so nothing was revived")
            .hint(format!("`presswork dead revive {id}` revives it as it is")),
    )
}

/// The text of a payload that was written by hand.
fn object(bytes: &[u8]) -> Result<&str, Vec<Violation>> {
    let one = |message: &str| Err(vec![Violation::new("", message)]);
    match std::str::from_utf8(bytes).map(str::trim) {
        Err(_) => one("is not UTF-8"),
        Ok("") => one("is empty; leave the payload as it is to change nothing"),
        Ok(text) if !text.starts_with('{') => one("is no JSON object"),
        Ok(text) if crate::job::envelope::ENVELOPE_MAX < text.len() => {
            one("is larger than an envelope may be (256 KiB)")
        }
        Ok(text) => Ok(text),
    }
}

/// The editor holds the payload alone, so pointers begin there.
fn in_payload(it: Violation) -> Violation {
    let pointer = it.pointer.strip_prefix("/payload").unwrap_or(&it.pointer);
    Violation::new(pointer, it.message)
}
