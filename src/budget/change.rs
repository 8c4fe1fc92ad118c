//! A budget that a person changed while daemons run.

use std::collections::BTreeMap;

use serde::Serialize;

use super::form::Form;
use super::rule::Budget;
use crate::clock::Time;

/// Another number for a budget: it holds over `jobs.toml`, on all hosts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The budget's name.
    pub name: String,
    /// How much it allows now.
    pub most: u64,
    /// Why, for people.
    pub reason: String,
    /// Who changed it.
    pub actor: String,
    /// When, by the ledger's clock.
    pub at: Time,
    /// Until when; `None`: until somebody takes it back.
    pub until: Option<Time>,
}

/// The budgets as they hold at a time: those that are said, with what was changed.
pub fn changed(
    said: &BTreeMap<String, Budget>,
    changes: &[Change],
    now: Time,
) -> BTreeMap<String, Budget> {
    let mut all = said.clone();
    for change in changes {
        let holds = change.until.is_none_or(|it| now < it);
        if let Some(budget) = all.get_mut(&change.name).filter(|_| holds) {
            budget.form = budget.form.allowing(change.most);
            // a person meant it, whatever a platform publishes and wherever the account is
            budget.published = false;
        }
    }
    all
}

impl Form {
    /// The same form with another number. A bucket's burst is never more than that.
    pub fn allowing(self, most: u64) -> Self {
        match self {
            Self::Concurrency { .. } => Self::Concurrency { most },
            Self::Rolling { window, .. } => Self::Rolling { most, window },
            Self::Calendar { every, zone, .. } => Self::Calendar { most, every, zone },
            Self::Spend {
                currency,
                every,
                zone,
                ..
            } => Self::Spend {
                most,
                currency,
                every,
                zone,
            },
            Self::Bucket { window, burst, .. } => Self::Bucket {
                most,
                window,
                burst: burst.min(most),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::super::rule::Per;
    use super::*;

    #[test]
    fn a_change_holds_until_its_time_and_of_what_there_is() {
        let window = Duration::minutes(1);
        let form = Form::Bucket {
            most: 10,
            window,
            burst: 5,
        };
        let budget = Budget {
            published: true,
            ..Budget::of_all(form, Per::All)
        };
        let said = BTreeMap::from([("posts".to_owned(), budget)]);
        let now = Time::UNIX_EPOCH;
        let of = |name: &str, most| Change {
            name: name.to_owned(),
            most,
            reason: String::new(),
            actor: "ada".to_owned(),
            at: now,
            until: Some(now + window),
        };
        let changes = [of("posts", 3), of("gone", 7)];
        let then = changed(&said, &changes, now);
        let (most, burst) = (3, 3);
        let form = Form::Bucket {
            most,
            window,
            burst,
        };
        assert_eq!((then["posts"].form, then["posts"].published), (form, false));
        assert_eq!(then.len(), 1);
        assert_eq!(changed(&said, &changes, now + window), said);
    }
}
