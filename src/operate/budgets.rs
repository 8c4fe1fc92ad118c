//! Budgets, as people see and change them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::outlook::{Backlog, Outlook};
use super::paces::{Pace, paces};
use super::stops::Hand;
use crate::budget::{Budget, Change, Counted, Form, Key, Uses, changed, micros, money};
use crate::clock::Time;
use crate::config::Config;
use crate::handler::Kind;
use crate::json::did_you_mean;
use crate::ledger::{Audit, Ledger, LedgerError};

/// A part of a budget.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// The budget's name.
    pub budget: String,
    /// Whose part it is; empty: everybody's together.
    pub whose: String,
    /// What it allows, for people.
    pub allows: String,
    /// Its form's word.
    pub form: &'static str,
    /// What counts now: requests; of money millionths of `currency`.
    pub used: u64,
    /// Of that, what is reserved for sends of which nobody knows yet what they cost.
    pub reserved: u64,
    /// How much is allowed.
    pub most: u64,
    /// What money is counted in; `None`: it isn't money.
    pub currency: Option<String>,
    /// When one more request fits, if none does now.
    pub room_at: Option<Time>,
    /// When it begins anew (calendars), or the first of what counts runs out (rolling windows).
    pub frees_at: Option<Time>,
    /// What becomes of the jobs that ask for it; `None`: nobody is known to.
    pub outlook: Option<Outlook>,
    /// A platform publishes it.
    pub built_in: bool,
    /// What a person changed of it.
    pub changed: Option<Change>,
}

/// What holds jobs of these kinds back, and how it stands.
#[derive(Clone, Debug, Serialize)]
pub struct Limits {
    /// Every part of the budgets, as they hold now, that anything was counted in, and those that nothing
    /// was; with what becomes of the jobs that ask for them.
    pub budgets: Vec<Part>,
    /// The accounts of which something is overdue, or went out lately at their pace.
    pub paces: Vec<Pace>,
    /// The ledger's time when it was read.
    pub now: Time,
}

/// Reads it.
///
/// # Errors
/// When the ledger is away.
pub async fn limits(
    ledger: &dyn Ledger,
    config: &Config,
    kinds: &[Kind],
) -> Result<Limits, LedgerError> {
    let (counted, now) = (ledger.all_counted().await?, ledger.now().await?);
    let changes = ledger.budget_changes().await?;
    let budgets = changed(&config.budgets, &changes, now);
    let backlog = Backlog::read(ledger, kinds).await?;
    let part = |budget: &Budget, it: &Counted, change: Option<&Change>| {
        let whose = (budget, it.key.whose.as_str());
        let outlook = backlog.of(whose, &it.uses, (config, kinds), now);
        Part {
            outlook,
            ..part(budget, it, change, now)
        }
    };
    let known: BTreeSet<&str> = counted.iter().map(|it| it.key.name.as_str()).collect();
    let mut parts = Vec::new();
    for (name, budget) in &budgets {
        let change = changes.iter().find(|it| it.name == *name);
        let used = counted.iter().filter(|it| it.key.name == *name);
        parts.extend(used.map(|it| part(budget, it, change)));
        if !known.contains(name.as_str()) {
            let key = Key {
                name: name.clone(),
                whose: String::new(),
            };
            let unused = Counted {
                key,
                version: 0,
                uses: Uses::default(),
            };
            parts.push(part(budget, &unused, change));
        }
    }
    Ok(Limits {
        budgets: parts,
        paces: paces(backlog.waiting(), &counted, config, now),
        now,
    })
}

fn part(budget: &Budget, it: &Counted, change: Option<&Change>, now: Time) -> Part {
    let room_at = it.uses.fits_at(&budget.form, budget.amount, now);
    Part {
        budget: it.key.name.clone(),
        whose: it.key.whose.clone(),
        allows: budget.form.to_string(),
        form: budget.form.word(),
        used: it.uses.used(&budget.form, now),
        reserved: it.uses.reserved(&budget.form, now),
        currency: match budget.form {
            Form::Spend { currency, .. } => Some(currency.to_string()),
            _ => None,
        },
        most: budget.form.most(),
        room_at: (now < room_at).then_some(room_at),
        frees_at: it.uses.frees_at(&budget.form, now),
        outlook: None,
        built_in: budget.published,
        changed: change.cloned(),
    }
}

/// What a person may not change, and what to write instead.
///
/// # Errors
/// There is no such budget.
pub fn known(said: &BTreeMap<String, Budget>, name: &str) -> Result<(), String> {
    if said.contains_key(name) {
        return Ok(());
    }
    let near = did_you_mean(name, said.keys().map(String::as_str));
    let all: Vec<&str> = said.keys().map(String::as_str).collect();
    Err(format!(
        "there is no budget `{name}`{near}; there are: {}",
        all.join(", ")
    ))
}

/// As `jobs.toml` bounds a budget that counts requests.
const MOST_MAX: u64 = 1_000_000_000;
/// And one that counts money, in millionths.
const MONEY_MAX: u64 = 1_000_000_000_000_000;

/// How much a budget of this name is to allow, as a person wrote it: requests (`10`), or money (`20.00`).
///
/// # Errors
/// What to write instead.
pub fn most(said: &BTreeMap<String, Budget>, name: &str, text: &str) -> Result<u64, String> {
    let is_money = said.get(name).is_some_and(|it| it.form.is_money());
    let (read, max, wanted) = match is_money {
        true => {
            let wanted = "an amount of money above 0, such as 20.00, at most 1000000000";
            (micros(text), MONEY_MAX, wanted)
        }
        false => (
            text.parse().ok(),
            MOST_MAX,
            "a whole number, 1 to 1000000000",
        ),
    };
    let fits = read.filter(|it| (1..=max).contains(it));
    fits.ok_or_else(|| format!("`{text}`: {wanted}"))
}

impl Part {
    /// An amount of it, for people.
    pub fn amount(&self, it: u64) -> String {
        match self.currency {
            Some(_) => money(it),
            None => it.to_string(),
        }
    }
}

/// Changes how much a budget allows, on all hosts, until `until` or until it is taken back.
///
/// # Errors
/// When the ledger is away.
pub async fn set(
    ledger: &dyn Ledger,
    (name, most): (&str, u64),
    lasts: Option<chrono::Duration>,
    hand: Hand<'_>,
) -> Result<Change, LedgerError> {
    let at = ledger.now().await?;
    let change = Change {
        name: name.to_owned(),
        most,
        reason: hand.reason.to_owned(),
        actor: hand.actor.to_owned(),
        at,
        until: lasts.map(|it| at + it),
    };
    let what = format!("{name}: {most}");
    ledger
        .change_budget(&change, &audit(hand, "budget", &what, at))
        .await?;
    Ok(change)
}

/// Takes the change of a budget back; whether there was one.
///
/// # Errors
/// When the ledger is away.
pub async fn reset(ledger: &dyn Ledger, name: &str, hand: Hand<'_>) -> Result<bool, LedgerError> {
    let at = ledger.now().await?;
    let audit = audit(hand, "budget", &format!("{name}: as jobs.toml says"), at);
    ledger.restore_budget(name, &audit).await
}

fn audit(hand: Hand<'_>, action: &str, what: &str, at: Time) -> Audit {
    Audit {
        actor: hand.actor.to_owned(),
        action: action.to_owned(),
        job: None,
        detail: match hand.reason {
            "" => what.to_owned(),
            reason => format!("{what}: {reason}"),
        },
        at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Currency, Every, Per};

    fn said() -> BTreeMap<String, Budget> {
        let money = Form::Spend {
            most: 1,
            currency: Currency::USD,
            every: Every::Day,
            zone: chrono_tz::Tz::UTC,
        };
        let posts = Form::Concurrency { most: 1 };
        let of = |name: &str, form| (name.to_owned(), Budget::of_all(form, Per::All));
        BTreeMap::from([of("money", money), of("posts", posts)])
    }

    #[test]
    fn another_number_is_read_by_what_its_budget_counts() {
        let all = said();
        for (name, text, read) in [
            ("posts", "1", Some(1)),
            ("posts", "1000000000", Some(MOST_MAX)),
            ("posts", "1000000001", None),
            ("posts", "0", None),
            ("posts", "-5", None),
            ("posts", "1.5", None),
            ("posts", "20.00", None),
            ("posts", "ten", None),
            ("posts", "", None),
            ("posts", "18446744073709551616", None),
            ("money", "20", Some(20_000_000)),
            ("money", "20.00", Some(20_000_000)),
            ("money", "0.000001", Some(1)),
            ("money", "0.0000001", None),
            ("money", "0", None),
            ("money", "-1.00", None),
            ("money", "1000000000", Some(MONEY_MAX)),
            ("money", "1000000000.01", None),
            ("money", "much", None),
            ("money", "", None),
        ] {
            let told = most(&all, name, text);
            assert_eq!(told.as_ref().ok().copied(), read, "{name} {text}: {told:?}");
            let Err(told) = told else { continue };
            // what was wrong, and what to write instead
            assert!(told.starts_with(&format!("`{text}`: ")), "{told}");
            let advice = match name {
                "money" => "such as 20.00",
                _ => "a whole number, 1 to 1000000000",
            };
            assert!(told.contains(advice), "{told}");
        }
    }
}
