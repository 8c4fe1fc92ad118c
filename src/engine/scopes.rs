//! Scopes: what an attempt's end means beyond its job. A limit that a platform told of closes the
//! account, its app or its server for all hosts; a server that fails gets its breaker; a platform that
//! restricts an account closes it until a person has been there.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::parked;
use super::rounds::rounds;
use super::shared::Shared;
use crate::breaker::{Action, Event};
use crate::clock::Time;
use crate::config::{Account, Config};
use crate::gate::{Cause, Closure, Scope as Area};
use crate::job::Job;
use crate::ledger::Result;
use crate::outcome::{Class, Failure, Held, Outcome, POLICY, Scope};
use crate::platform;
use crate::platform::gate::BUDGET;
use crate::platform::http::HELD;
use crate::platform::limits::{Heard, Learned};
use crate::telemetry::{metrics, redact};

/// Who closes and opens here, for people.
const ACTOR: &str = "presswork";
/// How often breakers are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// What a probe may take: less than [`crate::breaker::PROBE`], whatever it asks first.
const PROBE: Duration = Duration::from_secs(5);
/// Somebody looks again at a budget that is used up at the latest after this.
const USED_UP: chrono::Duration = chrono::Duration::seconds(30);
/// The wait for a budget of which nobody knows when it has room.
const SECOND: chrono::Duration = chrono::Duration::seconds(1);
/// A platform that says "too many" and not until when is asked again after this.
const THROTTLED: chrono::Duration = chrono::Duration::seconds(30);

/// What hears the answers to a job's requests, and holds them back while its account is to be quiet.
pub fn ear(shared: &Shared, account: Option<&str>) -> Arc<Heard> {
    Arc::new(match account {
        Some(account) => Heard::of(account, shared.quiet.clone()),
        None => Heard::default(),
    })
}

/// Runs an attempt of a job, whose configuration is `began`, and whose requests `heard` hears: what is learned on its way is acted on at
/// once. How it ended, as it counts: where the fault isn't the job's, it isn't charged.
pub async fn attended(
    shared: &Shared,
    (job, began): (&Job, &Config),
    heard: &Heard,
    attempt: impl Future<Output = Outcome>,
) -> Outcome {
    let mut attempt = pin!(attempt);
    let outcome = loop {
        tokio::select! {
            biased;
            done = &mut attempt => break done,
            () = heard.learned() => learn(shared, job.account.as_deref(), heard).await,
        }
    };
    learn(shared, job.account.as_deref(), heard).await;
    let config = shared.config.load_full();
    let outcome = used_up(shared, job, &config, outcome);
    let account = job.account.as_deref();
    let Some((name, account)) = account.and_then(|it| config.accounts.get_key_value(it)) else {
        return outcome;
    };
    let used = began.accounts.get(name);
    let outcome = match (&outcome, used) {
        (Outcome::Failed(it), Some(used)) if is_refused(it, used) => {
            let failure = it.clone();
            parked::park(shared, job, (name, used), failure)
                .await
                .unwrap_or(outcome)
        }
        _ => judged(shared, name, outcome).await,
    };
    counted(shared, account, heard, outcome).await
}

/// Where a budget is used up, jobs like this one stay where they are on this host, until it has room.
/// Other hosts come to it by themselves.
fn used_up(shared: &Shared, job: &Job, config: &Config, outcome: Outcome) -> Outcome {
    let failure = match outcome {
        Outcome::Failed(it) if it.code == BUDGET => it,
        other => return other,
    };
    let now = shared.now();
    let area = Area {
        account: job.account.clone(),
        tenant: Some(job.tenant.clone()),
        kind: Some(job.kind.clone()),
        ..Area::default()
    };
    // what is given back, here or by another host, may make room before
    let wait = failure.retry_after().unwrap_or(SECOND).min(USED_UP);
    let closure = Closure::new(Cause::Budget, area, (ACTOR, &failure.message), now);
    // a place may be kept for what was scheduled: it is tried for itself
    let closure = match job.wanted_at() {
        None => closure.sparing_planned(),
        Some(_) => closure,
    };
    shared.shut.close(closure.until(now + wait), config, now);
    Outcome::shut(failure.to_string())
}

/// Whether the platform refuses the account's credentials: it is parked, and none of its jobs is. A folder
/// has none: what this host may not write to is no other's matter.
fn is_refused(failure: &Failure, used: &Account) -> bool {
    failure.class == Class::Unauthorised
        && !POLICY.contains(&failure.code.as_str())
        && used.base_url.scheme() != "file"
}

/// Acts on what was learned of an account since the last time.
pub async fn learn(shared: &Shared, account: Option<&str>, heard: &Heard) {
    let Some(account) = account else { return };
    let ahead = shared.ahead();
    for Learned { scope, until, why } in heard.take() {
        close(
            shared,
            Cause::Learned,
            (account, scope),
            Some(until + ahead),
            &why,
        )
        .await;
    }
}

/// Closes what a failure says, and holds the job where only a person can let it go on.
async fn judged(shared: &Shared, account: &str, outcome: Outcome) -> Outcome {
    let Some(failure) = outcome.failure().cloned() else {
        return outcome;
    };
    let why = redact::text(&failure.to_string()).into_owned();
    if POLICY.contains(&failure.code.as_str()) {
        close(
            shared,
            Cause::Account,
            (account, Scope::Account),
            None,
            &why,
        )
        .await;
        return match failure.class {
            // it may have been done: that is looked at first
            Class::Unknown => outcome,
            _ => Outcome::Held(Held::Policy, failure),
        };
    }
    match (failure.class, failure.scope) {
        // waiting doesn't help: somebody has to pay
        (Class::Permanent, Scope::App) => {
            close(shared, Cause::Account, (account, Scope::App), None, &why).await;
            Outcome::Held(Held::Budget, failure)
        }
        (Class::Throttled, scope @ (Scope::Account | Scope::App | Scope::Platform)) => {
            let until = shared.now() + failure.retry_after().unwrap_or(THROTTLED);
            let until = Some(until);
            match close(shared, Cause::Learned, (account, scope), until, &why).await {
                true => Outcome::Shut {
                    reason: why,
                    failure: Some(failure),
                },
                false => outcome,
            }
        }
        // it wasn't sent: others had heard that nothing may be
        (Class::Throttled, Scope::Handler) if failure.code == HELD => Outcome::shut(why),
        _ => outcome,
    }
}

/// Tells the breaker of the account's server. A failure while it is open already is nobody's attempt.
async fn counted(shared: &Shared, account: &Account, heard: &Heard, outcome: Outcome) -> Outcome {
    let lost = |it: &Failure| matches!(it.class, Class::Transient | Class::Unknown);
    let event = match (&outcome, heard.works()) {
        (Outcome::Completed(_), Some(_)) => Event::Succeeded,
        (Outcome::Failed(it) | Outcome::Unresolved(it), Some(false)) if lost(it) => Event::Failed,
        _ => return outcome,
    };
    let server = account.server();
    // all is well, as nearly always
    if event == Event::Succeeded && shared.breakers.get(&server).is_clean() {
        return outcome;
    }
    let why = redact::text(&outcome.to_string()).into_owned();
    let told = tell(shared, &server, event, &why).await;
    let open = match told {
        Ok((until, actions)) if actions.is_empty() => until,
        Ok(_) => None,
        Err(e) => {
            tracing::debug!("breaker of {server}: {e}");
            None
        }
    };
    match (open, outcome) {
        (Some(until), Outcome::Failed(it)) if it.class == Class::Transient => Outcome::Snoozed {
            until,
            reason: it.to_string(),
        },
        (_, outcome) => outcome,
    }
}

/// Tells a breaker what happened, and acts on what follows, but for a probe. Until when nothing goes, and
/// what follows.
async fn tell(
    shared: &Shared,
    server: &str,
    event: Event,
    why: &str,
) -> Result<(Option<Time>, Vec<Action>)> {
    let config = shared.config.load_full();
    let now = shared.now();
    let ledger = &*shared.ledger;
    let told = shared
        .breakers
        .happened(ledger, server, event, (now, &config.breaker));
    let (breaker, actions) = told.await?;
    for action in &actions {
        match action {
            Action::Shut(until) => {
                if event == Event::Failed {
                    metrics::breaker_opened(server);
                    tracing::warn!(server, "its breaker opens: {why}");
                }
                for name in accounts_of(&config, server) {
                    put(shared, Cause::Breaker, name, Some(*until), why).await;
                }
            }
            Action::Admit => {
                tracing::info!(server, "its breaker closes: it answers");
                for name in accounts_of(&config, server) {
                    let area = Area::of_account(name);
                    if let Err(e) = ledger.open(Cause::Breaker, &area, None).await {
                        tracing::warn!("{area} couldn't be opened: {e}; it is in a moment");
                    }
                }
            }
            Action::Probe => {}
        }
    }
    Ok((breaker.shut_until(), actions))
}

fn accounts_of<'a>(config: &'a Config, wanted: &str) -> Vec<&'a str> {
    let accounts = config.accounts.iter();
    let same = accounts.filter(|(_, it)| it.server() == wanted);
    same.map(|(name, _)| name.as_str()).collect()
}

/// The accounts that a failure of one of them concerns.
fn concerned<'a>(config: &'a Config, of: &'a str, scope: Scope) -> Vec<&'a str> {
    let Some(one) = config.accounts.get(of) else {
        return vec![];
    };
    let is = |it: &Account| match scope {
        Scope::Platform => true,
        Scope::App => it.app == one.app,
        Scope::Account | Scope::Content | Scope::Handler => false,
    };
    let others = accounts_of(config, &one.server()).into_iter();
    others
        .filter(|it| *it == of || is(&config.accounts[*it]))
        .collect()
}

/// Closes the accounts of a scope; whether the ledger knows that they are.
async fn close(
    shared: &Shared,
    cause: Cause,
    (of, scope): (&str, Scope),
    until: Option<Time>,
    why: &str,
) -> bool {
    let config = shared.config.load_full();
    let mut all = true;
    for account in concerned(&config, of, scope) {
        all &= put(shared, cause, account, until, why).await;
    }
    all
}

async fn put(shared: &Shared, cause: Cause, account: &str, until: Option<Time>, why: &str) -> bool {
    let now = shared.now();
    if let Some(until) = until {
        let here = shared.clock.now();
        shared.quiet.heard(account, until - (now - here), here);
    }
    let closure = Closure {
        until,
        ..Closure::new(cause, Area::of_account(account), (ACTOR, why), now)
    };
    match shared.ledger.close(&closure, false, None).await {
        Ok(it) => {
            tracing::info!("{} is closed ({cause}): {why}", it.scope);
            true
        }
        Err(e) => {
            tracing::warn!(
                "account `{account}` couldn't be closed: {e}; its next answer says so again"
            );
            false
        }
    }
}

/// What is closed for the requests of this host's attempts, by the ledger's word: by limits and breakers.
/// What a person stopped lets an attempt that runs come to its end.
pub fn quiet(shared: &Shared, closures: &[Closure]) {
    let ahead = shared.ahead();
    let mut accounts: HashMap<String, Time> = HashMap::new();
    for it in closures {
        let machine = matches!(it.cause, Cause::Learned | Cause::Breaker);
        let (Some(account), Some(until), true) = (&it.scope.account, it.until, machine) else {
            continue;
        };
        let until = until - ahead;
        let held = accounts.entry(account.clone()).or_insert(until);
        *held = until.max(*held);
    }
    shared.quiet.told(accounts);
}

/// The loop that asks servers whose breaker is open whether they work again.
pub struct Prober {
    shared: Arc<Shared>,
}

impl Prober {
    /// The loop.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Ticks until the daemon has ended.
    pub async fn run(&self) {
        rounds(EVERY, "breakers", || self.tick()).await;
    }

    /// One round: each server whose time has come is asked once, by one host.
    ///
    /// # Errors
    /// When the ledger is away.
    pub async fn tick(&self) -> Result<()> {
        self.shared.breakers.refresh(&*self.shared.ledger).await?;
        let shut = self.shared.breakers.shut();
        let looked = shut.iter().map(|it| self.look(it));
        join_all(looked).await.into_iter().collect()
    }

    async fn look(&self, server: &str) -> Result<()> {
        let config = self.shared.config.load_full();
        // whom this host doesn't know another one asks
        let Some(name) = accounts_of(&config, server).first().copied() else {
            return Ok(());
        };
        let why = "it is asked whether it works again";
        let (_, actions) = tell(&self.shared, server, Event::Looked, why).await?;
        if !actions.contains(&Action::Probe) {
            return Ok(());
        }
        let http = &self.shared.tools.http;
        let works = platform::works(http, &config.accounts[name], PROBE).await;
        let why = "it was asked, and doesn't work yet";
        tell(&self.shared, server, Event::Probed(works), why).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_concerns_whoever_shares_its_scope() {
        let mut config = Config::default_embedded(std::path::Path::new("/nowhere"));
        for (name, platform, url, app) in [
            ("a", "x", "https://api.x.com", None),
            ("b", "x", "https://api.x.com", None),
            ("c", "x", "https://api.x.com", Some("other")),
            ("d", "mastodon", "https://one.example", None),
            ("e", "mastodon", "https://two.example", None),
        ] {
            let url = url::Url::parse(url).unwrap();
            let app = app.map(str::to_owned);
            let account = Account {
                app,
                ..Account::at(platform, url)
            };
            config.accounts.insert(name.to_owned(), account);
        }
        for (of, scope, all) in [
            ("a", Scope::Account, &["a"][..]),
            ("a", Scope::App, &["a", "b"]),
            ("c", Scope::App, &["c"]),
            ("a", Scope::Platform, &["a", "b", "c"]),
            ("d", Scope::Platform, &["d"]),
            ("gone", Scope::Platform, &[]),
        ] {
            assert_eq!(concerned(&config, of, scope), all, "{of} {scope}");
        }
        assert_eq!(
            config.accounts["d"].server(),
            "mastodon at https://one.example"
        );
    }
}
