//! Budgets: what is used is written by compare-and-set, all that a request needs or nothing.

use std::slice::from_ref;

use futures_util::future::join_all;
use presswork::budget::{Change, Counted, Form, Key};
use presswork::clock::Time;
use presswork::ledger::Audit;

use super::fixture::Fixture;

fn key(name: &str, whose: &str) -> Key {
    Key {
        name: name.to_owned(),
        whose: whose.to_owned(),
    }
}

const FORM: Form = Form::Concurrency { most: 1_000 };

/// As read, with one more under way.
async fn one_more(f: &Fixture, keys: &[Key]) -> Vec<Counted> {
    let (mut read, now) = f.counted(keys).await.unwrap();
    for it in &mut read {
        let until = now + chrono::Duration::minutes(1);
        it.uses.take(&FORM, 1, now, until).unwrap();
    }
    read
}

async fn used(f: &Fixture, key: &Key) -> u64 {
    let (read, now) = f.counted(from_ref(key)).await.unwrap();
    read[0].uses.used(&FORM, now)
}

pub async fn what_is_used_is_kept_and_begins_empty(f: Fixture) {
    let (alice, all) = (key("posts", "alice"), key("posts", ""));
    let (read, _) = f.counted(&[]).await.unwrap();
    assert!(read.is_empty());
    let (read, now) = f.counted(&[alice.clone(), all.clone()]).await.unwrap();
    assert_eq!(read.len(), 2);
    assert!(
        read.iter()
            .all(|it| it.version == 0 && it.uses.used(&FORM, now) == 0)
    );
    let more = one_more(&f, from_ref(&alice)).await;
    assert!(now <= f.count(&more).await.unwrap().unwrap());
    let (read, _) = f.counted(from_ref(&alice)).await.unwrap();
    assert_eq!((read[0].version, &read[0].uses), (1, &more[0].uses));
    assert_eq!((used(&f, &alice).await, used(&f, &all).await), (1, 0));
    let names = f.all_counted().await.unwrap().into_iter().map(|it| it.key);
    assert_eq!(names.collect::<Vec<_>>(), [all, alice]);
}

pub async fn all_of_a_write_is_done_or_none(f: Fixture) {
    let (a, b) = (key("a", ""), key("b", ""));
    let both = one_more(&f, &[a.clone(), b.clone()]).await;
    let first = one_more(&f, from_ref(&b)).await;
    assert!(f.count(&first).await.unwrap().is_some());
    assert_eq!(f.count(&both).await.unwrap(), None, "b has changed");
    assert_eq!((used(&f, &a).await, used(&f, &b).await), (0, 1));
    assert_eq!(
        f.count(&first).await.unwrap(),
        None,
        "its own write was the change"
    );
}

pub async fn of_concurrent_counts_each_counts(f: Fixture) {
    let keys = [key("a", ""), key("b", ""), key("c", "")];
    let count = async |n: usize| {
        // in another order each, and not all of them
        let mut keys = keys.clone();
        keys.rotate_left(n % 3);
        let keys = &keys[..2];
        for _ in 0..1_000 {
            let more = one_more(&f, keys).await;
            if f.count(&more).await.unwrap().is_some() {
                return;
            }
        }
        panic!("somebody always comes first");
    };
    join_all((0..24).map(count)).await;
    for key in &keys {
        assert_eq!(used(&f, key).await, 16);
    }
}

fn by(at: Time) -> Audit {
    Audit {
        actor: "ada".to_owned(),
        action: "budget".to_owned(),
        job: None,
        detail: "posts: 3".to_owned(),
        at,
    }
}

pub async fn a_change_holds_until_its_time_or_until_it_is_taken_back(f: Fixture) {
    let now = f.now().await.unwrap();
    let audit = by(now);
    let change = |name: &str, most, until| Change {
        name: name.to_owned(),
        most,
        reason: "too many".to_owned(),
        actor: "ada".to_owned(),
        at: now,
        until,
    };
    let soon = Some(now + chrono::Duration::seconds(60));
    for it in [
        change("posts", 5, None),
        change("posts", 3, soon),
        change("reads", 9, None),
    ] {
        f.change_budget(&it, &audit).await.unwrap();
    }
    let names = async || -> Vec<(String, u64)> {
        let changes = f.budget_changes().await.unwrap();
        changes.into_iter().map(|it| (it.name, it.most)).collect()
    };
    let (posts, reads) = (("posts".to_owned(), 3), ("reads".to_owned(), 9));
    assert_eq!(names().await, [posts, reads.clone()]);
    let told = f.budget_changes().await.unwrap();
    assert_eq!(
        (&*told[0].actor, &*told[0].reason, told[0].until),
        ("ada", "too many", soon)
    );
    f.shift(61).await;
    assert_eq!(names().await, [reads]);
    assert!(f.restore_budget("reads", &audit).await.unwrap());
    assert!(!f.restore_budget("reads", &audit).await.unwrap());
    assert!(names().await.is_empty());
    assert_eq!(f.audit(None, 10).await.unwrap().len(), 4);
}
