//! A simulated internet: OpenAI, Mastodon, Bluesky, X, Instagram, S3, an OAuth issuer and a team's endpoint in one process that logs what it really did
//! and misbehaves on request. It is for trying things out and for tests; it never calls anything outside.
//!
//! One port serves everything: `/openai/v1/...`, `/mastodon/api/...`, `/bluesky/xrpc/...`, `/x/2/...`,
//! `/instagram/v25.0/...`, `/s3/<bucket>/<key>`, `/http/<account>/...`, `/issuer/...`, the wall at `/` and the control paths below `/_sandbox/`. `acts.jsonl` in its directory is the truth about what happened; every act is on
//! disk before its answer leaves.

mod clock;
mod text;
mod spool;
mod acts;
mod settings;
mod wire;
mod rate;
mod exchange;
mod form;
mod play;
mod faults;
mod journal;
mod stage;
mod grants;
mod hook;
mod openai;
mod mastodon;
mod bluesky;
mod x;
mod instagram;
mod s3;
mod worker;
mod issuer;
mod wall;
mod control;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use axum::{Router, routing::any};
use tokio::{net::TcpListener, task::JoinSet};

use self::{
    acts::ActLog,
    bluesky::Bluesky,
    clock::Clock,
    control::World,
    exchange::Platform,
    faults::FaultBook,
    grants::Grants,
    instagram::Instagram,
    issuer::Issuer,
    journal::Journal,
    mastodon::Mastodon,
    openai::OpenAi,
    s3::S3,
    spool::Spool,
    stage::{Shared, Stage},
    worker::Worker,
    x::X,
};

pub use self::worker::SECRET as WORKER_SECRET;

/// How often scheduled statuses are looked at.
const TICK: Duration = Duration::from_secs(1);

/// What a sandbox needs to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where `acts.jsonl` and the media live; created. One running sandbox owns it.
    pub dir: PathBuf,
    /// Makes the drawn faults reproducible; without it none are drawn.
    pub seed: Option<u64>,
    /// The share of requests, 0 to 1, that a drawn fault bends; needs a seed.
    pub fault_rate: f64,
    /// Writes `requests.jsonl` beside the acts: when each request came, and when it ended.
    pub requests: bool,
}

/// A running sandbox. Dropping it ends it, without waiting for the last act.
#[derive(Debug)]
pub struct Sandbox {
    addr: SocketAddr,
    tasks: JoinSet<()>,
    shared: Arc<Shared>,
}

impl Sandbox {
    /// Reads the act log of the directory back and listens.
    ///
    /// # Errors
    /// When the options contradict each other, the directory can't be used or is in use, or the address is taken.
    pub async fn start(options: Options) -> anyhow::Result<Sandbox> {
        ensure!(
            (0.0..=1.0).contains(&options.fault_rate),
            "the fault rate must lie between 0 and 1"
        );
        ensure!(
            options.fault_rate == 0.0 || options.seed.is_some(),
            "a fault rate needs a seed: name one"
        );
        let listener = TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("the sandbox can't listen on {}", options.listen))?;
        let addr = listener
            .local_addr()
            .context("asking for the sandbox's own address")?;
        let (dir, requests) = (options.dir.clone(), options.requests);
        let opened = tokio::task::spawn_blocking(move || {
            // the log first: it knows whether another sandbox uses the directory
            let acts = ActLog::open(&dir)?;
            let spool = Spool::open(&dir).context("preparing the folder of large bodies")?;
            let journal = match requests {
                true => Journal::to_file(&dir.join("requests.jsonl"))
                    .context("making requests.jsonl")?,
                false => Journal::default(),
            };
            anyhow::Ok((acts, spool, journal))
        });
        let (acts, spool, journal) = opened.await.context("opening the act log")??;
        let shared = Arc::new(Shared {
            clock: Arc::new(Clock::default()),
            acts: Arc::new(acts),
            faults: FaultBook::new(options.seed, options.fault_rate),
            journal: Arc::new(journal),
            settings: Default::default(),
            spool: Arc::new(spool),
            late: Default::default(),
        });
        let (router, world) = assemble(&shared, base_url(addr));
        let mut tasks = JoinSet::new();
        tasks.spawn(wire::accept(listener, router));
        tasks.spawn(async move {
            let mut tick = tokio::time::interval(TICK);
            loop {
                tick.tick().await;
                world.mastodon.platform.publish_due();
            }
        });
        Ok(Sandbox {
            addr,
            tasks,
            shared,
        })
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address as a base URL without a slash at its end.
    pub fn url(&self) -> String {
        base_url(self.addr)
    }

    /// Cuts every connection, forgets late acts, and gives the directory back.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
        let mut late = std::mem::take(&mut *acts::held(&self.shared.late));
        late.shutdown().await;
        self.shared.acts.close();
    }

    /// Serves until the process ends.
    pub async fn wait(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // They hold the act log, and with it the directory.
        acts::held(&self.shared.late).abort_all();
    }
}

/// Nobody can open the address that means all addresses.
fn base_url(mut addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{addr}")
}

fn assemble(shared: &Arc<Shared>, base: String) -> (Router, Arc<World>) {
    let (acts, clock) = (&shared.acts, &shared.clock);
    let openai = OpenAi::new(
        Arc::clone(acts),
        Arc::clone(clock),
        Arc::clone(&shared.settings),
        base.clone(),
    );
    let grants = Arc::new(Grants::default());
    let mastodon = Mastodon::new(
        Arc::clone(acts),
        Arc::clone(clock),
        Arc::clone(&grants),
        base.clone(),
    );
    let bluesky = Bluesky::new(Arc::clone(acts), Arc::clone(clock), base.clone());
    let x = X::new(
        Arc::clone(acts),
        Arc::clone(clock),
        Arc::clone(&grants),
        Arc::clone(&shared.settings),
        Arc::clone(&shared.spool),
        base.clone(),
    );
    let instagram = Instagram::new(
        Arc::clone(acts),
        Arc::clone(clock),
        Arc::clone(&grants),
        Arc::clone(&shared.settings),
        Arc::clone(&shared.spool),
        base.clone(),
    );
    let s3 = S3::new(
        Arc::clone(acts),
        Arc::clone(clock),
        Arc::clone(&shared.spool),
        base,
    );
    let worker = Worker::new(
        Arc::clone(acts),
        Arc::clone(clock),
        Arc::clone(&shared.settings),
    );
    let issuer = Issuer::new(
        Arc::clone(acts),
        Arc::clone(clock),
        Arc::clone(&shared.settings),
        grants,
    );
    for act in acts.all() {
        match act.platform.as_str() {
            OpenAi::NAME => openai.replay(&act),
            Mastodon::NAME => mastodon.replay(&act),
            Bluesky::NAME => bluesky.replay(&act),
            X::NAME => x.replay(&act),
            Instagram::NAME => instagram.replay(&act),
            S3::NAME => s3.replay(&act),
            Worker::NAME => worker.replay(&act),
            Issuer::NAME => issuer.replay(&act),
            other => tracing::warn!(
                platform = other,
                n = act.n,
                "an act of a platform that is unknown here"
            ),
        }
    }
    let world = Arc::new(World {
        openai: Arc::new(Stage {
            platform: openai,
            shared: Arc::clone(shared),
        }),
        mastodon: Arc::new(Stage {
            platform: mastodon,
            shared: Arc::clone(shared),
        }),
        bluesky: Arc::new(Stage {
            platform: bluesky,
            shared: Arc::clone(shared),
        }),
        x: Arc::new(Stage {
            platform: x,
            shared: Arc::clone(shared),
        }),
        instagram: Arc::new(Stage {
            platform: instagram,
            shared: Arc::clone(shared),
        }),
        s3: Arc::new(Stage {
            platform: s3,
            shared: Arc::clone(shared),
        }),
        worker: Arc::new(Stage {
            platform: worker,
            shared: Arc::clone(shared),
        }),
        issuer: Arc::new(Stage {
            platform: issuer,
            shared: Arc::clone(shared),
        }),
        shared: Arc::clone(shared),
    });
    let router = Router::new()
        .route(
            "/openai/{*rest}",
            any(stage::serve::<OpenAi>).with_state(Arc::clone(&world.openai)),
        )
        .route(
            "/mastodon/api/{*rest}",
            any(stage::serve::<Mastodon>).with_state(Arc::clone(&world.mastodon)),
        )
        .route(
            "/bluesky/xrpc/{*rest}",
            any(stage::serve::<Bluesky>).with_state(Arc::clone(&world.bluesky)),
        )
        .route(
            "/x/2/{*rest}",
            any(stage::serve::<X>).with_state(Arc::clone(&world.x)),
        )
        .route(
            "/instagram/{*rest}",
            any(stage::serve::<Instagram>).with_state(Arc::clone(&world.instagram)),
        )
        .route(
            "/s3/{*rest}",
            any(stage::serve::<S3>).with_state(Arc::clone(&world.s3)),
        )
        .route(
            "/http/{*rest}",
            any(stage::serve::<Worker>).with_state(Arc::clone(&world.worker)),
        )
        .route(
            "/issuer/{*rest}",
            any(stage::serve::<Issuer>).with_state(Arc::clone(&world.issuer)),
        )
        .merge(wall::routes(Arc::clone(shared)))
        .merge(control::routes(Arc::clone(&world)));
    (router, world)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_can_be_opened() {
        let url = |addr: &str| base_url(addr.parse().expect("an address"));
        assert_eq!(url("0.0.0.0:80"), "http://127.0.0.1:80");
        assert_eq!(url("[::]:80"), "http://[::1]:80");
        assert_eq!(url("127.0.0.2:80"), "http://127.0.0.2:80");
    }

    #[tokio::test]
    async fn options_that_contradict_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = |seed, fault_rate| Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            dir: dir.path().to_owned(),
            seed,
            fault_rate,
            requests: false,
        };
        assert!(Sandbox::start(options(None, 0.5)).await.is_err());
        assert!(Sandbox::start(options(Some(1), 1.5)).await.is_err());
        assert!(Sandbox::start(options(Some(1), f64::NAN)).await.is_err());
        let first = Sandbox::start(options(None, 0.0)).await.expect("starts");
        let second = Sandbox::start(options(None, 0.0))
            .await
            .expect_err("the directory is taken");
        assert!(second.to_string().contains("running"), "{second}");
        first.stop().await;
        Sandbox::start(options(None, 0.0))
            .await
            .expect("given back")
            .stop()
            .await;
    }

    #[tokio::test]
    async fn nothing_is_answered_well_that_the_log_does_not_hold() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let dir = tempfile::tempdir().expect("a directory");
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let options = Options {
            listen,
            dir: dir.path().to_owned(),
            seed: None,
            fault_rate: 0.0,
            requests: false,
        };
        let sandbox = Sandbox::start(options).await.expect("starts");
        sandbox.shared.acts.close();
        let mut stream = tokio::net::TcpStream::connect(sandbox.addr())
            .await
            .expect("connects");
        let request = "POST /mastodon/api/v1/statuses HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
            Authorization: Bearer sandbox-alice\r\nContent-Type: application/x-www-form-urlencoded\r\n\
            Content-Length: 8\r\n\r\nstatus=x";
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
        sandbox.stop().await;
    }
}
