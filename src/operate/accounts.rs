//! Accounts, as people add, renew, stop and remove them. Every door shows the same of them, and no secret.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::deed::{By, Refused};
use super::stops::{self, Hand};
use crate::account::{Credentials, Granted, Kept, Renewed, State, TEXT_MAX};
use crate::clock::Time;
use crate::config::kept::{self, Misfit};
use crate::config::{Account, Config, Home};
use crate::gate::{Cause, Closure, Scope};
use crate::job::envelope::{NAME_MAX, is_name};
use crate::json::did_you_mean;
use crate::ledger::{Audit, Filter, Ledger, LedgerError};
use crate::person::{Person, Whose, fits};
use crate::vault::Place;

/// An account that somebody else is changing is read again so often.
const TRIES: usize = 5;

/// An account as people see it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// Its platform.
    pub platform: String,
    /// Whose jobs alone may use it; `None`: everybody's.
    pub tenant: Option<String>,
    /// What people call it.
    pub label: String,
    /// Where it stands: `ledger` or `jobs.toml`.
    pub home: &'static str,
    /// How it stands.
    pub state: State,
    /// Why it stands so.
    pub why: Option<String>,
    /// Since when it stands so, where that is known.
    pub since: Option<Time>,
    /// When its credentials end, where that is known.
    pub expires_at: Option<Time>,
    /// What its credentials allow, where the platform told.
    pub scopes: Vec<String>,
    /// The `[oauth.NAME]` by which its credentials are renewed; none where only a person renews them.
    pub client: Option<String>,
    /// The key that its credentials are encrypted with; none where `jobs.toml` names them.
    pub key: Option<String>,
    /// How many credentials it has had, in the ledger.
    pub version: Option<i64>,
    /// What is set of it beside its secrets, in the ledger.
    pub settings: BTreeMap<String, String>,
    /// When it was added to the ledger.
    pub created_at: Option<Time>,
    /// Who it is at its platform, in the ledger, where that was told.
    pub person: Option<Person>,
    /// Who added it to the ledger.
    pub created_by: Option<String>,
    /// Why it isn't used on this host as it stands.
    pub problem: Option<String>,
}

fn of_ledger(it: Kept, misfits: &[Misfit]) -> Shown {
    let misfit = misfits.iter().find(|misfit| misfit.name == it.name);
    Shown {
        platform: it.platform,
        tenant: it.tenant,
        label: it.label,
        home: "ledger",
        state: it.state,
        why: it.why,
        since: Some(it.since),
        expires_at: it.expires_at,
        scopes: it.scopes,
        client: it.granted.map(|it| it.client),
        key: Some(it.sealed.key),
        version: Some(it.version),
        settings: it.settings,
        created_at: Some(it.created_at),
        person: it.person,
        created_by: Some(it.created_by),
        problem: misfit.map(|it| it.why.clone()),
        name: it.name,
    }
}

/// One of `jobs.toml` stands as its closures say.
fn of_file(name: &str, it: &Account, closures: &[Closure]) -> Shown {
    let area = Scope::of_account(name);
    let of = |cause| {
        let mut all = closures.iter();
        all.find(|it| it.cause == cause && it.scope == area)
    };
    let closed = match (of(Cause::Stop), of(Cause::Credentials)) {
        (Some(it), _) => Some((State::Paused, it)),
        (None, Some(it)) => Some((State::Attention, it)),
        (None, None) => None,
    };
    Shown {
        name: name.to_owned(),
        platform: it.platform.clone(),
        tenant: it.tenant.clone(),
        label: String::new(),
        home: "jobs.toml",
        state: closed.map_or(State::Ok, |(state, _)| state),
        why: closed
            .map(|(_, it)| it.reason.clone())
            .filter(|it| !it.is_empty()),
        since: closed.map(|(_, it)| it.since),
        expires_at: None,
        scopes: Vec::new(),
        client: None,
        key: None,
        version: None,
        settings: BTreeMap::new(),
        created_at: None,
        person: None,
        created_by: None,
        problem: None,
    }
}

/// All accounts, of `jobs.toml` and of the ledger, by name.
///
/// # Errors
/// When the ledger is away.
pub async fn all(ledger: &dyn Ledger, config: &Config) -> Result<Vec<Shown>, LedgerError> {
    let kept = ledger.accounts().await?;
    let closures = ledger.closures().await?;
    let (config, misfits) = config.with_kept(&kept);
    let of_files = config.accounts.iter().filter(|it| it.1.home == Home::File);
    let mut all: Vec<Shown> = of_files
        .map(|(name, it)| of_file(name, it, &closures))
        .collect();
    all.extend(kept.into_iter().map(|it| of_ledger(it, &misfits)));
    all.sort_by(|a, b| (&a.name, a.home).cmp(&(&b.name, b.home)));
    Ok(all)
}

/// The account of a name: where two have it, the one that holds.
///
/// # Errors
/// When there is none.
pub async fn one(ledger: &dyn Ledger, config: &Config, name: &str) -> Result<Shown, Refused> {
    let all = all(ledger, config).await?;
    let names: Vec<String> = all.iter().map(|it| it.name.clone()).collect();
    // `jobs.toml` comes before `ledger`
    let found = all.into_iter().find(|it| it.name == name);
    found.ok_or_else(|| missing(name, names.iter().map(String::as_str)))
}

fn missing<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Refused {
    let near = did_you_mean(name, names);
    Refused::Missing(format!(
        "there is no account `{name}`{near}; `presswork accounts list` shows those there are"
    ))
}

async fn of_name(ledger: &dyn Ledger, config: &Config, name: &str) -> Result<Kept, Refused> {
    if let Some(it) = ledger.account(name).await? {
        return Ok(it);
    }
    if config
        .accounts
        .get(name)
        .is_some_and(|it| it.home == Home::File)
    {
        return Err(Refused::Unfit(format!(
            "account `{name}` stands in jobs.toml: change it there, then `presswork reload`"
        )));
    }
    let all = ledger.accounts().await?;
    Err(missing(name, all.iter().map(|it| it.name.as_str())))
}

fn audit(action: &str, what: String, by: &By, at: Time) -> Audit {
    Audit {
        actor: by.actor.clone(),
        action: action.to_owned(),
        job: None,
        detail: match by.reason.as_str() {
            "" => what,
            reason => format!("{what}: {reason}"),
        },
        at,
    }
}

/// An account as it is wanted.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its platform.
    pub platform: String,
    /// Whose jobs alone may use it.
    pub tenant: Option<String>,
    /// What people call it.
    pub label: String,
    /// What `jobs.toml` would say of it beside its secrets.
    pub settings: BTreeMap<String, String>,
    /// What its credentials allow, where that is known.
    pub scopes: Vec<String>,
    /// When its credentials end, where that is known.
    pub expires_at: Option<Time>,
    /// Who it is at its platform, where that was told.
    pub person: Option<Person>,
}

/// Credentials that are to take the place of an account's.
#[derive(Clone, Debug)]
pub struct Others<'a> {
    /// They themselves.
    pub credentials: &'a Credentials,
    /// What they allow, where that is known.
    pub scopes: &'a [String],
    /// When they end, where that is known.
    pub expires_at: Option<Time>,
    /// Whose they are.
    pub whose: Whose,
    /// Also where they are somebody else's, or may be.
    pub insists: bool,
}

fn check(wanted: &Wanted) -> Result<(), String> {
    let is = format!("1 to {NAME_MAX} letters, digits and . _ - @ : / +");
    if !is_name(&wanted.name) {
        return Err(format!("an account's name has {is}"));
    }
    if wanted.tenant.as_deref().is_some_and(|it| !is_name(it)) {
        return Err(format!("a tenant's name has {is}"));
    }
    let label = &wanted.label;
    if TEXT_MAX < label.chars().count() || label.contains(char::is_control) {
        return Err(format!(
            "a label has at most {TEXT_MAX} characters, on one line"
        ));
    }
    Ok(())
}

/// Whether an account may be made as it is wanted, as far as names go.
///
/// # Errors
/// What is wrong with them, or that `jobs.toml` has one of its name.
pub fn check_new(config: &Config, wanted: &Wanted) -> Result<(), Refused> {
    check(wanted).map_err(Refused::Unfit)?;
    let name = &wanted.name;
    let held = config.accounts.get(name);
    match held.is_some_and(|it| it.home == Home::File) {
        false => Ok(()),
        true => Err(Refused::Unfit(format!(
            "account `{name}` stands in jobs.toml, which holds: take it out there first, then `presswork reload`"
        ))),
    }
}

/// Adds an account to the ledger, its credentials encrypted; `config` is with its accounts or without.
///
/// # Errors
/// When it doesn't fit together, its name is taken, or there is no key.
pub async fn add(
    ledger: &dyn Ledger,
    config: &Config,
    wanted: Wanted,
    credentials: &Credentials,
    by: &By,
) -> Result<Kept, Refused> {
    check_new(config, &wanted)?;
    let name = wanted.name.clone();
    kept::account(&name, &wanted.platform, &wanted.settings, credentials)
        .map_err(Refused::Unfit)?;
    let place = Place::credentials(&name);
    let sealed = config.vault.seal(place, &credentials.to_json());
    let sealed = sealed.map_err(|e| Refused::Unfit(e.to_string()))?;
    let now = ledger.now().await?;
    let kept = Kept {
        name: name.clone(),
        platform: wanted.platform,
        tenant: wanted.tenant,
        label: wanted.label,
        settings: wanted.settings,
        sealed,
        version: 1,
        edition: 0,
        scopes: wanted.scopes,
        expires_at: wanted.expires_at,
        state: State::Ok,
        why: None,
        since: now,
        turn: None,
        granted: granted(config, credentials, now)?,
        person: wanted.person,
        created_at: now,
        created_by: by.actor.clone(),
    };
    let tenant = kept.tenant.as_ref();
    let tenant = tenant.map_or(String::new(), |it| format!(", tenant {it}"));
    let what = format!("{name} ({}{tenant})", kept.platform);
    if !ledger
        .add_account(&kept, &audit("account.add", what, by, now))
        .await?
    {
        return Err(Refused::Unfit(format!(
            "there is an account `{name}` in the ledger already: give it other credentials by `presswork accounts renew {name}`, or take another name"
        )));
    }
    // one of this name that stood in jobs.toml may have been parked
    ledger
        .open(Cause::Credentials, &Scope::of_account(&name), None)
        .await?;
    let found = ledger.account(&name).await?;
    found.ok_or_else(|| Refused::Unfit(format!("account `{name}` was removed by somebody else")))
}

/// What renews these credentials, as they say.
fn granted(
    config: &Config,
    credentials: &Credentials,
    now: Time,
) -> Result<Option<Granted>, Refused> {
    let unfit = |told: String| Err(Refused::Unfit(told));
    match (&credentials.client, &credentials.refresh_token) {
        (None, None) => Ok(None),
        (None, Some(_)) => unfit(
            "refresh_token: nothing says which app it was given to; name it beside it: \"client\": the NAME of an [oauth.NAME] in jobs.toml".to_owned(),
        ),
        (Some(name), _) if config.oauth.contains_key(name) => {
            Ok(Some(Granted::new(name.clone(), now)))
        }
        (Some(name), _) => {
            let near = did_you_mean(name, config.oauth.keys().map(String::as_str));
            unfit(format!("client: there is no [oauth.{name}] in jobs.toml{near}"))
        }
    }
}

/// Writes what `change` makes of an account, whoever else changes it at the same time.
pub(super) async fn put(
    ledger: &dyn Ledger,
    config: &Config,
    name: &str,
    (action, by): (&str, &By),
    change: impl Fn(Kept) -> Result<Option<Kept>, Refused> + Send,
) -> Result<bool, Refused> {
    for _ in 0..TRIES {
        let was = of_name(ledger, config, name).await?;
        let Some(is) = change(was.clone())? else {
            return Ok(false);
        };
        let audit = audit(action, name.to_owned(), by, ledger.now().await?);
        if ledger.put_account(&was, &is, Some(&audit)).await?.is_some() {
            return Ok(true);
        }
    }
    Err(Refused::Unfit(format!(
        "account `{name}` is being changed by others; try again"
    )))
}

/// Gives an account other credentials of the same person: its jobs go on by themselves, unless it is paused.
/// What isn't said anew beside the secret (an access key's id, what call-backs are signed with) stays.
///
/// # Errors
/// When there is no such account in the ledger, they don't fit it, or there is no key.
pub async fn renew(
    ledger: &dyn Ledger,
    config: &Config,
    name: &str,
    others: Others<'_>,
    by: &By,
) -> Result<Kept, Refused> {
    let granted = granted(config, others.credentials, ledger.now().await?)?;
    let change = |was: Kept| {
        // compared with what is written over: whoever else learns of a person, or changes it, is heard
        let person = fits(name, was.person.as_ref(), &others.whose, others.insists);
        let person = person.map_err(Refused::Unfit)?;
        let mut credentials = others.credentials.clone();
        if let Ok(before) = kept::opened(&config.vault, &was) {
            credentials.access_key_id = credentials.access_key_id.or(before.access_key_id);
            credentials.webhook_secret = credentials.webhook_secret.or(before.webhook_secret);
            credentials.previous_secret = credentials.previous_secret.or(before.previous_secret);
        }
        kept::account(name, &was.platform, &was.settings, &credentials).map_err(Refused::Unfit)?;
        let sealed = config
            .vault
            .seal(Place::credentials(name), &credentials.to_json());
        let sealed = sealed.map_err(|e| Refused::Unfit(e.to_string()))?;
        let is = was.renewed(Renewed {
            sealed,
            scopes: others.scopes.to_vec(),
            expires_at: others.expires_at,
            granted: granted.clone(),
        });
        Ok(Some(Kept { person, ..is }))
    };
    put(ledger, config, name, ("account.renew", by), change).await?;
    of_name(ledger, config, name).await
}

/// Stops an account's jobs, on all hosts, until it is resumed; whether it wasn't before.
///
/// # Errors
/// When there is no such account.
pub async fn pause(
    ledger: &dyn Ledger,
    config: &Config,
    name: &str,
    by: &By,
) -> Result<bool, Refused> {
    let before = one(ledger, config, name).await?;
    if before.home == "ledger" {
        let why = Some(by.reason.clone()).filter(|it| !it.is_empty());
        let change = |was: Kept| {
            let is_new = was.state != State::Paused;
            Ok(is_new.then(|| was.standing(State::Paused, why.clone())))
        };
        return put(ledger, config, name, ("account.pause", by), change).await;
    }
    let (actor, reason) = (&by.actor, &by.reason);
    stops::stop(ledger, Scope::of_account(name), Hand { actor, reason }).await?;
    Ok(before.state != State::Paused)
}

/// Lets an account's jobs go on, whether a person stopped them or its credentials were refused; whether
/// they were stopped.
///
/// # Errors
/// When there is no such account.
pub async fn resume(
    ledger: &dyn Ledger,
    config: &Config,
    name: &str,
    by: &By,
) -> Result<bool, Refused> {
    one(ledger, config, name).await?;
    let (actor, reason) = (&by.actor, &by.reason);
    let hand = Hand { actor, reason };
    let opened = stops::go_on(ledger, (None, &Scope::of_account(name)), hand).await?;
    Ok(!opened.is_empty())
}

/// Forgets an account of the ledger, its credentials with it.
///
/// # Errors
/// When there is no such account there, or unfinished jobs name it and nobody insists.
pub async fn remove(
    ledger: &dyn Ledger,
    config: &Config,
    name: &str,
    force: bool,
    by: &By,
) -> Result<(), Refused> {
    of_name(ledger, config, name).await?;
    let unfinished = crate::lifecycle::State::ALL.iter().copied();
    let filter = Filter {
        states: unfinished.filter(|it| !it.is_terminal()).collect(),
        account: Some(name.to_owned()),
        limit: 1,
        ..Filter::default()
    };
    let job = ledger.jobs(&filter).await?.into_iter().next();
    if let Some(job) = job.filter(|_| !force) {
        return Err(Refused::Unfit(format!(
            "unfinished jobs name account `{name}` (job {}, for one): end them first (`presswork jobs list --account {name}`), or insist by --force, and they wait for an account of that name",
            job.id
        )));
    }
    let audit = audit("account.remove", name.to_owned(), by, ledger.now().await?);
    match ledger.remove_account(name, &audit).await? {
        true => Ok(()),
        false => Err(missing(name, [])),
    }
}

/// What encrypting anew did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rotated {
    /// The key that encrypts.
    pub key: String,
    /// Accounts that were encrypted with another one, and are with this one now.
    pub rotated: Vec<String>,
    /// Accounts that were encrypted with it already.
    pub before: usize,
    /// Accounts that couldn't be, and why.
    pub failed: BTreeMap<String, String>,
    /// Keys of `[vault]` that nothing is encrypted with any more.
    pub unused: Vec<String>,
}

/// Encrypts all credentials with the first key, one account after the other; `told` hears of each. Begun
/// again it goes on with the rest.
///
/// # Errors
/// When there is no key, or the ledger is away: what was done stays.
pub async fn rotate(
    ledger: &dyn Ledger,
    config: &Config,
    by: &By,
    told: impl Fn(usize, usize) + Send,
) -> Result<Rotated, Refused> {
    let nothing = |e: &dyn std::fmt::Display| Refused::Unfit(e.to_string());
    let key = config.vault.first();
    let key = key
        .ok_or_else(|| nothing(&crate::vault::Unsealed::NoKey))?
        .to_owned();
    let all = ledger.accounts().await?;
    let mut rotated = Rotated {
        key: key.clone(),
        ..Rotated::default()
    };
    for (n, it) in all.iter().enumerate() {
        told(n, all.len());
        let change = |was: Kept| {
            if was.sealed.key == key {
                return Ok(None);
            }
            let place = Place::credentials(&was.name);
            let plain = config
                .vault
                .open(place, &was.sealed)
                .map_err(|e| nothing(&e))?;
            let sealed = config.vault.seal(place, &plain).map_err(|e| nothing(&e))?;
            Ok(Some(Kept { sealed, ..was }))
        };
        match put(ledger, config, &it.name, ("account.rotate", by), change).await {
            Ok(true) => rotated.rotated.push(it.name.clone()),
            Ok(false) => rotated.before += 1,
            Err(Refused::Ledger(e)) => return Err(e.into()),
            // removed meanwhile
            Err(Refused::Missing(_)) => {}
            Err(e) => {
                rotated.failed.insert(it.name.clone(), e.to_string());
            }
        }
    }
    let now = ledger.accounts().await?;
    let used: BTreeSet<&str> = now.iter().map(|it| it.sealed.key.as_str()).collect();
    let ids = config.vault.ids().skip(1).filter(|it| !used.contains(it));
    rotated.unused = ids.map(str::to_owned).collect();
    Ok(rotated)
}
