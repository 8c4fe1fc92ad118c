//! Accounts: written by who knows how they stood; how they stand holds or lets go their jobs in the same
//! write.

use std::collections::BTreeMap;
use std::time::Duration;

use presswork::account::{Granted, Kept, Renewed, Sealed, State, Turn};
use presswork::effect::{Effect, EffectClass, EffectState, Evidence};
use presswork::gate::{Cause, Closure, Scope};
use presswork::ledger::{Audit, Conclusion};
use presswork::person::Person;
use uuid::Uuid;

use super::closures::{new, permitted};
use super::fixture::{Fixture, audit, fence, near};

async fn kept(f: &Fixture, name: &str) -> Kept {
    let now = f.time().await;
    // as precise as the ledgers are
    let until = now + chrono::Duration::days(60);
    Kept {
        name: name.to_owned(),
        platform: "mastodon".to_owned(),
        tenant: Some("acme".to_owned()),
        label: "the shop's ü".to_owned(),
        settings: BTreeMap::from([("base_url".to_owned(), "https://m.example".to_owned())]),
        sealed: Sealed {
            key: "2026-11".to_owned(),
            bytes: vec![1, 0, 255, 7],
        },
        version: 1,
        edition: 0,
        scopes: vec!["read".to_owned(), "write:media".to_owned()],
        expires_at: chrono::DateTime::from_timestamp_micros(until.timestamp_micros()),
        state: State::Ok,
        why: None,
        since: now,
        turn: None,
        granted: None,
        person: Some(Person {
            id: "7".to_owned(),
            name: "ädä".to_owned(),
        }),
        created_at: now,
        created_by: "ann".to_owned(),
    }
}

fn others(sealed: Sealed) -> Renewed {
    Renewed {
        sealed,
        scopes: vec![],
        expires_at: None,
        granted: None,
    }
}

async fn deed(f: &Fixture, action: &str) -> Audit {
    audit(action, None, f.time().await)
}

async fn added(f: &Fixture, name: &str) -> Kept {
    let it = kept(f, name).await;
    assert!(
        f.add_account(&it, &deed(f, "account.add").await)
            .await
            .unwrap()
    );
    found(f, name).await
}

async fn found(f: &Fixture, name: &str) -> Kept {
    f.account(name).await.unwrap().expect("it is there")
}

async fn put(f: &Fixture, was: &Kept, it: Kept) -> Option<i64> {
    f.put_account(was, &it, None).await.unwrap()
}

async fn causes(f: &Fixture) -> Vec<(Cause, String)> {
    let closures = f.closures().await.unwrap().into_iter();
    let mut all: Vec<_> = closures
        .map(|it| (it.cause, it.scope.account.unwrap_or_default()))
        .collect();
    all.sort();
    all
}

pub async fn an_account_comes_back_as_it_was(f: Fixture) {
    assert_eq!(f.account("shop").await.unwrap(), None);
    let before = f.accounts_edition().await.unwrap();
    let it = kept(&f, "shop").await;
    assert!(
        f.add_account(&it, &deed(&f, "account.add").await)
            .await
            .unwrap()
    );
    let back = found(&f, "shop").await;
    let now = f.time().await;
    assert!(near(back.created_at, now) && near(back.since, now));
    assert_ne!(f.accounts_edition().await.unwrap(), before);
    let wanted = Kept {
        edition: back.edition,
        since: back.since,
        created_at: back.created_at,
        ..it
    };
    assert_eq!(back, wanted);
    let bare = Kept {
        name: "bare".to_owned(),
        tenant: None,
        settings: BTreeMap::new(),
        scopes: vec![],
        expires_at: None,
        person: None,
        turn: Some(Turn {
            by: Uuid::from_u128(7),
            until: chrono::DateTime::from_timestamp_micros(1_000_007).unwrap(),
        }),
        granted: Some(Granted {
            tries: 1,
            not_before: chrono::DateTime::from_timestamp_micros(3_000_007),
            refused: true,
            ..Granted::new(
                "x-app",
                chrono::DateTime::from_timestamp_micros(2_000_007).unwrap(),
            )
        }),
        ..wanted.clone()
    };
    assert!(
        f.add_account(&bare, &deed(&f, "account.add").await)
            .await
            .unwrap()
    );
    let all = f.accounts().await.unwrap();
    assert_eq!(all[1], wanted);
    let turn = bare.turn;
    assert_eq!((all[0].name.as_str(), all[0].turn), ("bare", turn));
    assert_eq!((&all[0].granted, &all[0].person), (&bare.granted, &None));
    assert_eq!((&all[0].tenant, &all[0].expires_at), (&None, &None));
    let told = f.audit(None, 1).await.unwrap().remove(0);
    assert_eq!(
        (told.action.as_str(), told.actor.as_str()),
        ("account.add", "ann")
    );
}

pub async fn a_name_is_one_accounts_until_it_is_removed(f: Fixture) {
    let one = added(&f, "shop").await;
    let deed = deed(&f, "account.add").await;
    let other = Kept {
        sealed: Sealed {
            bytes: vec![9],
            ..one.sealed.clone()
        },
        ..one.clone()
    };
    assert!(!f.add_account(&other, &deed).await.unwrap());
    // its own answer was lost
    assert!(f.add_account(&one, &deed).await.unwrap());
    assert_eq!(found(&f, "shop").await, one);
    assert_eq!(f.audit(None, 9).await.unwrap().len(), 1);
    let before = f.accounts_edition().await.unwrap();
    assert!(f.remove_account("shop", &deed).await.unwrap());
    assert!(!f.remove_account("shop", &deed).await.unwrap());
    assert_eq!(f.audit(None, 9).await.unwrap().len(), 2);
    assert_ne!(f.accounts_edition().await.unwrap(), before);
    assert_eq!(put(&f, &one, one.clone()).await, None);
    assert!(f.add_account(&other, &deed).await.unwrap());
    // what was read of the one that was there before writes nothing
    assert_eq!(put(&f, &one, one.clone()).await, None);
    assert_eq!(found(&f, "shop").await.sealed, other.sealed);
}

pub async fn an_account_is_changed_by_who_knows_how_it_stood(f: Fixture) {
    let was = added(&f, "shop").await;
    f.shift(5).await;
    let turn = Some(Turn {
        by: Uuid::from_u128(1),
        until: chrono::DateTime::from_timestamp_micros(9_000_000).unwrap(),
    });
    let refreshing = |n: u128| Kept {
        turn: turn.map(|it| Turn {
            by: Uuid::from_u128(n),
            ..it
        }),
        ..was.clone().standing(State::Refreshing, None)
    };
    let edition = put(&f, &was, refreshing(1)).await.unwrap();
    assert_eq!(f.accounts_edition().await.unwrap(), edition);
    assert_eq!(put(&f, &was, refreshing(2)).await, None);
    let is = found(&f, "shop").await;
    assert_eq!(
        (is.state, is.turn, is.edition),
        (State::Refreshing, turn, edition)
    );
    assert!(was.since < is.since);
    // the turn is another one's: the same state, and still compared
    let taken = put(
        &f,
        &is,
        Kept {
            edition: 0,
            ..refreshing(3)
        },
    )
    .await;
    assert!(taken.is_some());
    assert_eq!(put(&f, &is, is.clone()).await, None);
    let was = found(&f, "shop").await;
    assert_eq!(was.since, is.since);
    let sealed = Sealed {
        key: "new".to_owned(),
        bytes: vec![4, 4],
    };
    assert!(was.person.is_some());
    let renewed = Kept {
        person: Some(Person {
            id: "did:plc:42".to_owned(),
            name: String::new(),
        }),
        ..was.clone().renewed(others(sealed))
    };
    let action = deed(&f, "account.renew").await;
    let edition = f.put_account(&was, &renewed, Some(&action)).await.unwrap();
    let is = found(&f, "shop").await;
    let wanted = Kept {
        edition: edition.unwrap(),
        since: is.since,
        ..renewed
    };
    assert_eq!(is, wanted);
    assert_eq!((is.version, is.created_at), (2, was.created_at));
    assert_eq!(f.audit(None, 1).await.unwrap()[0].action, "account.renew");
}

pub async fn of_many_at_once_one_takes_an_accounts_turn(f: Fixture) {
    let was = added(&f, "shop").await;
    let take = async |n: u128| {
        let turn = Turn {
            by: Uuid::from_u128(n),
            until: was.since,
        };
        let it = Kept {
            turn: Some(turn),
            ..was.clone().standing(State::Refreshing, None)
        };
        put(&f, &was, it).await.is_some()
    };
    let taken = futures_util::future::join_all((0..8).map(take)).await;
    assert_eq!(taken.iter().filter(|it| **it).count(), 1);
    let by = found(&f, "shop").await.turn.unwrap().by;
    let winner = taken.iter().position(|it| *it).unwrap();
    assert_eq!(by, Uuid::from_u128(winner as u128));
}

pub async fn how_an_account_stands_closes_and_opens_it(f: Fixture) {
    let mut is = added(&f, "shop").await;
    let is_at = is.created_at;
    let shop = |cause| vec![(cause, "shop".to_owned())];
    let put = async |is: &mut Kept, it: Kept| {
        f.put_account(is, &it, None).await.unwrap().unwrap();
        *is = found(&f, "shop").await;
    };
    let why = |it: &str| Some(it.to_owned());
    let it = is
        .clone()
        .standing(State::Attention, why("http_401: revoked"));
    put(&mut is, it).await;
    assert_eq!(causes(&f).await, shop(Cause::Credentials));
    let closure = f.closures().await.unwrap().remove(0);
    assert_eq!(
        (closure.reason.as_str(), closure.until),
        ("http_401: revoked", None)
    );
    // one that is looked after isn't open yet
    let it = is.clone().standing(State::Refreshing, None);
    put(&mut is, it).await;
    assert_eq!(causes(&f).await, shop(Cause::Credentials));
    let it = is.clone().renewed(others(is.sealed.clone()));
    put(&mut is, it).await;
    assert_eq!((is.state, causes(&f).await), (State::Ok, vec![]));
    // what renews it goes on while its jobs go, and once it was refused they wait for it
    let granted = |refused| Granted {
        refused,
        tries: 1,
        ..Granted::new("app", is_at)
    };
    let of = |it: Kept, refused| Kept {
        granted: Some(granted(refused)),
        ..it.standing(State::Refreshing, why("http_401"))
    };
    let it = of(is.clone(), false);
    put(&mut is, it).await;
    assert_eq!(causes(&f).await, []);
    let it = of(is.clone(), true);
    put(&mut is, it).await;
    assert_eq!(causes(&f).await, shop(Cause::Credentials));
    assert_eq!(is.granted, Some(granted(true)));
    let it = is.clone().renewed(others(is.sealed.clone()));
    put(&mut is, it).await;
    assert_eq!((is.state, causes(&f).await), (State::Ok, vec![]));
    assert_eq!(is.granted, None);
    // a stop of a person's own isn't let go by what doesn't leave it
    let area = Scope {
        account: Some("shop".to_owned()),
        ..Scope::default()
    };
    let stop = Closure::new(Cause::Stop, area.clone(), ("ada", "mine"), is.since);
    f.close(&stop, false, None).await.unwrap();
    let it = is.clone().standing(State::Refreshing, None);
    put(&mut is, it).await;
    let it = is.clone().standing(State::Ok, None);
    put(&mut is, it).await;
    assert_eq!(causes(&f).await, shop(Cause::Stop));
    let it = is.clone().standing(State::Paused, why("holidays"));
    put(&mut is, it).await;
    assert_eq!(f.closures().await.unwrap()[0].reason, "holidays");
    // refused while it is paused, then renewed: it stays paused
    let refused = Closure::new(Cause::Credentials, area, ("presswork", "401"), is.since);
    f.close(&refused, false, None).await.unwrap();
    let it = is.clone().renewed(others(is.sealed.clone()));
    put(&mut is, it).await;
    assert_eq!(
        (is.state, causes(&f).await),
        (State::Paused, shop(Cause::Stop))
    );
    let it = is.clone().standing(State::Ok, None);
    put(&mut is, it).await;
    assert_eq!(causes(&f).await, []);
    // what was written down by who came too late closes nothing
    let late = Kept {
        edition: 0,
        ..is.clone()
    };
    let it = late.clone().standing(State::Attention, why("late"));
    assert_eq!(f.put_account(&late, &it, None).await.unwrap(), None);
    assert_eq!(causes(&f).await, []);
    // nothing stays closed for what is gone
    let it = is.clone().standing(State::Paused, None);
    put(&mut is, it).await;
    let deed = deed(&f, "account.remove").await;
    assert!(f.remove_account("shop", &deed).await.unwrap());
    assert_eq!(causes(&f).await, []);
}

pub async fn nothing_is_permitted_for_another_tenants_account(f: Fixture) {
    let (_, own) = f.start(new("shop", "acme", &[])).await;
    let (_, other) = f.start(new("shop", "zeta", &[])).await;
    let (_, bare) = f.start(new("", "zeta", &[])).await;
    let is = added(&f, "shop").await;
    assert!(!permitted(&f, &other, Some("mastodon")).await);
    assert!(permitted(&f, &own, Some("mastodon")).await);
    assert!(permitted(&f, &bare, None).await);
    // it is everybody's from now on
    let it = Kept {
        tenant: None,
        ..is.clone()
    };
    assert!(put(&f, &is, it).await.is_some());
    assert!(permitted(&f, &other, Some("mastodon")).await);
}

pub async fn nothing_is_permitted_for_two_accounts_of_one_job(f: Fixture) {
    let (_, job) = f.start(new("shop", "acme", &[])).await;
    let mine = fence(&job);
    let effect = |account: &str, revision| {
        let (of, step) = ((job.id, revision), ("post", 0));
        Effect::new(of, step, account, "openai.text", EffectClass::P)
    };
    let permitted = async |it: &Effect| {
        f.intend(&mine, it).await.unwrap().unwrap();
        let (from, within) = ((EffectState::Intended, 0), Duration::from_secs(60));
        f.permit(&mine, it.id, from, within, None).await.unwrap()
    };
    // what was only written down keeps nobody from anything
    let (shop, other) = (effect("shop", 0), effect("other", 0));
    f.intend(&mine, &shop).await.unwrap().unwrap();
    assert!(permitted(&other).await);
    assert!(!permitted(&shop).await);
    // however it ended there
    for to in [EffectState::Refused, EffectState::Unknown] {
        let conclusion = Conclusion {
            to,
            receipt: None,
            evidence: Evidence::new(f.time().await, "so it was".to_owned()),
            look_in: None,
        };
        let from = (f.effects(job.id).await.unwrap().remove(1).state, 1);
        assert!(f.decide(other.id, from, &conclusion, None).await.unwrap());
        assert!(!permitted(&shop).await, "{to}");
    }
    // and of what an operator made of it since that says nothing
    assert!(permitted(&effect("shop", 1)).await);
}
