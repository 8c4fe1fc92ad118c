//! `presswork check`: the configuration and the connections.

use std::future::Future;
use std::time::Duration;

use serde::Serialize;

use super::cx::{Cx, kinds};
use super::out::{Cell, CliError, Exit, Table, Tone, plain};
use crate::config::{Store, unknown_variables};
use crate::handler::Kind;
use crate::stores;

const AFTER: &str = "\
Checks the whole configuration first (every mistake with its line and column), with all references
to secrets; then asks the ledger and the queue. It changes nothing.

Examples:
  presswork check
  presswork check --offline                       the configuration alone: for a CI
  presswork --config /etc/presswork/jobs.toml check --json

Exit codes: 0 all is well, 2 the configuration is wrong, 5 the ledger or the queue isn't ready";

/// Check the configuration and the connections
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// The configuration alone
    #[arg(long)]
    offline: bool,
}

/// The longest wait for a store.
const PATIENCE: Duration = Duration::from_secs(10);

/// How one thing that was looked at is.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    Concern,
    Bad,
}

impl Finding {
    fn new(what: &'static str, verdict: Verdict, message: impl Into<String>) -> Self {
        Self {
            what,
            verdict,
            message: message.into(),
        }
    }
}

/// Runs it.
///
/// # Errors
/// When something isn't as it should be.
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let (mut findings, wrong) = configuration(cx);
    if !args.offline {
        findings.extend(patiently("ledger", ledger(cx)).await);
        findings.extend(patiently("queue", queue(cx)).await);
    }
    if cx.out.json {
        let effective: Vec<serde_json::Value> = cx
            .config
            .effective()
            .into_iter()
            .map(|(key, value, origin)| serde_json::json!({"key": key, "value": value, "origin": origin}))
            .collect();
        cx.out
            .document(&serde_json::json!({"findings": findings, "effective": effective}))?;
    } else {
        show(cx, &findings)?;
    }
    match findings.iter().any(|it| it.verdict == Verdict::Bad) {
        _ if wrong => Err(CliError::said(Exit::Usage)),
        true => Err(CliError::said(Exit::Away)),
        false => Ok(()),
    }
}

fn show(cx: &Cx, findings: &[Finding]) -> Result<(), CliError> {
    let mut table = Table::new(&["KEY", "VALUE", "SAID BY"]);
    for (key, value, origin) in cx.config.effective() {
        table.row([key.into(), value.into(), Cell::toned(Tone::Faint, origin)]);
    }
    table.print(&cx.out)?;
    cx.out.line("")?;
    for it in findings {
        let (tone, word) = match it.verdict {
            Verdict::Good => (Tone::Good, "ok     "),
            Verdict::Concern => (Tone::Warn, "concern"),
            Verdict::Bad => (Tone::Bad, "wrong  "),
        };
        cx.out.line(&format!(
            "{}  {:13}  {}",
            cx.out.paint(tone, word),
            it.what,
            plain(&it.message)
        ))?;
    }
    Ok(())
}

/// What can be said against the configuration beyond its file; whether it is wrong.
fn configuration(cx: &Cx) -> (Vec<Finding>, bool) {
    let origin = cx.config.origin.as_ref();
    let origin = origin.map_or("built-in defaults".to_owned(), |it| {
        it.display().to_string()
    });
    let all = kinds();
    let known: Vec<&str> = all.iter().map(Kind::name).collect();
    let mut findings: Vec<Finding> = cx
        .config
        .check_kinds(&known)
        .iter()
        .map(|it| Finding::new("configuration", Verdict::Bad, format!("{origin}: {it}")))
        .collect();
    for kind in &*all {
        let lane = kind.settings(&cx.config).lane;
        if !cx.config.lanes.contains_key(&lane) {
            let message = format!(
                "{} waits in lane `{lane}`, which isn't there: add [lanes.{lane}]",
                kind.name()
            );
            findings.push(Finding::new("configuration", Verdict::Bad, message));
        }
    }
    let wrong = !findings.is_empty();
    if !wrong {
        let accounts = cx.config.accounts.len();
        let message = format!("{origin}, with the secrets of {accounts} accounts");
        findings.push(Finding::new("configuration", Verdict::Good, message));
    }
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let strays = unknown_variables(names).into_iter();
    findings.extend(strays.map(|it| Finding::new("environment", Verdict::Concern, it)));
    (findings, wrong)
}

async fn patiently(what: &'static str, look: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    let late = |_| {
        let message = format!("no answer within {} s", PATIENCE.as_secs());
        vec![Finding::new(what, Verdict::Bad, message)]
    };
    tokio::time::timeout(PATIENCE, look)
        .await
        .unwrap_or_else(late)
}

async fn ledger(cx: &Cx) -> Vec<Finding> {
    let one = |verdict, message: String| vec![Finding::new("ledger", verdict, message)];
    if let Store::Sqlite(file) = &cx.config.ledger
        && !file.exists()
    {
        let message = format!(
            "{} isn't there yet: the daemon makes it when it starts, or `presswork migrate`",
            file.display()
        );
        return one(Verdict::Good, message);
    }
    let ledger = match cx.open().await {
        Ok(it) => it,
        Err(e) => return one(Verdict::Bad, e.message),
    };
    let schema = match ledger.schema().await {
        Ok(it) => it,
        Err(e) => return one(Verdict::Bad, e.to_string()),
    };
    let name = ledger.name();
    let mut findings = match (schema.found, schema.known) {
        (found, known) if found == known => {
            one(Verdict::Good, format!("{name}, schema version {found}"))
        }
        (found, known) if known < found => one(
            Verdict::Bad,
            format!(
                "{name}, schema version {found}: newer than this program's {known}; use the newer presswork that migrated it"
            ),
        ),
        (found, known) => one(
            Verdict::Concern,
            format!(
                "{name}, schema version {found}, this program's is {known}: the daemon migrates it when it starts, or `presswork migrate`"
            ),
        ),
    };
    match ledger.concerns().await {
        Ok(concerns) => findings.extend(concerns.into_iter().map(|it| {
            let verdict = if it.fatal {
                Verdict::Bad
            } else {
                Verdict::Concern
            };
            Finding::new(
                "durability",
                verdict,
                format!("{}: {}", it.setting, it.message),
            )
        })),
        Err(e) => findings.push(Finding::new("durability", Verdict::Bad, e.to_string())),
    }
    if findings.iter().all(|it| it.what == "ledger") {
        findings.push(Finding::new(
            "durability",
            Verdict::Good,
            "what is committed stays",
        ));
    }
    findings
}

async fn queue(cx: &Cx) -> Vec<Finding> {
    let one = |verdict, message: String| vec![Finding::new("queue", verdict, message)];
    let (queue, inbox) = match stores::queue(&cx.config).await {
        Ok(it) => it,
        Err(e) => return one(Verdict::Bad, format!("{e:#}")),
    };
    let mut findings = match queue.server().await {
        Ok(_) => one(Verdict::Good, queue.name().to_owned()),
        Err(e) => return one(Verdict::Bad, e.to_string()),
    };
    if let Some(inbox) = inbox {
        findings.push(match inbox.waiting().await {
            Ok(n) => Finding::new("inbox", Verdict::Good, format!("{n} entries wait")),
            Err(e) => Finding::new("inbox", Verdict::Bad, e.to_string()),
        });
    }
    findings
}
