//! What the tests of explanations share: a job, what is known of it, and a configuration.

use std::path::Path;

use chrono::{Duration, TimeZone, Utc};
use url::Url;
use uuid::Uuid;

use crate::clock::Time;
use crate::config::{Account, Config};
use crate::job::Job;
use crate::ledger::Run;
use crate::lifecycle::State;
use crate::operate::facts::Facts;
use crate::sample;

pub const SERVER: &str = "mastodon at https://social.example";
pub const RUN: Uuid = Uuid::from_u128(7);

pub fn now() -> Time {
    // 2027-01-15T08:00:00Z: midnight in Los Angeles
    Utc.timestamp_opt(1_800_000_000, 0).unwrap()
}

pub fn at(seconds: i64) -> Time {
    now() + Duration::seconds(seconds)
}

pub fn config() -> Config {
    let mut config = Config::default_embedded(Path::new("/nowhere"));
    let url = Url::parse("https://social.example").unwrap();
    let account = Account::at("mastodon", url);
    config.accounts.insert("main".to_owned(), account);
    config.budgets.clear();
    config
}

pub fn job(state: State) -> Job {
    Job {
        state,
        attempts: 1,
        epoch: 1,
        version: 3,
        ..sample::job("post.mastodon", "main", at(-60))
    }
}

pub fn run() -> Run {
    Run {
        id: RUN,
        host: "press-1".to_owned(),
        boot: None,
        pid: 1,
        version: "0".to_owned(),
        began_at: at(-600),
    }
}

/// A daemon runs, and the job is due.
pub fn facts(state: State) -> Facts {
    let mut facts = Facts::bare(job(state), now(), &["post.mastodon".to_owned()]);
    facts.runs = vec![run()];
    facts
}
