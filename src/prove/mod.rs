//! Chaos certification: private stores, the sandbox and daemons under a user's configuration, a seeded
//! mix of jobs, and a nemesis that kills, stops, flushes, cuts and skews; then a judge that joins what
//! producers were told, what the ledger says, and what the outside really saw.

pub mod evidence;
pub mod plan;
pub mod outside;
pub mod faults;
pub mod check;
pub mod proof;
pub mod books;
pub mod talk;
pub mod proxy;
pub mod furnish;
pub mod world;
pub mod producers;
pub mod nemesis;
pub mod report;
pub mod html;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;

use crate::servers::Programs;
use books::Books;
use evidence::{Door, Evidence, Ms, Progress, Sort};
use faults::hit;
use nemesis::Nemesis;
use outside::{Class, Requests, class};
use plan::{Wishes, blows, one_more};
use producers::{Notes, bring};
pub use proof::Proof;
use world::{World, libfaketime, now};

/// How long jobs may take to end once nothing is broken any more.
const ENDED: Duration = Duration::from_secs(240);
/// Further kills, when those of the plan have not hit enough sends.
const MORE_MAX: usize = 60;
/// How long they may take before the ledger's clock is set forward, of a proof that is to be quick.
const PATIENCE: Duration = Duration::from_secs(12);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often it is noted how far it is, and that it takes less than one part in so many of the time.
const WATCH_EVERY: Duration = Duration::from_millis(500);
const WATCH_PART: u32 = 20;
/// Jobs that have not ended before more of them come, beside twice what comes with a blow: there is load
/// at each blow, and no heap of it at the end.
const BACKLOG: usize = 200;
/// How long that may take, and then how long the next share of them, before a blow falls all the same.
const PACED: Duration = Duration::from_secs(60);
/// The file of the evidence, in the folder where it is kept.
const EVIDENCE: &str = "evidence.json";

/// What is proven, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Few jobs and blows: under a minute.
    pub quick: bool,
    /// Jobs, beside those that are brought just before a blow.
    pub jobs: usize,
    /// Blows of some sorts, instead of the usual ones.
    pub blows: BTreeMap<Sort, usize>,
    /// Daemons; 1 where it is embedded.
    pub daemons: usize,
    /// What repeats the order of the events.
    pub seed: u64,
    /// Where the servers' programs are; nothing: on SQLite and a queue in memory.
    pub servers: Option<Programs>,
    /// The user's configuration, as it was written.
    pub config: String,
}

/// Tells a person what is going on.
pub type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Runs a proof, and keeps what it was judged by in the folder `keep`, where one is named.
///
/// # Errors
/// When it couldn't be run: the servers aren't installed, the configuration is wrong, a process doesn't
/// come up again.
pub async fn run(options: &Options, keep: Option<&Path>, say: Say<'_>) -> anyhow::Result<Proof> {
    let began = now();
    say("starting private stores, the sandbox and the daemons ...");
    let servers = options.servers.as_ref();
    let world = World::start(&options.config, options.daemons, servers).await?;
    let folder = keep.unwrap_or(&world.folder.path);
    let broken = async {
        world.supervise().await?;
        anyhow::bail!("nobody looks after the daemons any more")
    };
    let evidence = tokio::select! {
        evidence = break_it(options, &world, began, say) => evidence?,
        broken = broken => broken?,
    };
    std::fs::write(folder.join(EVIDENCE), serde_json::to_vec_pretty(&evidence)?)?;
    world.keep(folder)?;
    judged(folder)
}

/// Judges what a proof has kept in a folder.
///
/// # Errors
/// When it can't be read.
pub fn judged(folder: &Path) -> anyhow::Result<Proof> {
    let path = folder.join(EVIDENCE);
    let evidence = std::fs::read(&path);
    let evidence = evidence.with_context(|| format!("can't read {}", path.display()))?;
    let evidence: Evidence = serde_json::from_slice(&evidence)
        .with_context(|| format!("{} is no evidence", path.display()))?;
    let acts = outside::acts(&folder.join("acts.jsonl"))?;
    let mut requests = Requests::of(&folder.join("requests.jsonl"));
    requests.read()?;
    let verdict = check::check(&evidence, &acts, &requests.all);
    Ok(Proof {
        evidence,
        acts,
        requests: requests.all,
        verdict,
    })
}

async fn break_it(
    options: &Options,
    world: &World,
    began: Ms,
    say: Say<'_>,
) -> anyhow::Result<Evidence> {
    let wishes = Wishes {
        seed: options.seed,
        jobs: options.jobs,
        blows: possible(options),
        daemons: options.daemons,
        servers: options.servers.is_some(),
        quick: options.quick,
        stock: world.furnished.stock.clone(),
        sandbox: world.outside.url.clone(),
    };
    let least = if options.quick { 5 } else { 50 };
    let notes = Notes::default();
    let progress = Mutex::default();
    let watched = watch_it(world, &notes, &progress);
    let broken = all_of_it(&wishes, least, world, &notes, &progress, began, say);
    let mut evidence = tokio::select! {
        evidence = broken => evidence?,
        () = watched => anyhow::bail!("nobody watches any more"),
    };
    evidence.progress = progress
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Ok(evidence)
}

/// The blows of each sort: those that can be struck here.
fn possible(options: &Options) -> BTreeMap<Sort, usize> {
    let mut blows = plan::usual(options.quick);
    blows.extend(&options.blows);
    blows.retain(|it, _| options.servers.is_some() || !it.needs_servers());
    if libfaketime().is_none() {
        blows.remove(&Sort::Clock);
    }
    blows
}

/// Notes how far it is, from time to time. Never returns.
async fn watch_it(world: &World, notes: &Notes, progress: &Mutex<Vec<Progress>>) {
    let books = Books::of(world.place.clone());
    loop {
        let began = Instant::now();
        // a ledger that is down can't say
        if let Ok(ended) = books.ended().await {
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.push(Progress {
                at: now(),
                accepted: notes.accepted_by(None),
                ended,
            });
        }
        let counting = began.elapsed() * WATCH_PART;
        tokio::time::sleep(WATCH_EVERY.max(counting)).await;
    }
}

async fn all_of_it(
    wishes: &Wishes,
    least: usize,
    world: &World,
    notes: &Notes,
    progress: &Mutex<Vec<Progress>>,
    began: Ms,
    say: Say<'_>,
) -> anyhow::Result<Evidence> {
    let (release, released) = watch::channel(0);
    let mut nemesis = Nemesis::new(world, wishes, notes);
    let strikes = async {
        let planned = blows(wishes);
        say(&format!(
            "{} jobs, {} blows, seed {}",
            wishes.jobs,
            planned.len(),
            wishes.seed
        ));
        let say = |nemesis: &Nemesis<'_>| say(&told(nemesis, progress, began));
        for (n, blow) in planned.iter().enumerate() {
            // some of the work comes with each blow
            let most = wishes.jobs * (n + 1) / planned.len();
            let share = most - *release.borrow();
            worked_off(world, BACKLOG + 2 * share).await?;
            nemesis.prepare(blow).await?;
            // last, so that others are at work, too, whichever daemon has taken what is held
            let before = notes.accepted_by(None);
            release.send_modify(|it| *it = most);
            arrived(notes, before + share / 2).await;
            nemesis.strike(blow).await?;
            say(&nemesis);
        }
        // without blows there is nothing to wait for
        release.send_modify(|it| *it = wishes.jobs);
        let mut more = 0;
        while more < MORE_MAX && !enough(&nemesis, least) {
            let blow = one_more(wishes, more);
            nemesis.prepare(&blow).await?;
            nemesis.strike(&blow).await?;
            say(&nemesis);
            more += 1;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(
        strikes,
        bring(world, wishes, notes, Door::Http, released.clone()),
        bring(world, wishes, notes, Door::Inbox, released.clone()),
    )?;
    let calm = now();
    say("nothing is broken any more; waiting for the jobs to end ...");
    if !ended(world, notes, if wishes.quick { PATIENCE } else { ENDED }).await? {
        if wishes.quick && wishes.servers {
            nemesis.hurry().await?;
        }
        // what has not ended by then never will: the judge says so
        ended(world, notes, ENDED).await?;
    }
    let (strikes, recoveries, stops) = nemesis.done().await;
    let (jobs, quarantined) = world.books.all().await?;
    let lives = world.end().await;
    let late_writes_refused = world.late_writes_refused()?;
    let mut left_out = world.furnished.left_out.clone();
    left_out.extend(not_broken(wishes));
    Ok(Evidence {
        seed: wishes.seed,
        embedded: !wishes.servers,
        daemons: wishes.daemons,
        in_flight_min: least,
        began,
        calm,
        ended: now(),
        lanes: world.furnished.lanes.clone(),
        kinds: world.furnished.kinds.clone(),
        repeats: world.furnished.repeats.clone(),
        told: notes.all(),
        jobs,
        quarantined,
        strikes,
        lives,
        recoveries,
        stops,
        late_writes_refused,
        progress: Vec::new(),
        left_out,
    })
}

/// What this proof doesn't break.
fn not_broken(wishes: &Wishes) -> Vec<String> {
    let mut left_out = Vec::new();
    if !wishes.servers {
        left_out.push(
            "embedded: one daemon, and no stores of their own to kill, flush, cut or skew"
                .to_owned(),
        );
    }
    if libfaketime().is_none() {
        left_out.push("a daemon's own clock: there is no libfaketime here".to_owned());
    }
    left_out.push(
        "rates per window: lanes have a concurrency only, which is what is measured".to_owned(),
    );
    left_out
}

/// Waits until not more than `most` jobs are still to be done.
async fn worked_off(world: &World, most: usize) -> anyhow::Result<()> {
    let until = Instant::now() + PACED;
    while most < world.books.open_jobs().await? && Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Waits until so many jobs were acknowledged.
async fn arrived(notes: &Notes, least: usize) {
    let until = Instant::now() + PACED;
    while notes.accepted_by(None) < least && Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY / 5).await;
    }
}

/// The last blow, and how far it is, in a line.
fn told(nemesis: &Nemesis<'_>, progress: &Mutex<Vec<Progress>>, began: Ms) -> String {
    let last = nemesis.strikes.last();
    let (what, took) = last.map_or(("", 0), |it| (it.what.as_str(), it.until - it.at));
    let (b, c) = so_far(nemesis);
    let progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    let ended = progress.last().map_or(0, |it| it.ended);
    format!(
        "{:6.1} s  {what} ({:.1} s); in flight so far: {b} B, {c} C; {ended} of {} jobs ended",
        (now() - began) as f64 / 1_000.0,
        took as f64 / 1_000.0,
        nemesis.notes.brought()
    )
}

/// Sends of class B and C that were in flight at a fault, so far.
fn so_far(nemesis: &Nemesis<'_>) -> (usize, usize) {
    let (mut b, mut c) = (0, 0);
    for it in hit(&nemesis.strikes, &nemesis.requests.all) {
        match class(&it.op) {
            Some(Class::B) => b += 1,
            _ => c += 1,
        }
    }
    (b, c)
}

fn enough(nemesis: &Nemesis<'_>, least: usize) -> bool {
    let (b, c) = so_far(nemesis);
    least <= b && least <= c
}

/// Waits until all that came in has ended, and nothing more comes in; whether it did.
async fn ended(world: &World, notes: &Notes, within: Duration) -> anyhow::Result<bool> {
    let until = Instant::now() + within;
    let mut last = None;
    while Instant::now() < until {
        let empty = world.inbox_is_empty().await;
        let (count, ended) = (world.books.count().await?, world.books.ended().await?);
        let all = notes.accepted_by(Some(Door::Http)) <= count && count == ended && empty;
        // what was taken from the inbox may not be in the ledger yet: the second look counts
        if all && last == Some(count) {
            return Ok(true);
        }
        last = all.then_some(count);
        tokio::time::sleep(LOOK_EVERY * if all { 10 } else { 1 }).await;
    }
    Ok(false)
}
