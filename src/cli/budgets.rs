//! `presswork budgets`: how much may be done of what, and how much of it is used.

use std::collections::BTreeSet;

use serde::Serialize;

use super::cx::Cx;
use super::out::{Cell, CliError, Table, Tone, plain};
use crate::budget::{Budget, Counted, Key, Uses};
use crate::clock::{Time, when};

const AFTER: &str = "\
A budget that counts each account (tenant, platform, kind, operation) apart has a line for each that has
used something of it. What platforms publish of their limits is built in; [budgets] of jobs.toml changes it,
adds to it, or turns it off.

Examples:
  presswork budgets
  presswork budgets --json

Exit codes: 0 done, 2 asked wrongly, 5 ledger away";

/// Budgets: what may be done, and how much of it is used
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {}

/// A part of a budget, as it is listed.
#[derive(Serialize)]
struct Listed {
    budget: String,
    /// Whose part it is; empty: everybody's together.
    whose: String,
    /// What it allows, for people.
    allows: String,
    form: &'static str,
    used: u64,
    most: u64,
    /// When one more request fits, if none does now.
    room_at: Option<Time>,
    /// A platform publishes it.
    built_in: bool,
}

/// Runs it.
///
/// # Errors
/// See [`CliError`].
pub async fn run(cx: &Cx, _args: Args) -> Result<(), CliError> {
    let ledger = cx.ledger().await?;
    let (counted, now) = (ledger.all_counted().await?, ledger.now().await?);
    let known: BTreeSet<&str> = counted.iter().map(|it| it.key.name.as_str()).collect();
    let mut listed = Vec::new();
    for (name, budget) in &cx.config.budgets {
        let parts = counted.iter().filter(|it| it.key.name == *name);
        listed.extend(parts.map(|it| part(budget, it, now)));
        if !known.contains(name.as_str()) {
            let unused = Counted {
                key: Key {
                    name: name.clone(),
                    whose: String::new(),
                },
                version: 0,
                uses: Uses::default(),
            };
            listed.push(part(budget, &unused, now));
        }
    }
    if cx.out.json {
        return cx.out.document(&listed);
    }
    let mut table = Table::new(&["BUDGET", "OF", "ALLOWS", "USED", "", ""]);
    for it in &listed {
        let full = it
            .room_at
            .map(|at| format!("used up: room again {}", when(at, now)));
        table.row(vec![
            plain(&it.budget).as_str().into(),
            plain(&it.whose).as_str().into(),
            it.allows.as_str().into(),
            Cell::number(format!("{} of {}", it.used, it.most)),
            full.map_or_else(|| "".into(), |it| Cell::toned(Tone::Warn, it)),
            if it.built_in { "built in" } else { "" }.into(),
        ]);
    }
    table.print(&cx.out)
}

fn part(budget: &Budget, it: &Counted, now: Time) -> Listed {
    let room_at = it.uses.fits_at(&budget.form, budget.amount, now);
    Listed {
        budget: it.key.name.clone(),
        whose: it.key.whose.clone(),
        allows: budget.form.to_string(),
        form: budget.form.word(),
        used: it.uses.used(&budget.form, now),
        most: budget.form.most(),
        room_at: (now < room_at).then_some(room_at),
        built_in: budget.published,
    }
}
