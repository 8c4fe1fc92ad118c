//! A named budget: what it counts, and for whom apart.

use chrono::Duration;

use super::form::Form;
use super::money::Spend;
use crate::clock::Time;
use crate::outcome::words;

words! {
    /// For whom a budget counts apart.
    Per {
        /// All together.
        All = "all",
        /// Each platform.
        Platform = "platform",
        /// Each app of a platform: the accounts that name the same, or none.
        App = "app",
        /// Each account.
        Account = "account",
        /// Each tenant.
        Tenant = "tenant",
        /// Each kind.
        Kind = "kind",
        /// Each operation of a platform.
        Op = "op",
    }
}

/// A budget of `jobs.toml`, or a built-in one.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// What it allows.
    pub form: Form,
    /// For whom it counts apart.
    pub per: Per,
    /// Only requests to this platform.
    pub platform: Option<String>,
    /// Only requests for accounts of this app.
    pub app: Option<String>,
    /// Only requests for this account.
    pub account: Option<String>,
    /// Only requests for this tenant.
    pub tenant: Option<String>,
    /// Only requests of jobs of this kind; `*` stands for any letters.
    pub kind: Option<String>,
    /// Only requests of this operation; `*` stands for any letters.
    pub op: Option<String>,
    /// What one request takes of it.
    pub amount: u64,
    /// It is what a platform publishes, and means nothing to a server of one's own.
    pub published: bool,
    /// Places are kept in it for jobs that were scheduled, where its form is one that keeps places.
    pub reserve: bool,
}

/// What is asked for: one request.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The account's platform; empty without an account.
    pub platform: &'a str,
    /// The account's app; empty where it names none.
    pub app: &'a str,
    /// The job's account; empty without one.
    pub account: &'a str,
    /// The job's tenant.
    pub tenant: &'a str,
    /// The job's kind.
    pub kind: &'a str,
    /// The operation: `x.post`, `mastodon.read`.
    pub op: &'a str,
    /// It goes to a server of one's own (a sandbox).
    pub nearby: bool,
    /// The send that it is, where that is paid for.
    pub spend: Option<&'a Spend>,
    /// When its job was wanted, where that was scheduled: it takes the place that is kept for it.
    pub wanted_at: Option<Time>,
    /// It comes late: of its account one such request goes in each span of this length.
    pub pace: Option<Duration>,
}

/// The name under which the paces of accounts are counted: no budget has it.
pub const PACE: &str = "pace";

/// What of a budget is counted together: its name, and whose.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The budget's name.
    pub name: String,
    /// Whose it is: the account's name, where it counts each account apart. Empty: all together.
    pub whose: String,
}

impl Budget {
    /// A budget of every request, each of which takes one of it.
    pub const fn of_all(form: Form, per: Per) -> Self {
        Self {
            form,
            per,
            platform: None,
            app: None,
            account: None,
            tenant: None,
            kind: None,
            op: None,
            amount: 1,
            published: false,
            reserve: true,
        }
    }

    /// Whether places are kept in it for jobs that were scheduled.
    pub fn keeps_places(&self) -> bool {
        self.reserve && self.form.keeps_places()
    }

    /// Whose part of it a request counts in; `None`: it doesn't count in it.
    pub fn counts(&self, asked: &Asked<'_>) -> Option<String> {
        let is = |said: &Option<String>, it: &str| said.as_deref().is_none_or(|said| said == it);
        let like = |said: &Option<String>, it: &str| {
            said.as_deref().is_none_or(|pattern| matches(pattern, it))
        };
        let fits = !(self.published && asked.nearby)
            && is(&self.platform, asked.platform)
            && is(&self.app, asked.app)
            && is(&self.account, asked.account)
            && is(&self.tenant, asked.tenant)
            && like(&self.kind, asked.kind)
            && like(&self.op, asked.op);
        // two platforms may have apps of the same name
        let app = match asked.app {
            "" => asked.platform.to_owned(),
            app => format!("{}/{app}", asked.platform),
        };
        let whose = match self.per {
            Per::All => "",
            Per::Platform => asked.platform,
            Per::App => &app,
            Per::Account => asked.account,
            Per::Tenant => asked.tenant,
            Per::Kind => asked.kind,
            Per::Op => asked.op,
        };
        // what has no account isn't counted as everybody's without one
        let named = self.per == Per::All || !whose.is_empty();
        (fits && named).then(|| whose.to_owned())
    }
}

/// Whether `text` fits a pattern in which `*` stands for any letters.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = pattern.rfind('*').map(|at| &pattern[at + 1..]) else {
        return rest.is_empty();
    };
    let middle: Vec<&str> = parts.collect();
    for part in &middle[..middle.len() - 1] {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'_> = Asked {
        platform: "x",
        app: "",
        account: "studio",
        tenant: "acme",
        kind: "post.x",
        op: "x.post",
        nearby: false,
        spend: None,
        wanted_at: None,
        pace: None,
    };

    fn budget(per: Per) -> Budget {
        let form = Form::Rolling {
            most: 1,
            window: Duration::minutes(1),
        };
        Budget::of_all(form, per)
    }

    #[test]
    fn a_request_counts_where_all_that_is_said_fits() {
        let some = |it: &str| Some(it.to_owned());
        let x = Budget {
            platform: some("x"),
            op: some("x.*"),
            ..budget(Per::Account)
        };
        assert_eq!(x.counts(&ASKED).as_deref(), Some("studio"));
        assert_eq!(
            x.counts(&Asked {
                op: "y.post",
                ..ASKED
            }),
            None
        );
        assert_eq!(
            x.counts(&Asked {
                platform: "y",
                ..ASKED
            }),
            None
        );
        assert_eq!(
            x.counts(&Asked {
                account: "",
                ..ASKED
            }),
            None
        );
        let of_app = Asked {
            app: "news",
            ..ASKED
        };
        let news = Budget {
            app: some("news"),
            ..budget(Per::App)
        };
        assert_eq!(budget(Per::App).counts(&ASKED).as_deref(), Some("x"));
        assert_eq!(news.counts(&of_app).as_deref(), Some("x/news"));
        assert_eq!(news.counts(&ASKED), None);
        assert_eq!(budget(Per::All).counts(&ASKED).as_deref(), Some(""));
        assert_eq!(budget(Per::Tenant).counts(&ASKED).as_deref(), Some("acme"));
        assert_eq!(budget(Per::Kind).counts(&ASKED).as_deref(), Some("post.x"));
    }

    #[test]
    fn a_star_stands_for_any_letters() {
        for (pattern, text, fits) in [
            ("x.post", "x.post", true),
            ("x.post", "x.posts", false),
            ("x.*", "x.post", true),
            ("x.*", "y.post", false),
            ("*", "", true),
            ("*.read", "x.read", true),
            ("*.read", "x.reads", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
