//! Who waits for a pace, and until when.

use chrono::Duration;
use uuid::Uuid;

use super::*;
use crate::budget::{End, Key};
use crate::config::{Account, KindSettings};
use crate::job::JobId;
use crate::lateness::{Policy, Terms};

const KIND: &str = "post.x";

fn at(s: i64) -> Time {
    chrono::DateTime::from_timestamp(1_800_000_000 + s, 0).unwrap()
}

/// `ann` has a pace of a minute, `bob` none.
fn config() -> Config {
    let mut config = Config::default_embedded(std::path::Path::new("/nowhere"));
    for (name, pace) in [("ann", 60), ("bob", 0)] {
        let url = url::Url::parse("https://example.com").unwrap();
        let account = Account {
            pace: Some(std::time::Duration::from_secs(pace)),
            ..Account::at("x", url)
        };
        config.accounts.insert(name.to_owned(), account);
    }
    config
}

/// A job that was due so many seconds ago.
fn waits(account: &str, late: i64) -> Waiting {
    Waiting {
        job: JobId(Uuid::nil()),
        kind: KIND.to_owned(),
        tenant: "acme".to_owned(),
        account: Some(account.to_owned()),
        held: false,
        run_at: at(-late),
        wanted_at: None,
        terms: Terms {
            due: Some(at(-late)),
            ..Terms::default()
        },
        begun: None,
    }
}

/// The last of `account` went then.
fn went(account: &str, then: Time) -> Counted {
    let form = Form::Rolling {
        most: 1,
        window: Duration::seconds(60),
    };
    let mut uses = Uses::default();
    let share = uses.take(&form, 1, then, then).unwrap();
    uses.finish(&form, &share, End::Sent(then), then);
    let key = Key {
        name: PACE.to_owned(),
        whose: account.to_owned(),
    };
    Counted {
        key,
        version: 2,
        uses,
    }
}

/// Whole seconds from now on, as a window's parts are rounded.
fn within(it: Option<Time>) -> Option<i64> {
    it.map(|it| (it - at(0)).num_seconds())
}

fn of(waiting: &[Waiting], counted: &[Counted], config: &Config) -> Vec<Pace> {
    paces((waiting, false), counted, config, at(0))
}

/// The one pace that there is: how many wait, when the next goes, and the last.
fn one(waiting: &[Waiting], counted: &[Counted]) -> (u64, Option<i64>, Option<i64>) {
    let all = of(waiting, counted, &config());
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!((&*all[0].account, all[0].pace_s), ("ann", Some(60)));
    (
        all[0].waiting,
        within(all[0].next_at),
        within(all[0].drains_at),
    )
}

#[test]
fn the_next_and_the_last_follow_from_the_pace() {
    let three = [waits("ann", 300), waits("ann", 200), waits("ann", 100)];
    let (waiting, next, last) = one(&three, &[]);
    assert_eq!((waiting, next), (3, Some(0)));
    // a window's parts are rounded up
    assert!((120..=122).contains(&last.unwrap()), "{last:?}");
    let (waiting, next, last) = one(&three, &[went("ann", at(-20))]);
    assert_eq!(waiting, 3);
    assert!((40..=41).contains(&next.unwrap()), "{next:?}");
    assert!((160..=163).contains(&last.unwrap()), "{last:?}");
    // one that was put off for longer goes then
    let later = Waiting {
        run_at: at(900),
        ..waits("ann", 300)
    };
    assert_eq!(one(&[later], &[]), (1, Some(900), Some(900)));
}

#[test]
fn a_pace_is_told_while_it_keeps_anybody_back() {
    let (waiting, next, last) = one(&[], &[went("ann", at(-20))]);
    assert_eq!((waiting, last), (0, None));
    assert!((40..=41).contains(&next.unwrap()), "{next:?}");
    assert_eq!(of(&[], &[went("ann", at(-120))], &config()), []);
    assert_eq!(of(&[], &[went("bob", at(-20))], &config()), []);
    let all = of(&[waits("bob", 300)], &[], &config());
    assert_eq!((all[0].pace_s, all[0].waiting), (None, 1));
    assert_eq!((all[0].next_at, all[0].drains_at), (None, None));
    assert!(paces((&[waits("ann", 300)], true), &[], &config(), at(0))[0].more);
}

#[test]
fn who_doesnt_go_at_the_pace_isnt_counted() {
    let late = waits("ann", 7_200);
    let with = |terms: Terms| Waiting {
        terms: Terms {
            due: late.terms.due,
            ..terms
        },
        ..late.clone()
    };
    let ask = Terms {
        late: Some(Policy::Ask),
        ..Terms::default()
    };
    let later = Terms {
        late_after_s: Some(8_000),
        ..ask
    };
    let expired = Terms {
        not_after: Some(at(-1)),
        ..Terms::default()
    };
    for (what, it, counts) in [
        ("overdue", late.clone(), true),
        ("in time", waits("ann", 30), false),
        (
            "of no account",
            Waiting {
                account: None,
                ..late.clone()
            },
            false,
        ),
        (
            "held",
            Waiting {
                held: true,
                ..late.clone()
            },
            false,
        ),
        ("asked about", with(ask), false),
        ("not late enough to be asked about", with(later), true),
        ("expired", with(expired), false),
        (
            "begun in time",
            Waiting {
                begun: Some(at(-7_190)),
                ..late.clone()
            },
            false,
        ),
        (
            "begun late",
            Waiting {
                begun: Some(at(-60)),
                ..with(ask)
            },
            true,
        ),
    ] {
        assert_eq!(of(&[it], &[], &config()).len() == 1, counts, "{what}");
    }
    // its kind's word counts where it says nothing itself
    let mut config = config();
    let skip = KindSettings {
        late: Some(Policy::Skip),
        ..KindSettings::default()
    };
    config.kinds.insert(KIND.to_owned(), skip);
    assert_eq!(of(&[late], &[], &config), []);
}
