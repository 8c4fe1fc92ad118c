//! The accounts that the ledger keeps, beside those of `jobs.toml`: what people add, renew and take away
//! holds on all hosts within a second.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::heard::Seen;
use super::shared::Shared;
use crate::config::Config;
use crate::config::kept::Misfit;
use crate::fair::Fair;
use crate::gate::{Cause, Closure, Scope as Area};
use crate::ledger::{Audit, Result};

/// Who closes, parks and lets go here, for people.
pub const ACTOR: &str = "presswork";

/// Takes a configuration over that was read anew, with the accounts that are known of the ledger.
pub fn reload(shared: &Shared, config: &Config) {
    let mut seen = shared.accounts.seen();
    let (config, misfits) = config.with_kept(&seen.kept);
    tell(&seen.misfits, &misfits);
    seen.misfits = misfits;
    hold(shared, config);
    shared.accounts.anew.store(true, Ordering::SeqCst);
}

/// Asks the ledger, and takes over what was changed; whether anything was.
///
/// # Errors
/// When the ledger is away.
pub async fn learn(shared: &Shared) -> Result<bool> {
    let mut known = shared.accounts.edition.lock().await;
    let edition = shared.ledger.accounts_edition().await?;
    if *known == Some(edition) {
        return Ok(false);
    }
    let kept = shared.ledger.accounts().await?;
    let is_new = known.is_some() || !kept.is_empty();
    if is_new {
        let mut seen = shared.accounts.seen();
        let (config, misfits) = shared.config.load().with_kept(&kept);
        tell(&seen.misfits, &misfits);
        *seen = Seen { kept, misfits };
        hold(shared, config);
    }
    *known = Some(edition);
    Ok(is_new)
}

/// Swaps the configuration; what can't be used here is shut here, and nothing else is.
fn hold(shared: &Shared, config: Config) {
    shared.fair.store(Arc::new(Fair::of(&config)));
    let config = Arc::new(config);
    let was = shared.config.swap(config.clone());
    shared.accounts.renewed(&was, &config);
    let unusable = config.accounts.iter();
    let closures = unusable.filter_map(|(name, it)| {
        let area = Area {
            account: Some(name.clone()),
            ..Area::default()
        };
        let why = it.unusable.as_deref()?;
        Some(Closure::new(
            Cause::Credentials,
            area,
            (ACTOR, why),
            shared.now(),
        ))
    });
    shared.shut_here(Cause::Credentials, closures.collect());
}

/// What was done to an account here.
pub fn audit(action: &str, name: &str, why: &str, shared: &Shared) -> Audit {
    Audit {
        actor: ACTOR.to_owned(),
        action: action.to_owned(),
        job: None,
        detail: format!("{name}: {why}"),
        at: shared.now(),
    }
}

/// Each is told once, until it is another.
fn tell(before: &[Misfit], now: &[Misfit]) {
    for Misfit {
        name,
        why,
        is_shadowed,
    } in now.iter().filter(|it| !before.contains(it))
    {
        match is_shadowed {
            true => tracing::warn!(account = name, "the ledger's account isn't used: {why}"),
            false => tracing::error!(account = name, "its jobs wait on this host: {why}"),
        }
    }
    let gone = before
        .iter()
        .filter(|it| !now.iter().any(|is| is.name == it.name));
    for it in gone {
        tracing::info!(
            account = it.name,
            "what stood against the ledger's account is gone"
        );
    }
}
