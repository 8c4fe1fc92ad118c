//! Whose turn is next: shares by weight between tenants and their accounts, and how long priority may
//! make others wait. Pure: both ledgers and both queues go by these numbers.
//!
//! Jobs of one tenant, account and priority are a **flow**. Each of its jobs takes a [step](Fair::step) of
//! virtual time, a smaller one where the weight is larger, and who has used up least goes next. High goes
//! before normal, and normal before low, until something has been due for longer than its lane's
//! `waits_at_most_s`: from then on its priority and all above it take turns, until it is caught up with. In
//! these turns a flow of high has four where one of low has one, and one of normal has two.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Config;
use crate::job::Priority;
use crate::sabotage;

/// The step of a flow of high priority and weight 1. Weights up to 10 divide it.
pub const STEP: u64 = 5_040;
/// A tenant's weight times its account's counts up to this.
pub const WEIGHT_MAX: u32 = 1_000;

/// The weights, and how long each lane's jobs may be made to wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fair {
    tenants: BTreeMap<String, u32>,
    accounts: BTreeMap<String, u32>,
    waits: BTreeMap<String, Duration>,
}

impl Fair {
    /// As a configuration says.
    pub fn of(config: &Config) -> Self {
        let accounts = config.accounts.iter();
        let accounts = accounts.map(|(name, it)| (name.clone(), it.weight));
        let lanes = config.lanes.iter();
        Self {
            tenants: config.tenant_weights.clone(),
            accounts: accounts.filter(|(_, it)| *it != 1).collect(),
            waits: lanes
                .map(|(name, it)| (name.clone(), it.waits_at_most))
                .collect(),
        }
    }

    /// How long a lane's jobs may be due while higher priorities go first; `None`: for ever.
    pub fn waits_at_most(&self, lane: &str) -> Option<Duration> {
        if sabotage!("fair.ageing") {
            return None;
        }
        self.waits.get(lane).copied()
    }

    /// A flow's share, against 1 of those that nobody gave one; `account` is empty where there is none.
    pub fn weight(&self, tenant: &str, account: &str) -> u32 {
        let of = |all: &BTreeMap<String, u32>, name: &str| all.get(name).copied().unwrap_or(1);
        let both = of(&self.tenants, tenant).saturating_mul(of(&self.accounts, account));
        both.clamp(1, WEIGHT_MAX)
    }

    /// What each job of a flow takes of its lane's virtual time: at least 1.
    pub fn step(&self, priority: Priority, tenant: &str, account: &str) -> u64 {
        (STEP << priority.rank()) / u64::from(self.weight(tenant, account))
    }

    /// The tenants' and the accounts' weights as JSON objects, for a statement's parameters.
    pub fn weights(&self) -> [String; 2] {
        [&self.tenants, &self.accounts].map(|it| serde_json::json!(it).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_the_smaller_the_larger_the_weight_and_never_nothing() {
        let mut config = Config::default_embedded(std::path::Path::new("/nowhere"));
        let url = url::Url::parse("https://example.com").unwrap();
        let mut account = crate::config::Account::at("mastodon", url);
        account.weight = 100;
        config.accounts.insert("ann".to_owned(), account);
        config.tenant_weights = BTreeMap::from([("acme".into(), 3), ("big".into(), 100)]);
        let fair = Fair::of(&config);
        let step = |tenant, account| fair.step(Priority::High, tenant, account);
        assert_eq!(step("zoo", ""), STEP);
        assert_eq!(step("acme", ""), STEP / 3);
        assert_eq!(step("acme", "ann"), STEP / 300);
        assert_eq!(step("big", "ann"), STEP / u64::from(WEIGHT_MAX));
        assert_eq!(fair.step(Priority::Normal, "zoo", ""), 2 * STEP);
        assert_eq!(fair.step(Priority::Low, "zoo", ""), 4 * STEP);
        assert_eq!(
            fair.waits_at_most("default"),
            Some(Duration::from_secs(600))
        );
        assert_eq!(fair.waits_at_most("nothing"), None);
        let [tenants, accounts] = fair.weights();
        assert_eq!(tenants, r#"{"acme":3,"big":100}"#);
        assert_eq!(accounts, r#"{"ann":100}"#);
    }
}
