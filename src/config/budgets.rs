//! Budgets: what each form needs to be said, and the limits that platforms publish.

use std::collections::BTreeMap;

use chrono::Duration;
use chrono_tz::Tz;

use super::budget_keys::FORMS;
use super::read::{Part, Raw, Reader};
use super::types::Account;
use crate::budget::{Budget, Currency, Every, Form, Per, micros};

/// A limit that a platform publishes.
struct Published {
    name: &'static str,
    platform: &'static str,
    op: &'static str,
    form: fn() -> Form,
    per: Per,
}

const fn rolling(most: u64, window: Duration) -> Form {
    Form::Rolling { most, window }
}

/// What platforms publish of their limits for one account or application, as of November 2026. Limits
/// that hang on a contract (OpenAI's tier, a bucket's) are for `jobs.toml` to say.
const PUBLISHED: [Published; 9] = [
    // docs.x.com, rate limits: POST /2/tweets, 100 in 15 minutes for a user
    Published {
        name: "x-posts",
        platform: "x",
        op: "x.post",
        form: || rolling(100, Duration::minutes(15)),
        per: Per::Account,
    },
    // docs.x.com, rate limits: POST /2/tweets, 10,000 in 24 hours for an app
    Published {
        name: "x-posts-of-app",
        platform: "x",
        op: "x.post",
        form: || rolling(10_000, Duration::hours(24)),
        per: Per::App,
    },
    // docs.x.com, rate limits: GET /2/users/:id/tweets, 900 in 15 minutes for a user; media's status 1,000
    Published {
        name: "x-reads",
        platform: "x",
        op: "x.read",
        form: || rolling(900, Duration::minutes(15)),
        per: Per::Account,
    },
    // docs.x.com, rate limits: media/upload/initialize, append and finalize, 1,875 in 15 minutes for a user
    Published {
        name: "x-writes",
        platform: "x",
        op: "x.write",
        form: || rolling(1_875, Duration::minutes(15)),
        per: Per::Account,
    },
    // developers.facebook.com, content publishing: documents say 25, 50 and 100 in 24 hours; what the
    // account is told (content_publishing_limit) is asked before each post besides
    Published {
        name: "instagram-posts",
        platform: "instagram",
        op: "instagram.media",
        form: || rolling(100, Duration::hours(24)),
        per: Per::Account,
    },
    // docs.bsky.app, rate limits: 5,000 points an hour, of which a record costs 3
    Published {
        name: "bluesky-posts",
        platform: "bluesky",
        op: "bluesky.record",
        form: || rolling(1_666, Duration::hours(1)),
        per: Per::Account,
    },
    // docs.bsky.app, rate limits: 35,000 points a day
    Published {
        name: "bluesky-posts-a-day",
        platform: "bluesky",
        op: "bluesky.record",
        form: || rolling(11_666, Duration::hours(24)),
        per: Per::Account,
    },
    // docs.joinmastodon.org, rate limits: media, 30 in 30 minutes for an account; nothing else is a write
    // that is no effect
    Published {
        name: "mastodon-media",
        platform: "mastodon",
        op: "mastodon.write",
        form: || rolling(30, Duration::minutes(30)),
        per: Per::Account,
    },
    // docs.joinmastodon.org, rate limits: 300 requests in 5 minutes for an account
    Published {
        name: "mastodon-requests",
        platform: "mastodon",
        op: "mastodon.*",
        form: || rolling(300, Duration::minutes(5)),
        per: Per::Account,
    },
];

/// The largest amount of money: a thousand million.
const MONEY_MAX: u64 = 1_000_000_000_000_000;

/// Keys that mean something to some forms only.
const ONLY: [(&str, &[&str]); 5] = [
    ("burst", &["bucket"]),
    ("zone", &["calendar", "spend"]),
    ("currency", &["spend"]),
    ("amount", &["concurrency", "bucket", "rolling", "calendar"]),
    ("reserve", &["rolling", "calendar"]),
];

impl<'a> Reader<'a> {
    /// The budgets of the file, and the built-in ones that it doesn't name.
    pub(super) fn budgets(
        &mut self,
        accounts: &BTreeMap<String, Account>,
    ) -> BTreeMap<String, Budget> {
        let mut budgets: BTreeMap<String, Budget> = PUBLISHED
            .iter()
            .map(|it| (it.name.to_owned(), built_in(it)))
            .collect();
        for part in self.parts("budgets") {
            if !self.is_free(&part) {
                continue;
            }
            if self.bool(&part, "off") {
                budgets.remove(part.name);
            } else if let Some(it) = self.budget(&part, accounts) {
                budgets.insert(part.name.to_owned(), it);
            }
        }
        budgets
    }

    fn budget(&mut self, part: &Part<'a>, accounts: &BTreeMap<String, Account>) -> Option<Budget> {
        let form = self.form(part);
        let mut text = |key: &str| self.text(part, key).map(|it| it.value);
        let (platform, tenant) = (text("platform"), text("tenant"));
        let (app, kind, op) = (text("app"), text("kind"), text("op"));
        let account = self.text(part, "account");
        // one that is there and wrong was told already
        let there = self.names("accounts");
        if let Some(it) = account
            .as_ref()
            .filter(|it| !there.contains(&it.value.as_str()))
            // the ledger may have it, which isn't asked here
            .filter(|_| self.names("vault").is_empty())
        {
            let near = crate::json::did_you_mean(&it.value, accounts.keys().map(String::as_str));
            let message = format!("the name of an account; [accounts] has none of it{near}");
            let said = Some(format!("{:?}", it.value));
            self.wrong(&it.place, format!("{}.account", part.path), said, &message);
        }
        let per = self.text_or_default(part, "per").value;
        Some(Budget {
            // another word was told already
            per: per.parse().unwrap_or(Per::All),
            amount: self.int_or_default(part, "amount"),
            form: form?,
            platform,
            app,
            account: account.map(|it| it.value),
            tenant,
            kind,
            op,
            published: false,
            reserve: self.bool(part, "reserve"),
        })
    }

    fn form(&mut self, part: &Part<'a>) -> Option<Form> {
        let Some(form) = self.text(part, "form") else {
            let advice = format!("write one of {}", FORMS.join(", "));
            self.missing(part, "form", &advice);
            return None;
        };
        let needs: &[&str] = match form.value.as_str() {
            "bucket" | "rolling" => &["most", "window_s"],
            "calendar" | "spend" => &["most", "every"],
            _ => &["most"],
        };
        for (needed, advice) in [
            ("most", "write how many: most = 10"),
            ("window_s", "write its length in seconds: window_s = 60"),
            ("every", "write every = \"day\" or \"month\""),
        ] {
            match (needs.contains(&needed), self.raw(part, needed)) {
                (true, None) => self.missing(part, needed, advice),
                (false, Some(said)) => {
                    let message = format!("means nothing to form {}; leave it out", form.value);
                    self.wrong(
                        &said.place,
                        format!("{}.{needed}", part.path),
                        None,
                        &message,
                    );
                }
                _ => {}
            }
        }
        for (key, forms) in ONLY {
            if !forms.contains(&form.value.as_str())
                && let Some(said) = self.raw(part, key)
            {
                let message = format!("is for form {} only; leave it out", forms.join(" or "));
                self.wrong(&said.place, format!("{}.{key}", part.path), None, message);
            }
        }
        let zone = self.zone(part);
        if form.value == "spend" {
            return self.spend(part, zone);
        }
        let most = self.int(part, "most")?.value;
        let window = self.int(part, "window_s").map(|it| {
            Duration::seconds(i64::try_from(it.value).expect("its bounds are below 2^32"))
        });
        let burst = self.int(part, "burst");
        Some(match form.value.as_str() {
            "concurrency" => Form::Concurrency { most },
            "bucket" => Form::Bucket {
                most,
                window: window?,
                burst: burst.map_or(most, |it| it.value),
            },
            "rolling" => Form::Rolling {
                most,
                window: window?,
            },
            "calendar" => Form::Calendar {
                most,
                every: self
                    .text(part, "every")?
                    .value
                    .parse()
                    .unwrap_or(Every::Day),
                zone: zone?,
            },
            _ => return None, // it was told already
        })
    }

    fn spend(&mut self, part: &Part<'a>, zone: Option<Tz>) -> Option<Form> {
        let currency = self.currency(part);
        let said = self.raw(part, "most")?;
        let text = match &said.value {
            Raw::Toml(it) => it.as_str().unwrap_or_default(),
            Raw::Variable(text) => text,
        };
        let most = micros(text).filter(|it| (1..=MONEY_MAX).contains(it));
        if most.is_none() {
            let message = "an amount of money in quotes, such as most = \"20.00\": above 0, at most 1000000000, with six digits behind the point at most";
            let shown = Some(said.value.shown());
            self.wrong(&said.place, format!("{}.most", part.path), shown, message);
        }
        Some(Form::Spend {
            most: most?,
            currency,
            every: self
                .text(part, "every")?
                .value
                .parse()
                .unwrap_or(Every::Day),
            zone: zone?,
        })
    }

    /// What prices or a budget are in.
    pub(super) fn currency(&mut self, part: &Part<'a>) -> Currency {
        let said = self.text_or_default(part, "currency");
        said.value.parse().unwrap_or_else(|message: &str| {
            let shown = Some(format!("{:?}", said.value));
            self.wrong(
                &said.place,
                format!("{}.currency", part.path),
                shown,
                message,
            );
            Currency::USD
        })
    }

    fn zone(&mut self, part: &Part<'a>) -> Option<Tz> {
        let said = self.text_or_default(part, "zone");
        let zone = said.value.parse::<Tz>();
        if zone.is_err() {
            let message = "a time zone by its name, such as \"America/Los_Angeles\" or \"UTC\"; what is short for several (\"PST\") isn't taken";
            let shown = Some(format!("{:?}", said.value));
            self.wrong(&said.place, format!("{}.zone", part.path), shown, message);
        }
        zone.ok()
    }
}

fn built_in(it: &Published) -> Budget {
    Budget {
        platform: Some(it.platform.to_owned()),
        op: Some(it.op.to_owned()),
        published: true,
        ..Budget::of_all((it.form)(), it.per)
    }
}

#[cfg(test)]
mod tests;
