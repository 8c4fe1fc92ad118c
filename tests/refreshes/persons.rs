//! Who an account is: learned at its first login, compared at each, and changed only where somebody insists.

use presswork::account::{Kept, State};
use presswork::kinds;
use presswork::oauth::{Client, Issuer};
use presswork::operate::Refused;
use presswork::operate::logins::LoggedIn;

use crate::bench::{Host, LIFE_S, Outside, kept, pass, token};
use crate::rig::Base;
use serde_json::json;

const ASK: &str = "account.verify";

/// Why somebody wasn't let in.
fn refused(done: Result<LoggedIn, Refused>) -> String {
    match done {
        Err(Refused::Unfit(told)) => told,
        other => panic!("{other:?}"),
    }
}

fn name(it: &Kept) -> Option<&str> {
    it.person.as_ref().map(|it| it.name.as_str())
}

/// The same account, as one that nobody ever asked about.
async fn forget(base: &Base, name: &str) -> Kept {
    let was = kept(base, name).await;
    let is = Kept {
        person: None,
        ..was.clone()
    };
    base.ledger.put_account(&was, &is, None).await.unwrap();
    kept(base, name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_somebody_else_changes_nothing_unless_a_person_insists() {
    for base in Base::both().await {
        let outside = Outside::new().await;
        let first = outside.log_in(&base, "press").await;
        assert_eq!(name(&first), Some("press"));
        let id = first.person.clone().unwrap().id;
        let told = refused(outside.log_in_as(&base, "press", ("other", false)).await);
        for says in [
            "of @other (id ",
            &format!("account `press` is of @press (id {id})"),
            "--replace",
        ] {
            assert!(told.contains(says), "{says}: {told}");
        }
        assert_eq!(kept(&base, "press").await, first);
        assert!(outside.takes(&token(&first)).await);
        // whoever it was comes in, and is the same person after a renewal
        let again = outside.log_in(&base, "press").await;
        assert_eq!((again.version, &again.person), (2, &first.person));
        let host = Host::new(&base, &outside, kinds::all()).await;
        pass(&outside, &base, LIFE_S - 600).await;
        assert_eq!(host.renew().await, 1);
        let renewed = kept(&base, "press").await;
        assert_eq!((renewed.version, &renewed.person), (3, &first.person));
        // and by a person's word it is another's, which is written down
        let done = outside.log_in_as(&base, "press", ("other", true)).await;
        let told = done.unwrap().told;
        assert!(told.contains("logged in as @other (id "), "{told}");
        let is = kept(&base, "press").await;
        assert_eq!((is.version, name(&is)), (4, Some("other")));
        let audit = base.ledger.audit(None, 1).await.unwrap().remove(0);
        let says = format!(" instead of @press (id {id})");
        assert!(
            audit.action == "account.renew" && audit.detail.contains(&says),
            "{audit:?}"
        );
        refused(outside.log_in_as(&base, "press", ("press", false)).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_tokens_nobody_can_tell_are_not_put_in_place_of_a_persons() {
    for base in Base::both().await {
        let outside = Outside::new().await;
        // nobody to compare with: its tokens are kept, and whose they are is asked another time
        let lost = async |whom: &str| {
            for _ in 0..3 {
                outside.fault(ASK, whom, "503").await;
            }
        };
        lost("press").await;
        let done = outside.log_in_as(&base, "press", ("press", false)).await;
        let done = done.unwrap();
        assert!(done.told.contains("isn't known"), "{}", done.told);
        assert!(done.told.contains("accounts test press"), "{}", done.told);
        assert_eq!((name(&done.account), done.account.version), (None, 1));
        let first = outside.log_in(&base, "press").await;
        assert_eq!((name(&first), first.version), (Some("press"), 2));
        // a platform that fails once is asked again
        outside.fault(ASK, "press", "503").await;
        let is = outside.log_in(&base, "press").await;
        assert_eq!((name(&is), is.version), (Some("press"), 3));
        // one that doesn't answer is believed nothing
        lost("press").await;
        let told = refused(outside.log_in_as(&base, "press", ("press", false)).await);
        assert!(
            told.contains("isn't known") && told.contains("of @press (id "),
            "{told}"
        );
        assert_eq!(kept(&base, "press").await, is);
        lost("press").await;
        let done = outside.log_in_as(&base, "press", ("press", true)).await;
        let done = done.unwrap().account;
        assert_eq!((name(&done), done.version), (None, 4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_account_that_nobody_asked_about_its_own_credentials_tell_first() {
    for base in Base::both().await {
        let outside = Outside::new().await;
        outside.log_in(&base, "press").await;
        let before = forget(&base, "press").await;
        assert_eq!(name(&before), None);
        let told = refused(outside.log_in_as(&base, "press", ("other", false)).await);
        assert!(told.contains("is of @press (id "), "{told}");
        let learned = kept(&base, "press").await;
        assert_eq!(
            (name(&learned), learned.version, &learned.sealed),
            (Some("press"), 1, &before.sealed)
        );
        // once they are past nobody can tell, and who logs in is who it is from then on
        forget(&base, "press").await;
        pass(&outside, &base, LIFE_S + 1).await;
        let done = outside.log_in_as(&base, "press", ("other", false)).await;
        let is = done.unwrap().account;
        assert_eq!(
            (name(&is), is.version, is.state),
            (Some("other"), 2, State::Ok)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_lived_token_is_changed_for_a_long_lived_one_before_it_is_kept() {
    for base in Base::both().await {
        let outside = Outside::new().await;
        for (issuer, name) in [(Issuer::Facebook, "ada"), (Issuer::Instagram, "iris")] {
            outside.set(json!({"issuer_account": name})).await;
            let app = Client {
                issuer,
                exchange: Some(outside.url("/issuer/exchange")),
                ..outside.app()
            };
            let settings = [
                ("base_url", outside.url("/instagram").to_string()),
                ("identifier", "me".to_owned()),
            ];
            let log_in = async || {
                let plan = (name, false, ("instagram", &settings[..]));
                outside.log_in_by(&base, app.clone(), plan).await
            };
            // one that can't be changed isn't kept as it is: it would end within the hour
            outside.fault("token.exchange", name, "refuse").await;
            let told = refused(log_in().await);
            assert!(told.contains("gave no token"), "{told}");
            assert_eq!(base.ledger.account(name).await.unwrap(), None);
            let it = log_in().await.unwrap().account;
            let given = outside.acts("token.exchange", name).await.remove(0);
            let short = outside.acts("token.grant", name).await.remove(1);
            assert_eq!(given["detail"]["used"], short["detail"]["access"]);
            assert_eq!(given["detail"]["access"], token(&it), "{issuer}");
            assert!(outside.takes(&token(&it)).await);
            let left = it.expires_at.unwrap() - base.ledger.now().await.unwrap();
            assert_eq!((left.num_seconds() + 30) / 60, 60 * 24 * 60, "{left}");
            assert_eq!(
                it.person.as_ref().map(|it| it.name.as_str()),
                Some(name),
                "{issuer}"
            );
        }
    }
}
