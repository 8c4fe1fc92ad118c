//! The engine in one process: its loops stepped by hand, and whole engines, over both pairs of
//! stores, with stores and handlers that misbehave on request.

#[path = "../kit/mod.rs"]
mod kit;

mod probe;
mod rig;
mod stormy;
mod wrap;

mod accounts;
mod contents;
mod adopt;
mod dispatch;
mod effects;
mod elsewhere;
mod fair;
mod fallbacks;
mod intake;
mod lane;
mod late;
mod lease;
mod looks;
mod poison;
mod quarantine;
mod relaxing;
mod retry;
mod passes;
mod places;
mod runner;
mod sql;

use std::time::Duration;

use presswork::config::Config;

/// Nothing here takes longer.
const SOON: Duration = Duration::from_secs(20);
const LANE: &str = "default";

/// The default lane's limits.
fn limits(concurrency: Option<u32>, room: u32) -> impl Fn(&mut Config) {
    move |config| {
        let lane = presswork::config::Lane {
            concurrency,
            room,
            ..presswork::config::Lane::default()
        };
        config.lanes.insert(LANE.to_owned(), lane);
    }
}

fn usual(_: &mut Config) {}
