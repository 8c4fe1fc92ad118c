//! `presswork check`: the configuration, the connections, and (with `--ping`) the platforms.

use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::acl;
use super::cx::{Cx, kinds};
use super::out::{Cell, CliError, Exit, Table, Tone, plain};
use super::trial;
use crate::clock::stamp;
use crate::config::{Account, Home, Store, keys, shown_key, unknown_variables};
use crate::handler::Kind;
use crate::inbox::place;
use crate::ledger::Ledger;
use crate::outcome::{Class, Failure};
use crate::platform;
use crate::stores;
use crate::telemetry::redact;

const AFTER: &str = "\
Checks the whole configuration first (every mistake with its line and column), with all references
to secrets; then asks the ledger and the queue; with --ping every account's platform, too: one read
as the account, which costs nothing. It changes nothing, and no secret is shown.

Examples:
  presswork check
  presswork check --ping                          before a deploy, and after a secret was renewed
  presswork check --offline                       the configuration alone: for a CI
  presswork --config /etc/presswork/jobs.toml check --json
  presswork check --print-acl                     users for Redis and PostgreSQL, to be pasted there

Exit codes: 0 all is well, 2 the configuration is wrong, 5 the ledger or the queue isn't ready,
1 a platform can't be reached or refuses an account (--ping)";

/// Check the configuration and the connections
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// The configuration alone
    #[arg(long)]
    offline: bool,
    /// Ask the platform of every account, too
    #[arg(long, conflicts_with = "offline")]
    ping: bool,
    /// Print who may do what: users of Redis, and the role of PostgreSQL, with the least that works
    #[arg(long, conflicts_with_all = ["offline", "ping"])]
    print_acl: bool,
}

/// The longest wait for a store, and for a platform.
const PATIENCE: Duration = Duration::from_secs(10);

/// A takeover is told for as long as it is among so many lines of the audit.
const AUDIT: u32 = 200;

/// How one thing that was looked at is.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    verdict: Verdict,
    message: String,
    /// How an account is: `ok`, `unauthorised`, `unreachable`, `throttled`, `unfit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    Concern,
    Bad,
}

impl Finding {
    fn new(what: impl Into<String>, verdict: Verdict, message: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            verdict,
            message: redact::text(&message.into()).into_owned(),
            account: None,
        }
    }
}

/// Runs it.
///
/// # Errors
/// When something isn't as it should be.
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    if args.print_acl {
        return acl::print(cx);
    }
    let (mut findings, wrong) = configuration(cx);
    if !args.offline {
        findings.extend(patiently("ledger", ledger(cx)).await);
        findings.extend(patiently("queue", queue(cx)).await);
    }
    let away = findings.iter().any(|it| it.verdict == Verdict::Bad);
    if args.ping {
        findings.extend(accounts(cx).await?);
    }
    if cx.out.json {
        let effective: Vec<serde_json::Value> = cx
            .config
            .effective()
            .into_iter()
            .map(|(key, value, origin)| serde_json::json!({"key": key, "value": value, "bounds": keys::bounds(&key), "origin": origin}))
            .collect();
        cx.out
            .document(&serde_json::json!({"findings": findings, "effective": effective}))?;
    } else {
        show(cx, &findings)?;
    }
    match findings.iter().any(|it| it.verdict == Verdict::Bad) {
        _ if wrong => Err(CliError::said(Exit::Usage)),
        true if away => Err(CliError::said(Exit::Away)),
        true => Err(CliError::said(Exit::Failed)),
        false => Ok(()),
    }
}

fn show(cx: &Cx, findings: &[Finding]) -> Result<(), CliError> {
    let mut table = Table::new(&["KEY", "VALUE", "BOUNDS", "SAID BY"]);
    for (key, value, origin) in cx.config.effective() {
        let bounds = keys::bounds(&key);
        let (bounds, origin) = (
            Cell::toned(Tone::Faint, bounds),
            Cell::toned(Tone::Faint, origin),
        );
        table.row([key.into(), value.into(), bounds, origin]);
    }
    table.print(&cx.out)?;
    cx.out.line("")?;
    let widest = findings.iter().map(|it| it.what.len()).max();
    let widest = widest.unwrap_or(0).max("configuration".len());
    for it in findings {
        let (tone, word) = match it.verdict {
            Verdict::Good => (Tone::Good, "ok     "),
            Verdict::Concern => (Tone::Warn, "concern"),
            Verdict::Bad => (Tone::Bad, "wrong  "),
        };
        cx.out.line(&format!(
            "{}  {:widest$}  {}",
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
    for (name, command) in &cx.config.commands {
        if let Some(why) = cannot_run(&command.program) {
            let key = format!("commands.{}.program", shown_key(name));
            findings.push(Finding::new(key, Verdict::Bad, why));
        }
    }
    let wrong = !findings.is_empty();
    let accounts = cx.config.accounts.iter();
    let unheard =
        accounts.filter(|it| it.1.webhook_secret.is_some() && cx.config.api.listen.is_none());
    findings.extend(unheard.map(|(name, _)| {
        let key = format!("accounts.{}.webhook_secret", shown_key(name));
        let message = "nobody can call back while api.listen is \"off\"; work is only asked about";
        Finding::new(key, Verdict::Concern, message)
    }));
    if !cx.config.tenants.is_empty() && matches!(cx.config.queue, Store::Memory) {
        let message = "without a Redis (queue.url) no tenant has an inbox of its own; the Redis port ([resp]) takes presswork:inbox:TENANT of any";
        findings.push(Finding::new("inbox.tenants", Verdict::Concern, message));
    }
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

/// Why a program can't be run, as far as it shows.
fn cannot_run(program: &Path) -> Option<String> {
    let shown = program.display();
    match std::fs::metadata(program) {
        Err(e) => Some(format!("{shown} can't be found: {e}")),
        Ok(it) if !it.is_file() => Some(format!("{shown} is no file")),
        Ok(it) if it.permissions().mode() & 0o111 == 0 => {
            Some(format!("{shown} may not be executed: chmod +x {shown}"))
        }
        Ok(_) => None,
    }
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
    if schema.found == schema.known {
        findings.extend(takeover(&*ledger).await);
    }
    if findings.iter().all(|it| it.what == "ledger") {
        findings.push(Finding::new(
            "durability",
            Verdict::Good,
            "what is committed stays",
        ));
    }
    if schema.found == schema.known {
        findings.extend(misfits(cx, &*ledger).await);
    }
    findings
}

/// The ledger's accounts that aren't used here as they stand.
async fn misfits(cx: &Cx, ledger: &dyn Ledger) -> Vec<Finding> {
    let kept = match ledger.accounts().await {
        Ok(it) => it,
        Err(e) => return vec![Finding::new("accounts", Verdict::Bad, e.to_string())],
    };
    let (_, misfits) = cx.config.with_kept(&kept);
    let found = misfits.into_iter().map(|it| {
        let key = format!("accounts.{}", shown_key(&it.name));
        Finding::new(key, Verdict::Concern, it.why)
    });
    found.collect()
}

/// That another server took the ledger over, and what is known to be lost.
async fn takeover(ledger: &dyn Ledger) -> Option<Finding> {
    let history = match ledger.history().await {
        Ok(it) => it?,
        Err(e) => return Some(Finding::new("takeover", Verdict::Bad, e.to_string())),
    };
    if history.is_held() {
        let hosts: Vec<&str> = history.silent.iter().map(|it| it.host.as_str()).collect();
        let waits = match hosts.as_slice() {
            [] => "as soon as a daemon runs and all had time to".to_owned(),
            hosts => format!("when {} told, or were waited for", hosts.join(", ")),
        };
        let message = format!(
            "another server took the ledger over (timeline {}, before {}): nothing is sent until the hosts have told what they sent, {waits}",
            history.current, history.permitted
        );
        return Some(Finding::new("takeover", Verdict::Concern, message));
    }
    history.fork?;
    let audit = ledger.audit(None, AUDIT).await.ok()?;
    let told = audit.into_iter().find(|it| it.action == "promotion")?;
    let message = format!("{}: {}", stamp(told.at), told.detail);
    Some(Finding::new("takeover", Verdict::Concern, message))
}

async fn queue(cx: &Cx) -> Vec<Finding> {
    let one = |verdict, message: String| vec![Finding::new("queue", verdict, message)];
    let (queue, inboxes) = match stores::queue(&cx.config).await {
        Ok(it) => it,
        Err(e) => return one(Verdict::Bad, format!("{e:#}")),
    };
    let mut findings = match queue.server().await {
        Ok(_) => one(Verdict::Good, queue.name().to_owned()),
        Err(e) => return one(Verdict::Bad, e.to_string()),
    };
    for inbox in inboxes {
        let place = place(&*inbox);
        findings.push(match inbox.waiting().await {
            Ok(n) => Finding::new(place, Verdict::Good, format!("{n} entries wait")),
            Err(e) => Finding::new(place, Verdict::Bad, e.to_string()),
        });
    }
    findings
}

/// Asks the platform of every account, all at once.
async fn accounts(cx: &Cx) -> Result<Vec<Finding>, CliError> {
    let http = trial::http(cx)?;
    // a ledger that is away was told; then those of the file are asked alone
    let _ = cx.ledger().await;
    let asked = cx.known().accounts.iter().map(|(name, account)| {
        let http = &http;
        async move {
            let key = format!("accounts.{}", shown_key(name));
            let found = match &account.unusable {
                None => platform::ping(http, account, PATIENCE).await,
                Some(why) => Err(Failure::permanent("unusable", why.clone())),
            };
            let (word, verdict, message) = match found {
                Ok(found) => {
                    let message = format!("{} takes it: {}", account.platform, found.told);
                    ("ok", Verdict::Good, message)
                }
                Err(e) => refused(cx, &key, account, &e),
            };
            Finding {
                account: Some(word),
                ..Finding::new(key, verdict, format!("{word}: {message}"))
            }
        }
    });
    Ok(futures_util::future::join_all(asked).await)
}

/// What is wrong with an account, and what to do about it.
fn refused(cx: &Cx, key: &str, account: &Account, e: &Failure) -> (&'static str, Verdict, String) {
    let at = |name: &str| {
        let place = format!("{key}.{name}");
        let effective = cx.config.effective();
        let said = effective.into_iter().find(|it| it.0 == place);
        said.map_or(place.clone(), |(_, _, origin)| {
            format!("{place} ({origin})")
        })
    };
    let address = match account.base_url.scheme() {
        "file" => "folder",
        _ => "base_url",
    };
    let (word, verdict, advice) = match e.class {
        Class::Unauthorised if address == "folder" => (
            "unauthorised",
            Verdict::Bad,
            format!(
                "make {} and let the daemon's user write there",
                at("folder")
            ),
        ),
        _ if account.unusable.is_some() => (
            "unfit",
            Verdict::Bad,
            "`presswork accounts show` says more of it".to_owned(),
        ),
        Class::Unauthorised if account.home != Home::File => (
            "unauthorised",
            Verdict::Bad,
            "make a new secret there, and give it by `presswork accounts renew`".to_owned(),
        ),
        Class::Unauthorised => (
            "unauthorised",
            Verdict::Bad,
            format!(
                "make a new secret there, put it where {} names it, then `presswork reload`",
                at("secret")
            ),
        ),
        Class::Throttled => (
            "throttled",
            Verdict::Concern,
            "it is there, and asks to be left alone for a while: ask again later".to_owned(),
        ),
        Class::Permanent => (
            "unfit",
            Verdict::Bad,
            format!(
                "is {} the address of a {} server?",
                at(address),
                account.platform
            ),
        ),
        _ => (
            "unreachable",
            Verdict::Bad,
            format!(
                "look at {}, at this host's DNS, and at what stands between",
                at(address)
            ),
        ),
    };
    (word, verdict, format!("{}; {advice}", e.message))
}
