//! Whose requests count in a part of a budget, as far as it is known before their jobs run; pure.

use crate::budget::{Budget, Per, matches};
use crate::config::{Account, Config};
use crate::handler::Kind;
use crate::ledger::Askers;

/// Whose requests count in the part `whose` of a budget; `None`: nobody's that is known.
pub fn askers(budget: &Budget, whose: &str, config: &Config, kinds: &[Kind]) -> Option<Askers> {
    let of = |per: Per| (budget.per == per).then_some(whose);
    let fits = |kind: &&Kind| {
        let named = budget
            .kind
            .as_deref()
            .is_none_or(|it| matches(it, kind.name()));
        let op = match (of(Per::Op), budget.op.as_deref()) {
            (None, None) => true,
            (whose, pattern) => kind.sends().iter().any(|op| {
                whose.is_none_or(|it| it == *op) && pattern.is_none_or(|it| matches(it, op))
            }),
        };
        named && op && of(Per::Kind).is_none_or(|it| it == kind.name())
    };
    let named: Vec<String> = kinds
        .iter()
        .filter(fits)
        .map(|it| it.name().to_owned())
        .collect();
    if named.is_empty() {
        return None;
    }
    let platform = budget.platform.as_deref().or_else(|| of(Per::Platform));
    let one = budget.account.as_deref().or_else(|| of(Per::Account));
    let asks = |name: &str, it: &Account| {
        one.is_none_or(|one| one == name)
            && platform.is_none_or(|of| of == it.platform)
            && !(budget.published && it.is_nearby())
    };
    let accounts = match (one, platform) {
        (None, None) => None,
        _ => {
            let its = config.accounts.iter().filter(|it| asks(it.0, it.1));
            Some(its.map(|it| it.0.clone()).collect::<Vec<_>>())
        }
    };
    if accounts.as_ref().is_some_and(Vec::is_empty) {
        return None;
    }
    let tenant = budget.tenant.as_deref().or_else(|| of(Per::Tenant));
    Some(Askers {
        kinds: named,
        accounts,
        tenant: tenant.map(str::to_owned),
    })
}
