//! Accounts whose credentials are refused: parked, so that their jobs keep their places and nothing more is
//! sent, until a person, or what renews them, has put others in their place.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use uuid::Uuid;

use super::accounts::{self, ACTOR, audit};
use super::renewing::is_renewable;
use super::rounds::rounds;
use super::shared::Shared;
use crate::account::{Granted, Kept, State};
use crate::config::{Account, Home};
use crate::gate::{Cause, Closure, Scope as Area};
use crate::job::Job;
use crate::ledger::{Attempt, LedgerError, Result};
use crate::outcome::{Class, Failure, Outcome};
use crate::telemetry::redact;

/// How often the ledger is asked whether any account was changed: with what that takes, below the second
/// that is promised.
const EVERY: Duration = Duration::from_millis(500);
/// A job that was refused so often in a row, whatever was done about its account in between, is what is
/// refused: it waits by itself, and keeps nobody else back any more.
const REFUSALS_MAX: usize = 5;
/// An account that somebody else is changing is read again so often.
const TRIES: usize = 5;

/// Parks the account that an attempt `used`, whose credentials were refused. How the attempt ended, then:
/// back to its place, at no charge. Credentials that were renewed meanwhile are tried instead. `None`: the job
/// waits for a person by itself, since it is what is refused, or since the ledger couldn't park the account.
pub async fn park(
    shared: &Shared,
    job: &Job,
    (name, used): (&str, &Account),
    failure: Failure,
) -> Option<Outcome> {
    if is_refused_by_itself(shared, job).await {
        return None;
    }
    let why = redact::text(&failure.to_string()).into_owned();
    let parked = match used.home {
        Home::File => of_file(shared, (name, used), &why).await,
        Home::Ledger { version } => of_ledger(shared, (name, version), &why).await,
    };
    let reason = match parked {
        Ok(Parked::Renewing) => {
            tracing::warn!(
                account = name,
                "its credentials are refused, its jobs wait while others are asked for: {why}"
            );
            why
        }
        Ok(Parked::Person) => {
            tracing::error!(
                account = name,
                "its credentials are refused, its jobs wait: {why}"
            );
            why
        }
        Ok(Parked::Others) => {
            format!("its credentials were renewed since they were refused ({why})")
        }
        Err(e) => {
            tracing::warn!(account = name, "it couldn't be parked: {e}; {why}");
            return None;
        }
    };
    Some(Outcome::Shut {
        reason,
        failure: Some(failure),
    })
}

/// What became of an account whose credentials were refused.
enum Parked {
    /// It waits for a person.
    Person,
    /// It waits for what renews it.
    Renewing,
    /// Others are in the place of those that were refused by now.
    Others,
}

async fn is_refused_by_itself(shared: &Shared, job: &Job) -> bool {
    // a ledger that can't say parks nothing either
    let attempts = shared.ledger.attempts(job.id).await.unwrap_or_default();
    let refused = |it: &&Attempt| {
        let failure = it.failure.as_ref();
        failure.is_some_and(|it| it.class == Class::Unauthorised)
    };
    // one that came to what was closed meanwhile says nothing of it
    let answered = attempts.iter().rev().filter(|it| it.failure.is_some());
    REFUSALS_MAX <= 1 + answered.take_while(refused).count()
}

/// Parks an account of `jobs.toml`.
async fn of_file(shared: &Shared, (name, used): (&str, &Account), why: &str) -> Result<Parked> {
    let salt = Uuid::new_v4().simple().to_string();
    let mark = used.mark(&salt[..8]);
    let config = shared.config.load_full();
    if config
        .accounts
        .get(name)
        .is_some_and(|it| it.was_renewed_since(&mark))
    {
        return Ok(Parked::Others);
    }
    let closure = Closure {
        refused: Some(mark),
        ..Closure::new(
            Cause::Credentials,
            Area::of_account(name),
            (ACTOR, why),
            shared.now(),
        )
    };
    shared.ledger.close(&closure, false, None).await?;
    Ok(Parked::Person)
}

/// As [`of_file`], of credentials of this version. Where something renews them that is due at once.
async fn of_ledger(shared: &Shared, (name, version): (&str, i64), why: &str) -> Result<Parked> {
    for _ in 0..TRIES {
        let Some(was) = shared.ledger.account(name).await? else {
            return Ok(Parked::Others);
        };
        if was.version != version {
            // what comes back must find the new ones here
            accounts::learn(shared).await?;
            return Ok(Parked::Others);
        }
        match was.state {
            State::Attention => return Ok(Parked::Person),
            State::Paused => {
                let closure = Closure::new(
                    Cause::Credentials,
                    Area::of_account(name),
                    (ACTOR, why),
                    shared.now(),
                );
                shared.ledger.close(&closure, false, None).await?;
                return Ok(Parked::Person);
            }
            State::Ok | State::Refreshing => {}
        }
        let renewable = is_renewable(&shared.config.load(), &was);
        let (is, audit, parked) = match renewable {
            true => (refused(was.clone(), why), None, Parked::Renewing),
            false => {
                let is = was.clone().standing(State::Attention, Some(why.to_owned()));
                let audit = audit("account.refused", name, why, shared);
                (is, Some(audit), Parked::Person)
            }
        };
        if shared
            .ledger
            .put_account(&was, &is, audit.as_ref())
            .await?
            .is_some()
        {
            // who renews it begins at once; else within a second
            if let Err(e) = accounts::learn(shared).await {
                tracing::debug!("accounts: {e}");
            }
            return Ok(parked);
        }
    }
    Err(LedgerError::Away(
        "others are changing the account".to_owned(),
    ))
}

/// Its jobs wait until it is renewed; who is at it already goes on.
fn refused(was: Kept, why: &str) -> Kept {
    let turn = was.turn;
    let is = was.standing(State::Refreshing, Some(why.to_owned()));
    let granted = is.granted.clone().map(|it| Granted {
        refused: true,
        ..it
    });
    Kept {
        turn,
        granted,
        ..is
    }
}

/// Lets go the accounts of `jobs.toml` that were parked with other secrets than it names by now. Done once
/// after each start and each reload: a host that has the old ones still mustn't be let try again and again.
///
/// # Errors
/// When the ledger is away: the next call does it.
pub async fn renewed(shared: &Shared) -> Result<()> {
    if !shared.accounts.anew.load(Ordering::SeqCst) {
        return Ok(());
    }
    let config = shared.config.load_full();
    shared.accounts.anew.store(false, Ordering::SeqCst);
    let done = let_go(shared, &config).await;
    if done.is_err() {
        shared.accounts.anew.store(true, Ordering::SeqCst);
    }
    done
}

async fn let_go(shared: &Shared, config: &crate::config::Config) -> Result<()> {
    for closure in shared.ledger.closures().await? {
        let (Cause::Credentials, Some(mark)) = (closure.cause, &closure.refused) else {
            continue;
        };
        let Some(name) = closure.scope.account.as_deref() else {
            continue;
        };
        let account = config.accounts.get(name);
        let is_new = |it: &&Account| it.home == Home::File && it.was_renewed_since(mark);
        if account.filter(is_new).is_none() {
            continue;
        }
        let audit = audit("go", name, "jobs.toml names other credentials", shared);
        if shared
            .ledger
            .open(closure.cause, &closure.scope, Some(&audit))
            .await?
        {
            tracing::info!(
                account = name,
                "its credentials were renewed: its jobs go on"
            );
        }
    }
    Ok(())
}

/// The loop that learns of accounts.
pub struct Learner {
    shared: Arc<Shared>,
}

impl Learner {
    /// The loop.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// One round.
    ///
    /// # Errors
    /// When the ledger is away.
    pub async fn tick(&self) -> Result<()> {
        accounts::learn(&self.shared).await?;
        renewed(&self.shared).await
    }

    /// Ticks until the daemon has ended.
    pub async fn run(&self) {
        rounds(EVERY, "accounts", || self.tick()).await;
    }
}
