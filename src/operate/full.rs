//! Which budgets are used up for a job, as far as it is known before it runs which operations it will ask
//! a platform for; pure.

use std::collections::BTreeMap;

use crate::budget::{
    Asked, Budget, Counted, Every, Form, Kept, KeptBack, Key, NEVER, Per, Uses, matches,
};
use crate::clock::{Time, stamp, when};
use crate::config::{Account, Config};
use crate::job::Job;

/// A budget in which one more request doesn't fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Full<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it allows, and of what.
    pub budget: &'a Budget,
    /// Whose part of it; empty: everybody's together.
    pub whose: String,
    /// What is used of it.
    pub used: u64,
    /// When there is room, if nobody takes anything until then. `None`: never, as it is configured.
    pub room_at: Option<Time>,
    /// There is room, but it is kept for jobs that were scheduled.
    pub kept: Option<KeptBack>,
}

impl Full<'_> {
    /// Whether what holds it is under way, and gives it back when it is over.
    pub fn is_of_those_under_way(&self) -> bool {
        matches!(self.budget.form, Form::Concurrency { .. })
    }

    /// Whether a job that runs may hold some of it.
    pub fn may_be_held_by(&self, job: &Job, config: &Config) -> bool {
        let asked = asked(job, config);
        let any = Budget {
            op: None,
            ..self.budget.clone()
        };
        let op = match self.budget.per {
            Per::Op => self.whose.as_str(),
            _ => "",
        };
        let fits = any.counts(&Asked { op, ..asked }).as_ref() == Some(&self.whose);
        fits && self.op().is_none_or(|it| may_be(it, &asked))
    }

    /// The operations that it is about, by name or as a pattern.
    pub fn op(&self) -> Option<&str> {
        match self.budget.per {
            Per::Op => Some(&self.whose),
            _ => self.budget.op.as_deref(),
        }
    }

    /// When there is room again, for people; `held` is told of those who hold it.
    pub fn when(&self, now: Time, held: &str) -> String {
        let Some(at) = self.room_at else {
            if self.kept.is_some() {
                return "there is room when those have run".to_owned();
            }
            return "one request takes more than it ever allows; raise `most` in jobs.toml"
                .to_owned();
        };
        let in_time = when(at, now);
        match self.budget.form {
            Form::Concurrency { .. } => format!(
                "{held}it has room when one of them is over, at the latest at {} ({in_time})",
                stamp(at)
            ),
            Form::Calendar { every, zone, .. } | Form::Spend { every, zone, .. } => {
                let there = at.with_timezone(&zone);
                let form = match every {
                    Every::Day => "%H:%M on %Y-%m-%d",
                    Every::Month => "%H:%M on %Y-%m-%d, the month's first",
                };
                format!(
                    "it begins anew at {} ({zone}; {in_time})",
                    there.format(form)
                )
            }
            Form::Bucket { .. } | Form::Rolling { .. } => {
                format!("it has room again at {} ({in_time})", stamp(at))
            }
        }
    }
}

/// What is known of the budgets: as they hold now, what is used of them, and the places that are kept.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// As they hold, by name.
    pub budgets: &'a BTreeMap<String, Budget>,
    /// What is used of their parts.
    pub counted: &'a [Counted],
    /// What is kept in their parts.
    pub kept: &'a BTreeMap<Key, Kept>,
}

/// The budgets in which a request of this job would count, and has no room; by name.
pub fn used_up<'a>(job: &Job, config: &Config, known: Known<'a>, now: Time) -> Vec<Full<'a>> {
    let asked = asked(job, config);
    let unused = Uses::default();
    let mut full = Vec::new();
    for (name, budget) in known.budgets {
        let of_name = || known.counted.iter().filter(|it| it.key.name == *name);
        for whose in parts(budget, &asked, of_name()) {
            let part = of_name().find(|it| it.key.whose == whose);
            let uses = part.map_or(&unused, |it| &it.uses);
            let at = uses.fits_at(&budget.form, budget.amount, now);
            let kept = kept_back(job, (name, budget, &whose), (known.kept, uses), now);
            let kept = kept.filter(|_| at <= now);
            if now < at || kept.is_some() {
                let at = kept.map_or(at, |it| it.at);
                full.push(Full {
                    name,
                    budget,
                    whose,
                    used: uses.used(&budget.form, now),
                    room_at: (at != NEVER).then_some(at),
                    kept,
                });
            }
        }
    }
    full
}

/// Whether what is left of a part is kept for others.
fn kept_back(
    job: &Job,
    (name, budget, whose): (&str, &Budget, &str),
    (kept, uses): (&BTreeMap<Key, Kept>, &Uses),
    now: Time,
) -> Option<KeptBack> {
    if job.wanted_at().is_some() || !budget.keeps_places() {
        return None;
    }
    let key = Key {
        name: name.to_owned(),
        whose: whose.to_owned(),
    };
    uses.kept_back(&budget.form, budget.amount, kept.get(&key)?, (now, now))
}

/// The parts of budgets that keep places, and in which a request of this job would count.
pub fn keeping<'a>(
    job: &Job,
    config: &Config,
    (budgets, counted): (&'a BTreeMap<String, Budget>, &[Counted]),
) -> Vec<(Key, &'a Budget)> {
    let asked = asked(job, config);
    let mut all = Vec::new();
    for (name, budget) in budgets.iter().filter(|it| it.1.keeps_places()) {
        let of_name = counted.iter().filter(|it| it.key.name == *name);
        let its = parts(budget, &asked, of_name).into_iter();
        let name = || name.clone();
        all.extend(its.map(|whose| {
            let key = Key {
                name: name(),
                whose,
            };
            (key, budget)
        }));
    }
    all
}

/// Whose parts of a budget requests of a job would count in.
fn parts<'a>(
    budget: &Budget,
    asked: &Asked<'_>,
    counted: impl Iterator<Item = &'a Counted>,
) -> Vec<String> {
    if budget.per == Per::Op {
        let ops = counted.map(|it| it.key.whose.as_str());
        let its = ops.filter(|op| may_be(op, asked));
        return its
            .filter_map(|op| budget.counts(&Asked { op, ..*asked }))
            .collect();
    }
    if budget.op.as_deref().is_some_and(|it| !may_be(it, asked)) {
        return Vec::new();
    }
    let any = Budget {
        op: None,
        ..budget.clone()
    };
    any.counts(asked).into_iter().collect()
}

/// What a job asks for, but for the operation.
fn asked<'a>(job: &'a Job, config: &'a Config) -> Asked<'a> {
    let account = job.account.as_deref().unwrap_or_default();
    let of = config.accounts.get(account);
    Asked {
        platform: of.map_or("", |it| &it.platform),
        app: of.and_then(|it| it.app.as_deref()).unwrap_or_default(),
        account,
        tenant: &job.tenant,
        kind: &job.kind,
        op: "",
        nearby: of.is_some_and(Account::is_nearby),
        spend: None,
        wanted_at: job.wanted_at(),
        pace: None,
    }
}

/// Whether an operation, or a pattern of some, may be one of a job's: those of its account's platform
/// (`mastodon.status` of `mastodon`), of what its kind is about (`object.put` of `upload.object`), or the
/// kind itself (`http.call`).
fn may_be(pattern: &str, asked: &Asked<'_>) -> bool {
    let fixed = pattern.split('*').next().unwrap_or_default();
    let is_open = fixed.len() < pattern.len();
    let about = asked.kind.rsplit('.').next().unwrap_or_default();
    let begins = |with: &str| {
        let with = format!("{with}.");
        fixed.starts_with(&with) || (is_open && with.starts_with(fixed))
    };
    let named = [asked.platform, about].into_iter();
    matches(pattern, asked.kind) || named.filter(|it| !it.is_empty()).any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_may_ask_for_is_guessed_by_its_platform_and_its_kind() {
        let of = |platform, kind| Asked {
            platform,
            app: "",
            account: "main",
            tenant: "default",
            kind,
            op: "",
            nearby: false,
            spend: None,
            wanted_at: None,
            pace: None,
        };
        for (pattern, platform, kind, may) in [
            ("mastodon.status", "mastodon", "post.mastodon", true),
            ("mastodon.*", "mastodon", "post.mastodon", true),
            ("*.read", "mastodon", "post.mastodon", true),
            ("m*", "mastodon", "post.mastodon", true),
            ("x.*", "mastodon", "post.mastodon", false),
            ("mast", "mastodon", "post.mastodon", false),
            ("object.put", "s3", "upload.object", true),
            ("openai.response", "openai", "generate.text", true),
            ("http.call", "http", "http.call", true),
            ("command.run", "", "command.run", true),
            ("*", "", "test.job", true),
            ("x.post", "", "test.job", false),
        ] {
            assert_eq!(
                may_be(pattern, &of(platform, kind)),
                may,
                "{pattern} {kind}"
            );
        }
    }
}
