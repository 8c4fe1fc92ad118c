//! `presswork dev`: everything on one machine, with samples that tell what it is about.

mod home;
mod show;
mod samples;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::{broadcast, mpsc};

use super::cx::Globals;
use super::out::{CliError, Exit, Out, Tone};
use crate::daemon::Daemon;
use crate::engine::shared::Happening;
use crate::sandbox::{Options, Sandbox};
use crate::{kinds, telemetry};
use home::Home;
use samples::Samples;
use show::Show;

const AFTER: &str = "\
A SQLite ledger and a queue in memory under DIR, the sandbox for the outside, the HTTP API, a port for
Redis clients, and a few sample jobs that succeed, fail, recover and die as jobs do. Nothing is
published anywhere.

Examples:
  presswork dev
  presswork dev --once                            ends with the samples: 0 if each ended as it should
  presswork dev --postgres postgres://me@localhost/presswork --redis redis://localhost

Exit codes: 0 ended as asked, 1 a sample ended otherwise or it can't start, 2 asked wrongly, 5 the
ledger is away or refuses, 130 --once was interrupted";

/// Try it: everything on this machine, nothing to install, with sample jobs
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// End when the samples have ended: 0 only if each did as it should
    #[arg(long)]
    once: bool,
    /// The ledger on a real Postgres
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// The queue and the inbox on a real Redis
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = ".presswork")]
    dir: PathBuf,
    /// Where the HTTP API listens; a free port if it is taken
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8787")]
    api: SocketAddr,
    /// Where Presswork's own Redis port listens; a free port if it is taken
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:6380")]
    resp: SocketAddr,
}

/// The samples must have ended by then.
const SAMPLES_MAX: Duration = Duration::from_secs(90);
/// A Redis that can't be used by then is told of: the samples go on without it.
const REDIS_MAX: Duration = Duration::from_secs(2);
/// The sandbox's port where it is free, so that accounts stay valid from run to run.
const SANDBOX: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8090);

/// Runs it.
///
/// # Errors
/// When something can't start, or a sample ended otherwise than it should.
pub async fn run(globals: &Globals, out: Out, args: Args) -> Result<(), CliError> {
    let began = Instant::now();
    if globals.config.is_some() {
        return Err(
            CliError::usage("dev brings its own configuration: leave --config out")
                .hint("`presswork --config PATH run` runs the daemon under yours"),
        );
    }
    // what goes wrong is shown below, job by job; the log is for what no job can show
    let level = std::env::var("PRESSWORK_LOG").unwrap_or_else(|_| "error".to_owned());
    telemetry::init(telemetry::Format::Auto, &level).map_err(CliError::usage)?;
    telemetry::install_panic_hook();
    let mut stop = signals()?;
    let sandbox = sandbox(&args).await?;
    let (api, resp) = {
        // both held until both are known, so that they differ
        let api = free(&out, "the API", args.api)?;
        let resp = free(&out, "the Redis port", args.resp)?;
        (api.local_addr()?, resp.local_addr()?)
    };
    let home = Home {
        dir: &args.dir,
        sandbox: &sandbox.url(),
        pictures: sandbox.addr(),
        api,
        resp,
        postgres: args.postgres.as_deref(),
        redis: args.redis.as_deref(),
    };
    let config = home.furnish()?;
    let started = Daemon::start(config, kinds::all()).await;
    let daemon = started.map_err(|e| super::run::stopped(&e))?;
    let happenings = daemon.engine.shared.happenings.subscribe();
    let show = Show::new(out, began);
    let code = act(&args, &show, &home, &daemon, happenings, &mut stop).await;
    daemon.stop().await;
    sandbox.stop().await;
    code
}

async fn act(
    args: &Args,
    show: &Show,
    home: &Home<'_>,
    daemon: &Daemon,
    mut happenings: broadcast::Receiver<Happening>,
    stop: &mut mpsc::UnboundedReceiver<()>,
) -> Result<(), CliError> {
    let api = daemon.api.unwrap_or(home.api);
    let resp = daemon.resp.unwrap_or(home.resp);
    show.head(&[
        ("API", format!("http://{api}/v1/jobs")),
        (
            "Redis",
            format!("redis://{resp} (RPUSH, answered after the commit)"),
        ),
        (
            "wall",
            format!("{} (what the sandbox really published)", home.sandbox),
        ),
        ("settings", home.jobs_toml().display().to_string()),
    ])?;
    let shared = &daemon.engine.shared;
    let mut samples = Samples::enqueue(&daemon.engine.doors, show).await?;
    let mut look = tokio::time::interval(Duration::from_millis(100));
    let mut told = false;
    let mut without = args.redis.is_some();
    loop {
        tokio::select! {
            biased;
            _ = stop.recv() => return stopped(args, show),
            () = daemon.engine.failed.cancelled() => return Err(CliError::failed("the daemon can't go on: see the log above")),
            happening = happenings.recv() => match happening {
                Ok(it) => show.happening(&it)?,
                Err(broadcast::error::RecvError::Lagged(missed)) => show.missed(missed)?,
                Err(broadcast::error::RecvError::Closed) => return Err(CliError::failed("the daemon is gone")),
            },
            _ = look.tick(), if !told => {
                if without && REDIS_MAX < show.began.elapsed() {
                    without = false;
                    if shared.generation().is_none() {
                        show.without_redis()?;
                    }
                }
                samples.go_on(&daemon.engine.doors, &*shared.ledger, show).await?;
                let late = SAMPLES_MAX < show.began.elapsed();
                if late || samples.ended(&*shared.ledger).await? {
                    let good = samples.table(&*shared.ledger, show, home).await?;
                    told = true;
                    match (args.once, good) {
                        (true, true) => return Ok(()),
                        (true, false) => return Err(CliError::said(Exit::Failed)),
                        (false, _) => show.stays()?,
                    }
                }
            }
        }
    }
}

fn stopped(args: &Args, show: &Show) -> Result<(), CliError> {
    // interrupting the watching is its usual end; interrupting `--once` leaves the question open
    if args.once {
        Err(CliError::new(
            Exit::Interrupted,
            "interrupted before the samples had ended",
        ))
    } else {
        show.stops()
    }
}

async fn sandbox(args: &Args) -> Result<Sandbox, CliError> {
    let usual = TcpListener::bind(SANDBOX).is_ok();
    let any = SocketAddr::new(SANDBOX.ip(), 0);
    let options = Options {
        listen: if usual { SANDBOX } else { any },
        dir: args.dir.join("sandbox"),
        seed: None,
        fault_rate: 0.0,
        requests: false,
    };
    let started = Sandbox::start(options).await;
    started.map_err(|e| {
        let denied = e
            .downcast_ref::<std::io::Error>()
            .is_some_and(|it| it.kind() == std::io::ErrorKind::PermissionDenied);
        CliError::failed(format!("{e:#}")).hint(if denied {
            "everything is kept in one folder: --dir DIR names one that you may write to"
        } else {
            "is another `presswork dev` running in this folder? --dir DIR takes another one"
        })
    })
}

/// Listens at the address, or at a free one beside it where it is taken.
fn free(out: &Out, what: &str, wanted: SocketAddr) -> Result<TcpListener, CliError> {
    let taken = match TcpListener::bind(wanted) {
        Ok(listener) => return Ok(listener),
        Err(e) => e,
    };
    let failed = |e| CliError::failed(format!("{what} can't listen on {wanted}: {e}"));
    let listener = TcpListener::bind(SocketAddr::new(wanted.ip(), 0)).map_err(failed)?;
    let other = listener.local_addr()?;
    let text = format!("{wanted} can't be used ({taken}): {what} listens on {other} instead");
    out.note(&out.paint(Tone::Warn, &text));
    Ok(listener)
}

/// INT and TERM, as they come; a second one ends the process even with a stuck runtime.
pub(super) fn signals() -> Result<mpsc::UnboundedReceiver<()>, CliError> {
    let again = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // in this order: the first sets the flag, the second finds it set and ends the process
        signal_hook::flag::register_conditional_shutdown(
            signal,
            Exit::Interrupted as i32,
            again.clone(),
        )?;
        signal_hook::flag::register(signal, again.clone())?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let (asked, asks) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                if asked.send(()).is_err() {
                    return;
                }
            }
        })?;
    Ok(asks)
}
