//! What holds for jobs that come late, and for whom.

use std::time::Duration;

use super::read::{Part, Reader};
use super::types::{Account, Config, Late};
use super::words::POSTS;
use crate::budget::{PACE, RELAXING};
use crate::lateness::{AFTER_S, Policy, Standing, Terms};

impl<'a> Reader<'a> {
    pub(super) fn late(&mut self) -> Late {
        let part = self.part("late");
        Late {
            grace: Duration::from_secs(self.int_or_default(&part, "grace_s")),
            pace: Duration::from_secs(self.int_or_default(&part, "pace_s")),
        }
    }

    /// The pace that an account says.
    pub(super) fn pace(&mut self, part: &Part<'a>) -> Option<Duration> {
        let said = self.int(part, "pace_s")?;
        Some(Duration::from_secs(said.value))
    }

    /// Tells a budget by a name that isn't free; whether it is.
    pub(super) fn is_free(&mut self, part: &Part<'a>) -> bool {
        let is_free = ![PACE, RELAXING].contains(&part.name);
        if !is_free {
            let message = match part.name {
                PACE => {
                    "a name that is taken: the paces of accounts are counted under it; say pace_s of an account, or name the budget otherwise"
                }
                _ => {
                    "a name that is taken: accounts that come back after a limit are counted under it; name the budget otherwise"
                }
            };
            self.wrong(&part.place, part.path.clone(), None, message);
        }
        is_free
    }
}

impl Config {
    /// How late a job of a kind stands, by its own word and its kind's.
    pub fn standing(&self, kind: &str, terms: &Terms) -> Standing {
        let kind = self.kinds.get(kind);
        let policy = terms.late.or_else(|| kind?.late);
        let after = terms.late_after_s.or_else(|| kind?.late_after_s);
        Standing {
            due: terms.due,
            not_after: terms.not_after,
            policy: policy.unwrap_or(Policy::Publish),
            after: chrono::Duration::seconds(after.unwrap_or(AFTER_S).into()),
            grace: chrono::Duration::from_std(self.late.grace).unwrap_or_default(),
        }
    }

    /// What is overdue of this account goes one in each span of this length. `None`: at once.
    pub fn pace_of(&self, account: &Account) -> Option<chrono::Duration> {
        let posts = POSTS.contains(&account.platform.as_str()) && !account.is_nearby();
        let usual = self.late.pace;
        let pace = account.pace.or_else(|| posts.then_some(usual))?;
        let pace = chrono::Duration::from_std(pace).ok()?;
        (pace > chrono::Duration::zero()).then_some(pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        let env = |name: &str| (name == "A").then(|| "a-secret-of-some-length".to_owned());
        Config::parse(text, None, &env).unwrap()
    }

    #[test]
    fn accounts_that_post_have_a_pace_and_each_may_say_its_own() {
        let file = |pace: &str| {
            format!(
                "[late]\n{pace}\n\
                 [accounts.far]\nplatform = \"x\"\nsecret = {{ env = \"A\" }}\n\
                 [accounts.slow]\nplatform = \"x\"\nsecret = {{ env = \"A\" }}\npace_s = 900\n\
                 [accounts.off]\nplatform = \"x\"\nsecret = {{ env = \"A\" }}\npace_s = 0\n\
                 [accounts.near]\nplatform = \"mastodon\"\nbase_url = \"http://127.0.0.1:1\"\nsecret = {{ env = \"A\" }}\n\
                 [accounts.model]\nplatform = \"openai\"\nsecret = {{ env = \"A\" }}\n"
            )
        };
        let paces = |text: &str| {
            let config = config(text);
            ["far", "slow", "off", "near", "model"].map(|name| {
                let pace = config.pace_of(&config.accounts[name]);
                pace.map(|it| it.num_seconds())
            })
        };
        assert_eq!(paces(&file("")), [Some(60), Some(900), None, None, None]);
        let other = [Some(5), Some(900), None, None, None];
        assert_eq!(paces(&file("pace_s = 5")), other);
        let none = [None, Some(900), None, None, None];
        assert_eq!(paces(&file("pace_s = 0")), none);
    }

    #[test]
    fn the_name_of_the_paces_is_taken() {
        let text = "[budgets.pace]\nform = \"concurrency\"\nmost = 1\n";
        let e = Config::parse(text, None, &|_| None)
            .unwrap_err()
            .to_string();
        assert!(e.contains("a name that is taken"), "{e}");
    }
}
