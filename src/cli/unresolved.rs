//! `presswork unresolved`: effects of which a person must say whether they happened.

use std::sync::Arc;

use clap::Subcommand;
use serde::Serialize;
use url::Url;

use super::cx::Cx;
use super::out::{CliError, Out, Table, Tone, cut, plain, stamp, when};
use super::pick::Which;
use super::story::{Story, heading, table};
use crate::effect::Effect;
use crate::job::{Job, JobId};
use crate::ledger::{Filter, Ledger, Run};
use crate::lifecycle::State;
use crate::operate::receipt::host;
use crate::operate::{self, Verdict};

const AFTER: &str = "\
Examples:
  presswork unresolved list
  presswork unresolved show ID                     the evidence, and where to look
  presswork unresolved resolve ID --happened --url https://example.social/@me/1
  presswork unresolved resolve ID --did-not-happen --reason 'not in the profile after 10 min'

Exit codes: 0 done, 2 asked wrongly, 3 not found, 4 refused, 5 ledger away";

/// Effects of which only a person can say whether they happened
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the jobs that wait for a person's word
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Show the evidence: what was to be sent, when, from where, what was seen; and where to look
    Show {
        /// The job's id
        #[arg(value_name = "ID")]
        id: JobId,
    },
    /// Say what happened, and let the job go on from there
    Resolve(Resolve),
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("verdict").required(true).args(["happened", "did_not_happen"]))]
struct Resolve {
    /// The job's id
    #[arg(value_name = "ID")]
    id: JobId,
    /// It is there: nothing is sent again
    #[arg(long)]
    happened: bool,
    /// It isn't there: it is sent again
    #[arg(long)]
    did_not_happen: bool,
    /// Where it can be seen
    #[arg(long, value_name = "URL", conflicts_with = "did_not_happen", value_parser = web)]
    url: Option<Url>,
    /// Why, for the audit
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
}

fn web(text: &str) -> Result<Url, String> {
    let wrong = |why: &str| format!("`{text}` is no address that a browser could open: {why}");
    let url = Url::parse(text).map_err(|e| wrong(&e.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        _ => Err(wrong("it must begin with https://")),
    }
}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let ledger = cx.ledger().await?;
    match args.command {
        Command::List { which } => list(cx, &*ledger, &which).await,
        Command::Show { id } => show(cx, &ledger, id).await,
        Command::Resolve(args) => resolve(cx, &*ledger, args).await,
    }
}

/// A job that waits for a person's word, and what of it is open.
#[derive(Serialize)]
struct Listed {
    job: Job,
    open: Vec<Effect>,
}

async fn list(cx: &Cx, ledger: &dyn Ledger, which: &Which) -> Result<(), CliError> {
    let filter = Filter {
        states: vec![State::Unresolved],
        ..which.filter(which.few.asked())
    };
    let mut jobs = ledger.jobs(&filter).await?;
    which.few.cut(&cx.out, &mut jobs);
    let mut found = Vec::with_capacity(jobs.len());
    for job in jobs {
        let mut open = ledger.effects(job.id).await?;
        open.retain(Effect::is_open);
        found.push(Listed { job, open });
    }
    if cx.out.json {
        return cx.out.document(&found);
    }
    if found.is_empty() {
        let nothing = if which.is_empty() {
            "Nothing is unresolved."
        } else {
            "Nothing like that is unresolved."
        };
        return cx.out.line(nothing);
    }
    let now = ledger.now().await?;
    let mut table = Table::new(&["ID", "KIND", "ACCOUNT", "OP", "SENT", "SENDS", "WHY"]);
    for Listed { job, open } in &found {
        let effect = open.first();
        let sent = effect.and_then(|it| it.permit_at);
        table.row([
            job.id.to_string().into(),
            job.kind.as_str().into(),
            job.account.as_deref().unwrap_or("-").into(),
            effect.map_or("-", |it| it.op.as_str()).into(),
            sent.map_or_else(|| "-".to_owned(), |it| when(it, now))
                .into(),
            effect
                .map_or_else(|| "-".to_owned(), |it| it.sends.to_string())
                .into(),
            cut(
                job.failure.as_ref().map_or("", |it| it.message.as_str()),
                60,
            )
            .into(),
        ]);
    }
    table.print(&cx.out)
}

/// The story of a job, and where its open effects were sent from.
#[derive(Serialize)]
struct Evidence<'a> {
    #[serde(flatten)]
    story: &'a Story,
    look: Vec<Look>,
}

/// Where to look for one effect.
#[derive(Serialize)]
struct Look {
    op: String,
    account: String,
    /// The host that held its last permit, where that is known.
    host: Option<String>,
    platform: Option<String>,
    base_url: Option<String>,
    identifier: Option<String>,
}

async fn show(cx: &Cx, ledger: &Arc<dyn Ledger>, id: JobId) -> Result<(), CliError> {
    let story = Story::read(cx, ledger, id).await?;
    let open: Vec<&Effect> = story.effects.iter().filter(|it| it.is_open()).collect();
    if open.is_empty() {
        return Err(
            CliError::conflict(format!("job {id} has no effect whose outcome is unknown"))
                .hint(format!("`presswork jobs show {id}` shows those it has")),
        );
    }
    let runs = ledger.live_runs().await?;
    let look: Vec<Look> = open
        .iter()
        .map(|it| looking(cx, &story, it, &runs))
        .collect();
    if cx.out.json {
        return cx.out.document(&Evidence {
            story: &story,
            look,
        });
    }
    story.print(&cx.out)?;
    for (effect, look) in open.into_iter().zip(&look) {
        evidence(&cx.out, effect, look)?;
    }
    Ok(())
}

fn looking(cx: &Cx, story: &Story, effect: &Effect, runs: &[Run]) -> Look {
    let account = cx.known().accounts.get(&effect.account);
    Look {
        op: effect.op.clone(),
        account: effect.account.clone(),
        host: host(effect, &story.attempts, runs),
        platform: account.map(|it| it.platform.clone()),
        base_url: account.map(|it| it.base_url.to_string()),
        identifier: account.and_then(|it| it.identifier.clone()),
    }
}

fn evidence(out: &Out, effect: &Effect, look: &Look) -> Result<(), CliError> {
    heading(out, &format!("Where to look: {}", plain(&effect.op)))?;
    let mut facts = vec![
        ("effect", effect.id.to_string()),
        ("account", plain(&effect.account)),
        ("state", format!("{}, class {}", effect.state, effect.class)),
        ("sends", effect.sends.to_string()),
    ];
    let mut more = |name, value: Option<String>| facts.extend(value.map(|it| (name, it)));
    more("first sent", effect.first_sent_at.map(stamp));
    more("last sent", effect.permit_at.map(stamp));
    more("restored from", effect.maybe_since.map(stamp));
    more("from host", look.host.as_deref().map(plain));
    more("run", effect.permit_run.map(|it| it.to_string()));
    more("intent", Some(effect.intent.clone()));
    more(
        "kept",
        (!effect.keep.is_null()).then(|| plain(&effect.keep.to_string())),
    );
    more("platform", look.platform.as_deref().map(plain));
    more("at", look.base_url.as_deref().map(plain));
    more("as", look.identifier.as_deref().map(plain));
    table(out, &facts)?;
    let around = match (effect.permit_at, effect.maybe_since) {
        (_, Some(backup)) => format!("since {}", stamp(backup)),
        (Some(at), None) => format!("around {}", stamp(at)),
        (None, None) => "around that time".to_owned(),
    };
    out.line(&format!(
        "  Look at what {} shows {around} for the payload above. Lost requests can still act \
         minutes later: wait a while before you say that it did not happen.",
        match &look.base_url {
            Some(url) => format!("account `{}` at {}", plain(&look.account), plain(url)),
            None => format!(
                "account `{}` (it isn't in jobs.toml any more)",
                plain(&look.account)
            ),
        }
    ))
}

async fn resolve(cx: &Cx, ledger: &dyn Ledger, args: Resolve) -> Result<(), CliError> {
    let (id, by) = (args.id, cx.by(&args.reason));
    let verdict = match args.happened {
        true => Verdict::Happened {
            url: args.url.map(String::from),
        },
        false => Verdict::DidNotHappen,
    };
    let state = operate::resolve(ledger, id, &verdict, &by).await?;
    if cx.out.json {
        let verdict = if args.happened {
            "happened"
        } else {
            "did_not_happen"
        };
        return cx
            .out
            .document(&serde_json::json!({"id": id, "verdict": verdict, "state": state}));
    }
    let said = match (args.happened, state) {
        (true, State::Dead) => "it happened; a revive won't send it again".to_owned(),
        (false, State::Dead) => format!("it did not happen; `presswork dead revive {id}` sends it"),
        (true, _) => format!("it happened and won't be sent again; the job is {state}"),
        (false, _) => format!("it did not happen; the job is {state} and sends it again"),
    };
    cx.out.line(&format!(
        "{} {id}: {said}",
        cx.out.paint(Tone::Good, "resolved")
    ))
}
