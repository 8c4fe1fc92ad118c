//! Sentinels: they know which server is the master by now.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::node::{Node, Told, Way};

/// A sentinel may take so long to answer; then the next one is asked.
const ASKED: Duration = Duration::from_secs(1);

/// The sentinels of a master.
pub(super) struct Sentinels {
    all: Vec<Node>,
    name: String,
    /// How the master is spoken to.
    way: Way,
    /// Who is asked first.
    next: AtomicUsize,
}

impl Sentinels {
    /// The sentinels `all` (one at least) of the master `name`, which is spoken to in its own way.
    pub(super) fn new(all: Vec<Node>, name: String, way: Way) -> Self {
        Self {
            all,
            name,
            way,
            next: AtomicUsize::new(0),
        }
    }

    /// Who is the master, by the first sentinel that knows.
    pub(super) async fn master(&self) -> Told<Node> {
        let mut asked = redis::cmd("SENTINEL");
        asked.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let first = self.next.load(Ordering::Relaxed);
        let mut whys = Vec::new();
        for n in 0..self.all.len() {
            let at = (first + n) % self.all.len();
            let sentinel = &self.all[at];
            match sentinel.ask::<Option<(String, u16)>>(&asked, ASKED).await {
                Ok(Some((host, port))) => {
                    self.next.store(at, Ordering::Relaxed);
                    return self.way.to(&host, port);
                }
                Ok(None) => whys.push(format!(
                    "{}: this sentinel knows no master `{}`",
                    sentinel.place, self.name
                )),
                Err(why) => whys.push(why),
            }
        }
        Err(format!("no sentinel helps: {}", whys.join("; ")))
    }

    /// Whom they named wasn't the master: another one is asked first from now on.
    pub(super) fn doubt(&self) {
        self.next.fetch_add(1, Ordering::Relaxed);
    }
}
