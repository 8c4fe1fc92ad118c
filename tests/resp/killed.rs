//! A daemon that is killed around its answers: what was answered is there, what wasn't may be sent again.

use presswork::ledger::Ledger;

use crate::clients::{INBOX, Pier, READY, job};
use crate::harbour::wire;

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_its_answer_a_command_is_repeated_and_done_once() {
    for (point, written) in [
        ("intake.before_commit", false),
        ("intake.after_commit", true),
    ] {
        for several in [false, true] {
            let pier = Pier::new();
            let crash = format!("{point}:3:kill");
            let daemon = pier.start(&[("PRESSWORK_CRASH", &crash)]).await;
            let mut client = pier.client().await;
            let words = |n: u32| {
                let mut words = vec![
                    "RPUSH".to_owned(),
                    INBOX.to_owned(),
                    job(&format!("k{n}"), 0),
                ];
                words.extend(several.then(|| job(&format!("l{n}"), 0)));
                words
            };
            let said = |it: &[String]| wire(&it.iter().map(String::as_str).collect::<Vec<_>>());
            let many = 1 + i64::from(several);
            for n in 0..2 {
                client.send(&said(&words(n))).await;
                assert_eq!(client.hear().await.unwrap(), many);
            }
            client.send(&said(&words(2))).await;
            assert_eq!(
                client.hear().await,
                None,
                "{crash}: it is killed before it answers"
            );
            daemon.wait_exit(READY).await;
            for key in ["k0", "k1"] {
                assert!(pier.has(key).await, "{crash}: {key} was answered");
            }
            assert_eq!(pier.has("k2").await, written, "{crash}");
            assert_eq!(pier.has("l2").await, written && several, "{crash}");
            let before = pier
                .ledger()
                .await
                .job_of_key("default", "test.job", "k2")
                .await
                .unwrap();
            let _again = pier.start(&[]).await;
            let mut client = pier.client().await;
            client.send(&said(&words(2))).await;
            assert_eq!(client.hear().await.unwrap(), many);
            let after = pier
                .ledger()
                .await
                .job_of_key("default", "test.job", "k2")
                .await
                .unwrap();
            assert!(
                after.is_some() && before.is_none_or(|it| Some(it) == after),
                "{crash}"
            );
        }
    }
}
