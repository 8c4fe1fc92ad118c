//! The real daemon, killed between a permit and what is known of it: what was sent is looked for, and
//! what wasn't is sent once it is known.

use futures_util::StreamExt;
use presswork::effect::EffectState;
use presswork::lifecycle::State;
use sqlx::{Connection, PgConnection};

use crate::kit::daemon::Daemon;
use crate::kit::wait;
use crate::world::{ENDED, READY, ended};
use crate::{Place, Shape};

/// Cases that run at once.
const AT_ONCE: usize = 3;
/// Before the send journal has it, which then proves that it never left; after that, when nobody knows;
/// behind the answer, which the journal has; and around what a look found.
const POINTS: [&str; 5] = [
    "effect.after_permit",
    "journal.after_send",
    "effect.after_response",
    "reconciler.before_decide",
    "reconciler.after_decide",
];

/// Waits until a daemon was killed at `point`.
async fn killed(daemon: &Daemon, point: &str) {
    let said = format!("crashpoint {point}: kill");
    let what = || format!("{said}; the daemon said:\n{}", daemon.stderr());
    wait::until_or(what, ENDED, async || daemon.stderr().contains(&said)).await;
    assert!(!daemon.wait_exit(READY).await.success());
}

/// Nobody takes a look up within a minute that a dead daemon had taken: the ledger's clock is set
/// forward instead.
async fn later(place: &Place) {
    let mut ledger = PgConnection::connect(&place.url).await.expect("connects");
    let sql = "UPDATE presswork.meta SET shift = shift + interval '61 seconds'";
    sqlx::query(sql)
        .execute(&mut ledger)
        .await
        .expect("it is set");
}

async fn killed_at(point: &'static str, shape: Shape) {
    let place = Place::new().await;
    let host = place.host();
    let fault = match point.starts_with("reconciler.") {
        true => "act_reset",
        false => "",
    };
    let (job, envelope) = shape.job(1, fault);
    let daemon = host.run_to(point, "kill");
    daemon.wait_ready(host.api, READY).await;
    host.submit(&envelope).await;
    killed(&daemon, point).await;
    let unsent = ["effect.after_permit", "journal.after_send"];
    let sent = usize::from(!unsent.contains(&point));
    assert_eq!(place.acts(&job.key).await, sent, "{point} {shape:?}");
    if point == "reconciler.before_decide" {
        later(&place).await;
    }
    let again = host.run();
    again.wait_ready(host.api, READY).await;
    ended(&*place.ledger, 1, ENDED).await;
    if point == "journal.after_send" && shape != Shape::Container {
        // it may have left, and never did: which X can't tell
        let (told, effect) = place.job(&job.key).await;
        assert_eq!(told.state, State::Unresolved, "{point} {shape:?}: {told:?}");
        assert_eq!(effect.state, EffectState::Unresolved);
        assert_eq!(place.acts(&job.key).await, 0, "{point} {shape:?}");
        place.sent_again(&host, &job.key).await;
        ended(&*place.ledger, 1, ENDED).await;
    }
    let (told, effect) = place.job(&job.key).await;
    let at = format!("{point} {shape:?}: {told:?} {effect:?}");
    assert_eq!(told.state, State::Completed, "{at}");
    assert_eq!(told.attempts, 0, "{at}");
    assert_eq!(effect.sends as usize, 2 - sent, "{at}");
    assert_eq!(place.acts(&job.key).await, 1, "{at}");
    crate::check(&*place.ledger, &[job], &place.outside.acts().await).await;
    println!("{point} {shape:?}: killed, and all is well");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_around_a_send_or_a_look_a_post_is_there_once() {
    let pairs = POINTS
        .into_iter()
        .flat_map(|point| Shape::ALL.map(|shape| killed_at(point, shape)));
    let mut cases = futures_util::stream::iter(pairs).buffer_unordered(AT_ONCE);
    while cases.next().await.is_some() {}
}
