//! The lanes of a daemon: a worker and a dispatcher each, kept alive, and fitted to a new
//! configuration without a restart.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::dispatcher::Dispatcher;
use super::shared::{Assigned, Shared};
use super::supervisor::Supervisor;
use super::{lane, runner};
use crate::telemetry::metrics;

struct Open {
    room: Arc<Semaphore>,
    places: u32,
    closed: CancellationToken,
}

/// The open lanes.
pub struct Lanes {
    shared: Arc<Shared>,
    supervisor: Supervisor,
    open: Mutex<BTreeMap<String, Open>>,
}

impl Lanes {
    /// No lanes yet; [`Lanes::fit`] opens them.
    pub fn new(shared: Arc<Shared>, supervisor: Supervisor) -> Self {
        Self {
            shared,
            supervisor,
            open: Mutex::default(),
        }
    }

    /// Opens, widens, narrows and closes lanes as the configuration now says. What runs goes on.
    pub fn fit(&self) {
        let config = self.shared.config.load_full();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|name, lane| {
            let stays = config.lanes.contains_key(name);
            if !stays {
                lane.closed.cancel();
            }
            stays
        });
        for (name, lane) in &config.lanes {
            let places = lane.places();
            match open.get_mut(name) {
                Some(it) => it.resize(places),
                None => {
                    open.insert(name.clone(), self.start(name, places));
                }
            }
        }
    }

    /// Waits until every lane has ended, as they do when the daemon drains.
    pub async fn ended(&self) {
        self.supervisor.ended().await;
    }

    /// Starts a lane: the worker under supervision, and a dispatcher for each life of the worker.
    fn start(&self, name: &str, places: u32) -> Open {
        let room = Arc::new(Semaphore::new(places as usize));
        let closed = CancellationToken::new();
        let lane = Open {
            room: room.clone(),
            places,
            closed: closed.clone(),
        };
        let (shared, name) = (self.shared.clone(), name.to_owned());
        self.supervisor
            .keep(&format!("lane {name}"), closed.clone(), move || {
                let (shared, room, name) = (shared.clone(), room.clone(), name.clone());
                let closed = closed.clone();
                async move { live(shared, room, &name, closed).await }
            });
        lane
    }
}

/// One life of a lane: it ends when the daemon drains or the lane is closed, and all its jobs have
/// ended.
async fn live(
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    name: &str,
    closed: CancellationToken,
) -> anyhow::Result<()> {
    let (jobs, claimed) = mpsc::channel::<Assigned>(super::shared::BATCH);
    let dispatcher = Dispatcher::new(shared.clone(), name, room, jobs, closed);
    let work = {
        let (shared, lane) = (shared.clone(), name.to_owned());
        move |assigned: Assigned| {
            let running = metrics::running(&lane);
            // boxed: apalis moves it several times, and it holds all that an attempt may need
            let run = Box::pin(runner::run(shared.clone(), assigned));
            async move {
                run.await;
                drop(running);
            }
        }
    };
    let dispatch = async move {
        dispatcher.run().await;
        // dropping it drops the sender: the worker drains and ends
        drop(dispatcher);
    };
    let (worked, ()) = tokio::join!(lane::run(name, claimed, work), dispatch);
    worked
}

impl Open {
    fn resize(&mut self, places: u32) {
        if self.places < places {
            self.room.add_permits((places - self.places) as usize);
        } else if places < self.places {
            let (room, fewer) = (self.room.clone(), self.places - places);
            // waits for running jobs to end: a lower limit drains and kills nothing
            tokio::spawn(async move {
                if let Ok(taken) = room.acquire_many_owned(fewer).await {
                    taken.forget();
                }
            });
        }
        self.places = places;
    }
}
