//! What may go now: a **closure** says that nothing of its scope does, until it is opened or its time is
//! past. One mechanism for the operator's stop, an account whose credentials are refused, a breaker,
//! and a limit that a platform told of; pure.
//!
//! Two look at closures: the permit of an effect reads them in its own statement, so that none is given
//! once a closure is committed; and dispatch passes over what a [`Shut`] names, so that such jobs stay
//! as they are, where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::{Time, stamp};
use crate::config::Config;
use crate::job::Job;
use crate::outcome::words;

/// The longest name of a part of a scope, in bytes: a label's with its value.
const NAME_MAX: usize = 1_300;

words! {
    /// Why nothing goes.
    Cause {
        /// A person stopped it.
        Stop = "stop",
        /// The platform restricts the account, or wants to be paid.
        Account = "account",
        /// It keeps failing.
        Breaker = "breaker",
        /// The platform asked for less.
        Learned = "learned",
        /// Its credentials are refused.
        Credentials = "credentials",
        /// A budget is used up: known to a daemon by itself, and never written down.
        Budget = "budget",
        /// All that could do it are closed, each for its own reason: known to a daemon by itself, for a
        /// moment, and never written down.
        Fallbacks = "fallbacks",
    }
}

/// What a closure is about: all that is named must fit. Where nothing is named, everything is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scope {
    /// The platform of the job's account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The job's account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The job's tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// A label of the job: `name=value`, or `name` with any value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The job's kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// What of a job a scope looks at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subject {
    /// Its account.
    pub account: Option<String>,
    /// The platform of its account, where the account is configured.
    pub platform: Option<String>,
    /// Its tenant.
    pub tenant: String,
    /// Its kind.
    pub kind: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Subject {
    /// A job, under a configuration.
    pub fn of(job: &Job, config: &Config) -> Self {
        let account = job.account.as_ref();
        let account = account.and_then(|it| config.accounts.get(it));
        Self {
            account: job.account.clone(),
            platform: account.map(|it| it.platform.clone()),
            tenant: job.tenant.clone(),
            kind: job.kind.clone(),
            labels: job.labels.clone(),
        }
    }
}

impl Scope {
    /// All of one account.
    pub fn of_account(name: &str) -> Self {
        Self {
            account: Some(name.to_owned()),
            ..Self::default()
        }
    }

    /// The parts by name, in the order in which people read them.
    pub fn parts(&self) -> [(&'static str, Option<&str>); 5] {
        [
            ("platform", self.platform.as_deref()),
            ("account", self.account.as_deref()),
            ("tenant", self.tenant.as_deref()),
            ("label", self.label.as_deref()),
            ("kind", self.kind.as_deref()),
        ]
    }

    /// Whether it names nothing, so that everything fits.
    pub fn is_everything(&self) -> bool {
        self.parts().iter().all(|(_, it)| it.is_none())
    }

    /// Whether a job fits.
    pub fn fits(&self, it: &Subject) -> bool {
        let same = |named: &Option<String>, is: Option<&str>| {
            named.as_deref().is_none_or(|it| Some(it) == is)
        };
        same(&self.platform, it.platform.as_deref())
            && same(&self.account, it.account.as_deref())
            && same(&self.tenant, Some(&it.tenant))
            && same(&self.kind, Some(&it.kind))
            && self.label.as_deref().is_none_or(|l| has(&it.labels, l))
    }

    /// How the label stands in the JSON of a job's labels; empty where no label is named. A text holds
    /// it just where the label is there: within a string, quotes are escaped.
    pub fn mark(&self) -> String {
        let Some(label) = &self.label else {
            return String::new();
        };
        let json = |it: &str| serde_json::Value::from(it).to_string();
        match label.split_once('=') {
            Some((name, value)) => format!("{}:{}", json(name), json(value)),
            None => format!("{}:", json(label)),
        }
    }

    /// Whether it can be written down.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        for (part, named) in self.parts() {
            let Some(named) = named else { continue };
            if named.is_empty() {
                return Err(format!(
                    "the {part} is empty: name one, or leave it out to mean all"
                ));
            }
            if NAME_MAX < named.len() || named.chars().any(char::is_control) {
                return Err(format!(
                    "the {part} is longer than {NAME_MAX} bytes or holds a control character: no job has such a one"
                ));
            }
        }
        match &self.label {
            // after the quote that ends a string these stand by themselves
            Some(it) if it.starts_with(['=', ':', ',', '}']) => Err(format!(
                "the label `{it}` must begin with its name, then `=` and a value: book=dune"
            )),
            _ => Ok(()),
        }
    }
}

fn has(labels: &BTreeMap<String, String>, label: &str) -> bool {
    match label.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|it| it == value),
        None => labels.contains_key(label),
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("everything");
        }
        let named = self.parts().into_iter();
        let named = named.filter_map(|(part, it)| Some(format!("{part} `{}`", it?)));
        f.write_str(&named.collect::<Vec<_>>().join(" and "))
    }
}

/// Nothing of its scope goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Closure {
    /// Its id, new each time that it is closed after it was open.
    pub id: Uuid,
    /// Why. Of one cause and scope there is one closure.
    pub cause: Cause,
    /// What of.
    pub scope: Scope,
    /// The reason, for people.
    pub reason: String,
    /// Who closed it last: a person's login, a token's name, or a part of the daemon.
    pub actor: String,
    /// Since when, by the ledger's clock.
    pub since: Time,
    /// Until when; `None`: until somebody opens it.
    pub until: Option<Time>,
    /// A salted digest of the credentials that were refused, where those stand in `jobs.toml`.
    #[serde(default, skip_serializing)]
    pub refused: Option<String>,
    /// Jobs that were scheduled for a time go all the same. Only what a daemon shuts by itself says so.
    #[serde(skip)]
    pub spares_planned: bool,
}

impl Closure {
    /// One that begins now; the ledger puts its own time in.
    pub fn new(cause: Cause, scope: Scope, (actor, reason): (&str, &str), now: Time) -> Self {
        Self {
            id: Uuid::new_v4(),
            cause,
            scope,
            reason: reason.to_owned(),
            actor: actor.to_owned(),
            since: now,
            until: None,
            refused: None,
            spares_planned: false,
        }
    }

    /// The same, but for jobs that were scheduled for a time. Its scope names no label.
    pub fn sparing_planned(self) -> Self {
        Self {
            spares_planned: true,
            ..self
        }
    }

    /// The same until a time.
    pub fn until(self, until: Time) -> Self {
        Self {
            until: Some(until),
            ..self
        }
    }

    /// Whether its time isn't past.
    pub fn is_closed(&self, now: Time) -> bool {
        self.until.is_none_or(|it| now < it)
    }

    /// Whether it stands before a job now.
    pub fn shuts(&self, it: &Subject, now: Time) -> bool {
        self.is_closed(now) && self.scope.fits(it)
    }
}

impl fmt::Display for Closure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.cause {
            Cause::Stop => "was stopped",
            Cause::Account => "waits for what its platform asks of a person",
            Cause::Credentials => "waits for its credentials to be renewed",
            Cause::Breaker => "keeps failing and is left alone",
            Cause::Learned => "was asked for less",
            Cause::Budget => "has used its budget up",
            Cause::Fallbacks => "is closed, and so are those that could stand in for it,",
        };
        write!(f, "{} {what} by {}", self.scope, self.actor)?;
        write!(f, ", since {}", stamp(self.since))?;
        if let Some(until) = self.until {
            write!(f, " and until {}", stamp(until))?;
        }
        match self.reason.as_str() {
            "" => Ok(()),
            reason => write!(f, ": {reason}"),
        }
    }
}

/// In the place of a mark: all jobs but those that were scheduled for a time. No text of labels holds it,
/// since JSON escapes it; to SQL it is `chr(1)`.
const UNPLANNED: &str = "\u{1}";

/// What dispatch compares with a job; an empty text is any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    account: String,
    tenant: String,
    kind: String,
    /// See [`Scope::mark`].
    mark: String,
}

impl Entry {
    /// It says nothing of a job but whose it is.
    fn is_whole(&self) -> bool {
        self.kind.is_empty() && self.mark.is_empty()
    }

    fn is_of(&self, account: &str, tenant: &str) -> bool {
        (self.account.is_empty() || self.account == account)
            && (self.tenant.is_empty() || self.tenant == tenant)
    }
}

/// The entries as columns of the same length, for a statement's parameters. An empty text is any.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    /// Accounts.
    pub accounts: Vec<String>,
    /// Tenants.
    pub tenants: Vec<String>,
    /// Kinds.
    pub kinds: Vec<String>,
    /// What a job's labels must hold: see [`Scope::mark`]. `\u{1}`: it wasn't scheduled for a time.
    pub marks: Vec<String>,
}

/// All that is closed at a moment, as dispatch compares it: a platform is its accounts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shut {
    entries: Vec<Entry>,
}

impl Shut {
    /// What `closures` from any number of sources shut now.
    pub fn of<'a>(
        closures: impl IntoIterator<Item = &'a Closure>,
        config: &Config,
        now: Time,
    ) -> Self {
        let mut entries = BTreeSet::new();
        for closure in closures.into_iter().filter(|it| it.is_closed(now)) {
            let scope = &closure.scope;
            let text = |it: &Option<String>| it.clone().unwrap_or_default();
            let entry = |account: String| Entry {
                account,
                tenant: text(&scope.tenant),
                kind: text(&scope.kind),
                mark: match closure.spares_planned {
                    true => UNPLANNED.to_owned(),
                    false => scope.mark(),
                },
            };
            let Some(platform) = &scope.platform else {
                entries.insert(entry(text(&scope.account)));
                continue;
            };
            for (name, account) in &config.accounts {
                let named = scope.account.as_ref().is_none_or(|it| it == name);
                if named && account.platform == *platform {
                    entries.insert(entry(name.clone()));
                }
            }
        }
        Self {
            entries: entries.into_iter().collect(),
        }
    }

    /// Whether everything may go.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether nothing may.
    pub fn is_everything(&self) -> bool {
        self.entries
            .iter()
            .any(|it| it.is_whole() && it.is_of("", ""))
    }

    /// Whether nothing of an account (empty: none) and a tenant may go.
    pub fn is_whole(&self, account: &str, tenant: &str) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|it| it.is_whole() && it.is_of(account, tenant))
    }

    /// Whether some entries look at more of a job than its account and tenant.
    pub fn looks_within(&self) -> bool {
        self.entries.iter().any(|it| !it.is_whole())
    }

    /// Whether something is shut here that isn't in `before`, or the other way round: `(closed, opened)`.
    pub fn differs(&self, before: &Self) -> (bool, bool) {
        let more = |a: &Self, b: &Self| a.entries.iter().any(|it| !b.entries.contains(it));
        (more(self, before), more(before, self))
    }

    /// The entries as columns.
    pub fn columns(&self) -> Columns {
        let each = |of: fn(&Entry) -> &String| self.entries.iter().map(of).cloned().collect();
        Columns {
            accounts: each(|it| &it.account),
            tenants: each(|it| &it.tenant),
            kinds: each(|it| &it.kind),
            marks: each(|it| &it.mark),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut config = Config::default_embedded(std::path::Path::new("/nowhere"));
        for (name, platform) in [("ann", "mastodon"), ("bob", "mastodon"), ("cat", "x")] {
            let url = url::Url::parse("https://example.com").unwrap();
            let account = crate::config::Account::at(platform, url);
            config.accounts.insert(name.to_owned(), account);
        }
        config
    }

    fn job(account: &str, tenant: &str, kind: &str, labels: &[(&str, &str)]) -> Subject {
        let account = Some(account.to_owned()).filter(|it| !it.is_empty());
        let of = account.as_ref().and_then(|it| {
            let config = config();
            Some(config.accounts.get(it)?.platform.clone())
        });
        Subject {
            account,
            platform: of,
            tenant: tenant.to_owned(),
            kind: kind.to_owned(),
            labels: labels
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn scope(parts: &[(&str, &str)]) -> Scope {
        let parts = parts
            .iter()
            .map(|(part, it)| ((*part).to_owned(), serde_json::Value::from(*it)));
        serde_json::from_value(parts.collect()).unwrap()
    }

    fn stop(scope: Scope) -> Closure {
        Closure::new(Cause::Stop, scope, ("ada", "why"), Time::UNIX_EPOCH)
    }

    /// As a statement compares: by the columns alone.
    fn passed_over(shut: &Shut, it: &Subject) -> bool {
        let Columns {
            accounts,
            tenants,
            kinds,
            marks,
        } = shut.columns();
        let labels = serde_json::to_string(&it.labels).unwrap();
        let account = it.account.as_deref().unwrap_or("");
        (0..accounts.len()).any(|n| {
            [
                (&accounts[n], account),
                (&tenants[n], &it.tenant),
                (&kinds[n], &it.kind),
            ]
            .iter()
            .all(|(is, of)| is.is_empty() || is == of)
                && labels.contains(&marks[n])
        })
    }

    #[test]
    fn a_scope_fits_where_all_that_it_names_does_and_dispatch_sees_the_same() {
        let jobs = [
            job("ann", "acme", "post.mastodon", &[("book", "dune")]),
            job(
                "bob",
                "acme",
                "post.mastodon",
                &[("book", "emma"), ("x", "")],
            ),
            job("cat", "zeta", "post.x", &[]),
            job("", "zeta", "test.echo", &[("book", "dune"), ("a\"b", ":")]),
            job("gone", "acme", "post.x", &[("note", "\"book\":\"dune\"")]),
        ];
        for (parts, fits) in [
            (&[][..], [true; 5]),
            (
                &[("platform", "mastodon")],
                [true, true, false, false, false],
            ),
            (&[("account", "ann")], [true, false, false, false, false]),
            (&[("account", "gone")], [false, false, false, false, true]),
            (&[("tenant", "zeta")], [false, false, true, true, false]),
            (&[("kind", "post.x")], [false, false, true, false, true]),
            (&[("label", "book")], [true, true, false, true, false]),
            (&[("label", "book=dune")], [true, false, false, true, false]),
            (&[("label", "x=")], [false, true, false, false, false]),
            (&[("label", "a\"b=:")], [false, false, false, true, false]),
            (
                &[("platform", "mastodon"), ("label", "book=emma")],
                [false, true, false, false, false],
            ),
            (&[("platform", "x"), ("account", "ann")], [false; 5]),
            (&[("platform", "pinterest")], [false; 5]),
        ] {
            let closure = stop(scope(parts));
            closure.scope.check().unwrap();
            let shut = Shut::of([&closure], &config(), Time::UNIX_EPOCH);
            for (job, fits) in jobs.iter().zip(fits) {
                assert_eq!(closure.scope.fits(job), fits, "{parts:?} {job:?}");
                assert_eq!(passed_over(&shut, job), fits, "{parts:?} {job:?}");
                let account = job.account.as_deref().unwrap_or("");
                if shut.is_whole(account, &job.tenant) {
                    assert!(fits, "{parts:?} {job:?}");
                }
            }
            assert_eq!(shut.is_everything(), parts.is_empty());
        }
    }

    #[test]
    fn what_is_past_shuts_nothing_and_sources_add_up() {
        let at = |s: i64| Time::UNIX_EPOCH + chrono::Duration::seconds(s);
        let one = stop(scope(&[("account", "ann")])).until(at(5));
        let other = stop(scope(&[("tenant", "acme")]));
        let shut = |now| Shut::of([&one].into_iter().chain([&other]), &config(), at(now));
        assert!(shut(4).is_whole("ann", "zeta") && shut(4).is_whole("", "acme"));
        assert!(!shut(5).is_whole("ann", "zeta") && shut(5).is_whole("ann", "acme"));
        assert_eq!(shut(5).differs(&shut(4)), (false, true));
        assert_eq!(shut(4).differs(&Shut::default()), (true, false));
        assert_eq!(shut(4).differs(&shut(3)), (false, false));
        let none = Shut::of([], &config(), at(0));
        assert!(none.is_empty() && !none.is_everything() && !none.looks_within());
        assert_eq!(none.columns(), Columns::default());
    }

    #[test]
    fn what_is_stopped_together_is_one_entry_and_only_some_look_within() {
        let twice = [
            stop(scope(&[("platform", "mastodon")])),
            stop(scope(&[("account", "ann")])),
        ];
        let shut = Shut::of(&twice, &config(), Time::UNIX_EPOCH);
        assert_eq!(shut.columns().accounts, ["ann", "bob"]);
        assert!(!shut.looks_within());
        let within = stop(scope(&[("account", "ann"), ("kind", "post.x")]));
        let shut = Shut::of([&within], &config(), Time::UNIX_EPOCH);
        assert!(shut.looks_within() && !shut.is_whole("ann", ""));
    }

    #[test]
    fn a_scope_that_can_fit_nothing_is_refused_and_all_are_told_in_words() {
        for (parts, said) in [
            (("account", ""), "the account is empty"),
            (("tenant", "a\nb"), "control character"),
            (("label", "=x"), "must begin with its name"),
            (("label", ":x=1"), "must begin with its name"),
        ] {
            let wrong = scope(&[parts]).check().unwrap_err();
            assert!(wrong.contains(said), "{wrong}");
        }
        assert_eq!(Scope::default().to_string(), "everything");
        assert_eq!(
            scope(&[("tenant", "acme"), ("platform", "x")]).to_string(),
            "platform `x` and tenant `acme`"
        );
        assert!(serde_json::from_str::<Scope>(r#"{"acount": "x"}"#).is_err());
    }
}
