//! Fallbacks: who does a job whose own account can't, decided anew by each attempt until something of the
//! job was permitted. From then on it stays where that is: what may have been done or paid for at one
//! provider is never done at another. Pure.

use std::collections::BTreeSet;

use chrono::Duration;
use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::config::{Account, Config, Fallback, falls_back_to};
use crate::effect::{Effect, EffectState};
use crate::gate::{Cause, Closure, Scope, Subject};
use crate::job::Job;
use crate::sabotage;

/// What is over so soon is waited for: a limit, or a budget, that has room again within that moves no job.
pub const MOMENT: Duration = Duration::seconds(30);

/// Who does a job in its own account's stead: recorded before anything is written down for that account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The account.
    pub account: String,
    /// The model that is asked there; `None`: the job's own.
    pub model: Option<String>,
    /// Why not the job's own account, for people.
    pub why: String,
}

/// Whom a job goes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// To its own account, open or not.
    Own,
    /// To another one, since its own is closed.
    Other(Choice),
    /// To this account, whatever is closed: something of the job was permitted there.
    Bound(String),
    /// To nobody now: its own account is closed, and so are all that could stand in.
    Nobody(String),
}

/// What a permit was ever given for, or what may have been sent without a trace here.
fn is_permitted(it: &Effect) -> bool {
    it.state != EffectState::Intended || 0 < it.sends || it.maybe_since.is_some()
}

/// The account at which something of a job was permitted.
pub fn bound<'a>(job: &Job, effects: &'a [Effect]) -> Option<&'a str> {
    let of = effects.iter().filter(|it| it.revision == job.revision);
    let mut permitted = of.filter(|it| is_permitted(it));
    permitted.next().map(|it| it.account.as_str())
}

/// Whether a closure moves jobs on: nobody has asked them to wait, and it isn't over in a moment.
fn moves(it: &Closure, config: &Config) -> bool {
    let Some(account) = &it.scope.account else {
        return false;
    };
    let Scope {
        platform: None,
        label: None,
        ..
    } = it.scope
    else {
        return false;
    };
    let is_long = || it.until.is_none_or(|until| MOMENT <= until - it.since);
    match it.cause {
        Cause::Account | Cause::Breaker => true,
        // what one host lacks others have
        Cause::Credentials => {
            let account = config.accounts.get(account);
            account.is_none_or(|it| it.unusable.is_none())
        }
        Cause::Learned | Cause::Budget => is_long(),
        Cause::Stop | Cause::Fallbacks => false,
    }
}

/// Whether it says something by itself, and not what follows from others.
fn stands(it: &Closure) -> bool {
    it.cause != Cause::Fallbacks
}

/// Who may stand in for an account in a kind's jobs, in order; of nobody's tenant in particular.
fn others<'a>(
    config: &'a Config,
    kind: &str,
    own: &str,
) -> impl Iterator<Item = (&'a Fallback, &'a Account)> + Clone {
    let platform = falls_back_to(kind);
    let is_one = move |it: &Account| Some(it.platform.as_str()) == platform;
    // in place of an account of another platform nobody can stand
    let fits = config.accounts.get(own).is_none_or(is_one);
    let settings = config.kinds.get(kind).filter(|_| fits);
    let all = settings.map_or(&[][..], |it| &it.fallbacks);
    let own = own.to_owned();
    all.iter()
        .filter(move |it| it.account != own)
        .filter_map(move |it| {
            let account = config.accounts.get(&it.account)?;
            (is_one(account) && account.unusable.is_none()).then_some((it, account))
        })
}

/// A job as it would be at another account.
fn at(subject: &Subject, name: &str, account: &Account) -> Subject {
    Subject {
        account: Some(name.to_owned()),
        platform: Some(account.platform.clone()),
        ..subject.clone()
    }
}

/// Whether jobs of a kind, at this account, may go to others under a configuration.
pub fn has_some(config: &Config, kind: &str, own: &str) -> bool {
    others(config, kind, own).next().is_some()
}

/// The accounts, other than `here`, that may have done a job of `own`: where the ledger lost its newest
/// commits, it lost who was chosen, too.
pub fn elsewhere(config: &Config, kind: &str, own: &str, here: &str) -> Vec<String> {
    let others = others(config, kind, own).map(|(it, _)| it.account.as_str());
    let mut all: Vec<&str> = others.collect();
    if !all.is_empty() {
        all.push(own);
    }
    all.retain(|it| *it != here);
    all.into_iter().map(str::to_owned).collect()
}

/// Whom a job goes to, by what was permitted of it and what is closed now.
pub fn decide(
    job: &Job,
    config: &Config,
    effects: &[Effect],
    closures: &[Closure],
    now: Time,
) -> Decision {
    if let Some(account) = bound(job, effects)
        && !sabotage!("fallback.bound")
    {
        return Decision::Bound(account.to_owned());
    }
    let Some(own) = job.account.as_deref() else {
        return Decision::Own;
    };
    let mut others = others(config, &job.kind, own).peekable();
    let subject = Subject::of(job, config);
    let shut = |it: &Subject| closures.iter().any(|c| stands(c) && c.shuts(it, now));
    let before = closures.iter().filter(|it| stands(it));
    let mut before = before.filter(|it| it.shuts(&subject, now));
    let Some(first) = before.next() else {
        return Decision::Own;
    };
    if others.peek().is_none()
        || ![first]
            .into_iter()
            .chain(before)
            .all(|it| moves(it, config))
    {
        return Decision::Own;
    }
    let why = first.to_string();
    let open = others.find(|(it, account)| {
        account.is_for(&job.tenant) && !shut(&at(&subject, &it.account, account))
    });
    match open {
        Some((it, _)) => Decision::Other(Choice {
            account: it.account.clone(),
            model: it.model.clone(),
            why,
        }),
        None => Decision::Nobody(why),
    }
}

/// The closures that keep a job: none of those past which it goes to another account; and where that one
/// is closed, too, what closes it.
pub fn keeping<'a>(
    job: &Job,
    config: &Config,
    effects: &[Effect],
    closures: &'a [Closure],
    now: Time,
) -> (Vec<&'a Closure>, Decision) {
    let subject = Subject::of(job, config);
    let decision = decide(job, config, effects, closures, now);
    let shut =
        |it: &Subject| -> Vec<&Closure> { closures.iter().filter(|c| c.shuts(it, now)).collect() };
    let kept = match (&decision, job.account.as_deref()) {
        (Decision::Other(_), _) => Vec::new(),
        (Decision::Own, _) | (_, None) => shut(&subject),
        (Decision::Bound(account), Some(own)) => {
            let mut kept = shut(&subject);
            if account != own {
                kept.retain(|it| !moves(it, config));
                let account = config.accounts.get_key_value(account);
                let there = account.map(|(name, it)| shut(&at(&subject, name, it)));
                kept.extend(there.unwrap_or_default());
            }
            kept
        }
        (Decision::Nobody(_), Some(own)) => {
            let mut kept = shut(&subject);
            for (it, account) in others(config, &job.kind, own) {
                kept.extend(shut(&at(&subject, &it.account, account)));
            }
            kept
        }
    };
    let mut seen = BTreeSet::new();
    let kept = kept.into_iter().filter(|it| seen.insert(it.id)).collect();
    (kept, decision)
}

/// The closures as dispatch goes by them: one that moves jobs on isn't there for the kinds and tenants of
/// which another account is open. `kinds`: those that this program knows; no others are dispatched.
pub fn standing<'a>(
    closures: impl Iterator<Item = &'a Closure> + Clone,
    config: &Config,
    kinds: &[String],
    now: Time,
) -> Vec<Closure> {
    let mut all = Vec::new();
    for it in closures.clone().filter(|it| it.is_closed(now)) {
        let own = it.scope.account.as_deref().filter(|_| moves(it, config));
        let of: Vec<&String> = match &it.scope.kind {
            Some(kind) => vec![kind],
            None => kinds.iter().collect(),
        };
        let Some(own) = own.filter(|own| of.iter().any(|kind| has_some(config, kind, own))) else {
            all.push(it.clone());
            continue;
        };
        let named = closures.clone().filter_map(|it| it.scope.tenant.as_deref());
        let tenants: BTreeSet<&str> = named.collect();
        for kind in of {
            let keeps = |tenant: Option<&str>| {
                others(config, kind, own).all(|(other, account)| {
                    tenant.is_some_and(|it| !account.is_for(it))
                        || closures
                            .clone()
                            .any(|it| covers(it, (&other.account, account), tenant, kind, now))
                })
            };
            let mut keep = |tenant: Option<&str>| {
                let mut it = it.clone();
                it.scope.kind = Some(kind.clone());
                it.scope.tenant = tenant.map(str::to_owned);
                all.push(it);
            };
            match it.scope.tenant.as_deref() {
                None if keeps(None) => keep(None),
                Some(tenant) if keeps(Some(tenant)) => keep(Some(tenant)),
                None => {
                    let tenants = tenants.iter().copied();
                    tenants
                        .filter(|it| keeps(Some(it)))
                        .for_each(|it| keep(Some(it)));
                }
                Some(_) => {}
            }
        }
    }
    all
}

/// Whether a closure stands before all jobs of a kind (and a tenant; `None`: of any) at an account.
fn covers(
    it: &Closure,
    (name, account): (&str, &Account),
    tenant: Option<&str>,
    kind: &str,
    now: Time,
) -> bool {
    let any =
        |named: &Option<String>, is: Option<&str>| named.as_deref().is_none_or(|it| Some(it) == is);
    let scope = &it.scope;
    it.is_closed(now)
        && stands(it)
        && scope.label.is_none()
        && any(&scope.account, Some(name))
        && any(&scope.platform, Some(&account.platform))
        && any(&scope.tenant, tenant)
        && any(&scope.kind, Some(kind))
}

#[cfg(test)]
mod tests;
