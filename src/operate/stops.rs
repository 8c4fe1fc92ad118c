//! Stopping, and going on: scopes are closed and opened by people, and what a stop came too late for is
//! told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::account::State;
use crate::clock::Time;
use crate::config::Config;
use crate::config::words::PLATFORMS;
use crate::effect::{Effect, EffectId, EffectState};
use crate::gate::{Cause, Closure, Scope, Subject};
use crate::job::JobId;
use crate::json::did_you_mean;
use crate::ledger::{Audit, Ledger, LedgerError, Run};

/// Who stops, or lets go on, and why.
#[derive(Clone, Copy, Debug)]
pub struct Hand<'a> {
    /// A person's login, or a token's name.
    pub actor: &'a str,
    /// The reason given.
    pub reason: &'a str,
}

impl Hand<'_> {
    fn audit(self, action: &str, scope: &Scope, at: Time) -> Audit {
        Audit {
            actor: self.actor.to_owned(),
            action: action.to_owned(),
            job: None,
            detail: match self.reason {
                "" => scope.to_string(),
                reason => format!("{scope}: {reason}"),
            },
            at,
        }
    }
}

/// A call that had its permit before a stop.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slipped {
    /// The effect.
    pub effect: EffectId,
    /// Its job.
    pub job: JobId,
    /// What is done: `mastodon.status`.
    pub op: String,
    /// For which account; empty where it has none.
    pub account: String,
    /// When it was permitted, by the ledger's clock.
    pub permitted_at: Option<Time>,
    /// The host that sends it.
    pub host: String,
    /// Where it stands: `sending` until it is known how it ended.
    pub state: EffectState,
    /// Where it can be seen.
    pub url: Option<String>,
}

impl Slipped {
    /// Whether it isn't known yet how it ended.
    pub fn is_open(&self) -> bool {
        self.state == EffectState::Sending
    }
}

/// A scope that a person may stop, as it is written down.
///
/// # Errors
/// What is wrong with it, and what to write instead: a name that nothing here has would stop nothing.
pub fn checked(scope: Scope, config: &Config) -> Result<Scope, String> {
    scope.check()?;
    if let Some(platform) = &scope.platform
        && !PLATFORMS.contains(&platform.as_str())
    {
        let near = did_you_mean(platform, PLATFORMS);
        let all = PLATFORMS.join(", ");
        return Err(format!(
            "there is no platform `{platform}`{near}; there are: {all}"
        ));
    }
    let Some(account) = &scope.account else {
        return Ok(scope);
    };
    let names = || config.accounts.keys().map(String::as_str);
    match (config.accounts.get(account), &scope.platform) {
        (None, _) => {
            let near = did_you_mean(account, names());
            Err(format!(
                "there is no account `{account}`, in jobs.toml or in the ledger{near}"
            ))
        }
        (Some(it), Some(platform)) if it.platform != *platform => Err(format!(
            "account `{account}` is one of {}, so nothing is both; leave the platform out",
            it.platform
        )),
        _ => Ok(scope),
    }
}

/// Stops a scope that was [`checked`]: once this returns no permit is given within it, on any host.
///
/// # Errors
/// When the ledger is away.
pub async fn stop(
    ledger: &dyn Ledger,
    scope: Scope,
    hand: Hand<'_>,
) -> Result<Closure, LedgerError> {
    let now = ledger.now().await?;
    let audit = hand.audit("stop", &scope, now);
    let closure = Closure::new(Cause::Stop, scope, (hand.actor, hand.reason), now);
    ledger.close(&closure, true, Some(&audit)).await
}

/// An account that somebody else is changing is read again so often.
const TRIES: usize = 5;

/// Lets a scope go on that was closed for a cause; whether it was. An account of the ledger stands well
/// then, if it stood so for this.
///
/// # Errors
/// When the ledger is away.
pub async fn go(
    ledger: &dyn Ledger,
    (cause, scope): (Cause, &Scope),
    hand: Hand<'_>,
) -> Result<bool, LedgerError> {
    let audit = hand.audit("go", scope, ledger.now().await?);
    let stood = match cause {
        Cause::Stop => Some(State::Paused),
        Cause::Credentials => Some(State::Attention),
        _ => None,
    };
    if let (Some(name), Some(stood)) = (only_account(scope), stood) {
        for _ in 0..TRIES {
            let was = ledger.account(name).await?;
            let Some(was) = was.filter(|it| it.state == stood) else {
                break;
            };
            let is = was.clone().standing(State::Ok, None);
            if ledger.put_account(&was, &is, Some(&audit)).await?.is_some() {
                return Ok(true);
            }
        }
    }
    ledger.open(cause, scope, Some(&audit)).await
}

/// The account that a scope names, where it names nothing else.
fn only_account(scope: &Scope) -> Option<&str> {
    let name = scope.account.as_deref()?;
    let others = scope.parts().into_iter().filter(|(_, it)| it.is_some());
    (others.count() == 1).then_some(name)
}

/// Lets a scope go on: for this cause, else for what a person can be asked of, which is a stop, and refused
/// credentials where an account is named. What it was closed for; empty: it wasn't.
///
/// # Errors
/// When the ledger is away.
pub async fn go_on(
    ledger: &dyn Ledger,
    (cause, scope): (Option<Cause>, &Scope),
    hand: Hand<'_>,
) -> Result<Vec<Cause>, LedgerError> {
    let causes = match (cause, only_account(scope)) {
        (Some(it), _) => vec![it],
        (None, Some(_)) => vec![Cause::Stop, Cause::Credentials],
        (None, None) => vec![Cause::Stop],
    };
    let mut opened = Vec::new();
    for cause in causes {
        if go(ledger, (cause, scope), hand).await? {
            opened.push(cause);
        }
    }
    Ok(opened)
}

/// Lets all go on that people stopped; what that was.
///
/// # Errors
/// When the ledger is away.
pub async fn go_all(ledger: &dyn Ledger, hand: Hand<'_>) -> Result<Vec<Closure>, LedgerError> {
    let mut opened = Vec::new();
    for closure in ledger.closures().await? {
        if closure.cause == Cause::Stop && go(ledger, (Cause::Stop, &closure.scope), hand).await? {
            opened.push(closure);
        }
    }
    Ok(opened)
}

/// The command that opens a closure.
pub fn command(closure: &Closure) -> String {
    let mut command = "presswork go".to_owned();
    for (part, named) in closure.scope.parts() {
        if let Some(named) = named {
            command.push_str(&format!(" --{part} {}", shell(named)));
        }
    }
    if !matches!(closure.cause, Cause::Stop | Cause::Credentials) {
        command.push_str(&format!(" --cause {}", closure.cause));
    }
    command
}

/// A word for a shell.
pub fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A permit whose statement had begun before the stop is seen by then.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// Between looks at what is being sent, at first and later.
const EVERY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));

/// What a stop came too late for: the calls within its scope that had their permit, in the order of their
/// permits. Waits until it is known how each ended, for at most `wait`; a look takes half a second.
///
/// # Errors
/// When the ledger is away.
pub async fn slipped(
    ledger: &dyn Ledger,
    config: &Config,
    scope: &Scope,
    wait: Duration,
) -> Result<Vec<Slipped>, LedgerError> {
    let mut watch = Watch {
        ledger,
        config,
        scope,
        seen: BTreeMap::new(),
        others: BTreeSet::new(),
    };
    let began = Instant::now();
    loop {
        watch.look().await?;
        let past = began.elapsed();
        let over = watch.seen.values().all(|it| !it.is_open());
        if UNDER_WAY <= past && (over || wait <= past) {
            break;
        }
        let every = if past < UNDER_WAY { EVERY.0 } else { EVERY.1 };
        tokio::time::sleep(every).await;
    }
    let mut slipped: Vec<Slipped> = watch.seen.into_values().collect();
    slipped.sort_by_key(|it| (it.permitted_at, it.effect.0));
    Ok(slipped)
}

struct Watch<'a> {
    ledger: &'a dyn Ledger,
    config: &'a Config,
    scope: &'a Scope,
    seen: BTreeMap<EffectId, Slipped>,
    /// What is sent, and isn't in the scope.
    others: BTreeSet<EffectId>,
}

impl Watch<'_> {
    async fn look(&mut self) -> Result<(), LedgerError> {
        let mut sending = BTreeSet::new();
        for run in self.ledger.live_runs().await? {
            for effect in self.ledger.sending(run.id).await? {
                sending.insert(effect.id);
                if !self.seen.contains_key(&effect.id) && !self.others.contains(&effect.id) {
                    self.found(&run, effect).await?;
                }
            }
        }
        let gone = |it: &&mut Slipped| it.is_open() && !sending.contains(&it.effect);
        for it in self.seen.values_mut().filter(gone) {
            let effects = self.ledger.effects(it.job).await?;
            if let Some(now) = effects.into_iter().find(|e| e.id == it.effect) {
                it.state = now.state;
                it.url = now.receipt.and_then(|it| it.url);
            }
        }
        Ok(())
    }

    async fn found(&mut self, run: &Run, effect: Effect) -> Result<(), LedgerError> {
        let job = self.ledger.job(effect.job).await?;
        let fits = job.is_some_and(|it| self.scope.fits(&Subject::of(&it, self.config)));
        if !fits {
            self.others.insert(effect.id);
            return Ok(());
        }
        let slipped = Slipped {
            effect: effect.id,
            job: effect.job,
            op: effect.op,
            account: effect.account,
            permitted_at: effect.permit_at,
            host: run.host.clone(),
            state: effect.state,
            url: None,
        };
        self.seen.insert(slipped.effect, slipped);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        serde_json::from_str(text).expect("a scope")
    }

    #[test]
    fn words_are_pasted_as_they_are() {
        assert_eq!(
            shell("target/release/presswork"),
            "target/release/presswork"
        );
        assert_eq!(shell("a b"), "'a b'");
        assert_eq!(shell("it's"), r"'it'\''s'");
    }

    #[test]
    fn the_command_that_opens_a_closure_can_be_pasted() {
        let of = |cause, text| {
            let closure = Closure::new(cause, scope(text), ("ada", ""), Time::UNIX_EPOCH);
            command(&closure)
        };
        assert_eq!(of(Cause::Stop, "{}"), "presswork go");
        assert_eq!(
            of(
                Cause::Stop,
                r#"{"label": "book=Dune II", "tenant": "acme"}"#
            ),
            "presswork go --tenant acme --label 'book=Dune II'"
        );
        assert_eq!(
            of(Cause::Credentials, r#"{"account": "studio"}"#),
            "presswork go --account studio"
        );
        assert_eq!(
            of(Cause::Breaker, r#"{"account": "studio"}"#),
            "presswork go --account studio --cause breaker"
        );
    }

    #[test]
    fn a_name_that_stops_nothing_is_refused() {
        let mut config = Config::default_embedded(std::path::Path::new("/nowhere"));
        let url = url::Url::parse("https://example.com").expect("a URL");
        let account = crate::config::Account::at("mastodon", url);
        config.accounts.insert("studio".to_owned(), account);
        for (text, said) in [
            (r#"{"platform": "mastodn"}"#, "did you mean `mastodon`"),
            (r#"{"account": "studo"}"#, "did you mean `studio`"),
            (
                r#"{"account": "studio", "platform": "x"}"#,
                "nothing is both",
            ),
            (r#"{"tenant": ""}"#, "the tenant is empty"),
        ] {
            let wrong = checked(scope(text), &config).expect_err(text);
            assert!(wrong.contains(said), "{wrong}");
        }
        let good = scope(r#"{"account": "studio", "platform": "mastodon"}"#);
        assert_eq!(checked(good.clone(), &config), Ok(good));
        assert_eq!(checked(Scope::default(), &config), Ok(Scope::default()));
    }
}
