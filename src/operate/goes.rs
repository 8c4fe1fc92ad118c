//! To whom a job goes, and which closures and used-up budgets keep it then: for whoever explains it. Pure.

use serde::Serialize;

use super::facts::Facts;
use super::full::{Full, used_up};
use crate::clock::Time;
use crate::config::Config;
use crate::fallback::{Decision, MOMENT, decide, keeping};
use crate::gate::{Cause, Closure, Scope};
use crate::job::Job;

/// Who does a job in its own account's stead.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stead {
    /// The account.
    pub account: String,
    /// Why, in a sentence.
    pub text: String,
}

/// What keeps a job, and who does it.
pub struct Goes<'a> {
    /// What is closed.
    pub closures: Vec<Closure>,
    /// What is used up.
    pub full: Vec<Full<'a>>,
    /// Who does it, where that isn't its own account.
    pub stead: Option<Stead>,
}

/// A budget that is used up for longer than a moment closes its account, as a daemon comes to know.
fn closed(full: &[Full<'_>], account: &str, now: Time) -> Option<Closure> {
    let is_long = |it: &&Full<'_>| {
        !it.is_of_those_under_way() && it.room_at.is_none_or(|at| MOMENT <= at - now)
    };
    let it = full.iter().find(is_long)?;
    let scope = Scope::of_account(account);
    let why = format!("budget `{}` is used up", it.name);
    let closure = Closure::new(Cause::Budget, scope, ("presswork", &why), now);
    Some(Closure {
        until: it.room_at,
        ..closure
    })
}

/// Says so.
pub fn goes<'a>(facts: &'a Facts, config: &Config) -> Goes<'a> {
    let (job, effects, now) = (&facts.job, &facts.effects, facts.now);
    let full_at = |account: &str| {
        let job = Job {
            account: Some(account.to_owned()),
            ..job.clone()
        };
        used_up(&job, config, facts.known(), now)
    };
    let mut closures = facts.closures.clone();
    let mut full = used_up(job, config, facts.known(), now);
    let own = job.account.as_deref();
    closures.extend(own.and_then(|it| closed(&full, it, now)));
    // each round closes one more of those that there are
    let decision = loop {
        let decision = decide(job, config, effects, &closures, now);
        let Decision::Other(choice) = &decision else {
            break decision;
        };
        let there = full_at(&choice.account);
        let Some(closure) = closed(&there, &choice.account, now) else {
            full = there;
            break decision;
        };
        closures.push(closure);
        full.extend(there);
    };
    let stead = |account: &str, text: String| {
        Some(Stead {
            account: account.to_owned(),
            text,
        })
    };
    let stead = match &decision {
        Decision::Other(it) => {
            let text = format!("It goes to account `{}`: {}.", it.account, it.why);
            stead(&it.account, text)
        }
        Decision::Bound(it) if Some(&**it) != own => {
            full = full_at(it);
            let text = format!(
                "It stays with account `{it}`, where it went when its own was closed, and where something of it was permitted."
            );
            stead(it, text)
        }
        Decision::Own | Decision::Bound(_) | Decision::Nobody(_) => None,
    };
    let (kept, _) = keeping(job, config, effects, &closures, now);
    let told = kept.into_iter().filter(|it| it.cause != Cause::Budget);
    Goes {
        closures: told.cloned().collect(),
        full,
        stead,
    }
}
