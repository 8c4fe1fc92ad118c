//! `presswork restore`: a ledger from a backup, which knows that it was restored.

use std::io::{self, Read, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use secrecy::SecretString;

use super::backup::{Meter, Scrap, blocking, told, with_sidecars};
use super::cx::Cx;
use super::out::{CliError, Tone, plain, stamp};
use crate::backup::archive::{Archive, Unusable, sync_folder};
use crate::backup::tools::{Tool, ToolError};
use crate::backup::{DUMP, MEDIA, Manifest, SQLITE};
use crate::config::{Config, Store};
use crate::daemon;
use crate::ledger::postgres::{self, PgOptions, Postgres, Role};
use crate::ledger::sqlite::{self, Sqlite};
use crate::ledger::{Filter, Ledger, Restored};
use crate::lifecycle::State;

const AFTER: &str = "\
What happened between the backup and the restore is unknown to the restored ledger. So each post, and
each other effect, of a job that hadn't ended by the backup counts as maybe sent: where the platform
takes the same key again it is sent with that; a paid call is repeated as after a lost answer; for all
others a person is asked (`presswork unresolved list`). Where no daemon ran since the backup, say so
with --nothing-ran-since, and nobody is asked. Jobs that were accepted after the backup are lost with
their keys: a producer that sends them again makes new jobs.

Stop the daemon first. What is there is only replaced with --force: a SQLite file is put aside (its new
name is told), a PostgreSQL ledger is gone, so back it up first if it can still be read.

Examples:
  presswork restore --check presswork.tar           is it whole, and of when?
  presswork restore presswork.tar
  presswork restore presswork.tar --force --reason 'disk of db1 died'

Exit codes: 0 done, 1 the file is damaged or it failed (nothing was changed), 4 a daemon runs or there
is a ledger already, 5 ledger away";

/// Bring the ledger back from a file of `presswork backup`
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only look: whether the file is whole, and what it holds
    #[arg(long)]
    check: bool,
    /// Replace the ledger that is there
    #[arg(long)]
    force: bool,
    /// No daemon ran since the backup: nothing that isn't in it was sent
    #[arg(long, conflicts_with = "check")]
    nothing_ran_since: bool,
    /// Why, for the audit
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
}

/// Runs it.
///
/// # Errors
/// When the file is damaged or of another ledger, a daemon runs, there is a ledger already, or the
/// restore fails; then nothing was changed.
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    let (file, mut meter) = (args.file.clone(), Meter::new(cx, "checking the backup"));
    let opened = blocking(move || {
        let archive = Archive::open(&file, &mut |n| meter.step(n));
        meter.clear();
        archive
    });
    let archive = opened.await.map_err(|e| unusable(&args.file, e))?;
    if args.check {
        return describe(cx, &archive.manifest);
    }
    fits(cx, &archive.manifest)?;
    right_user(&cx.config)?;
    let _kept_off = daemon::lock(&cx.config)
        .map_err(|e| CliError::conflict(format!("{e:#}")).hint("stop the daemon first"))?;
    let by = cx.by(&args.reason);
    let manifest = archive.manifest.clone();
    let vouched = match args.nothing_ran_since {
        true => "; nothing ran since, by their word",
        false => "",
    };
    let reason = match by.reason.as_str() {
        "" => String::new(),
        it => format!("; {it}"),
    };
    let restored = Restored {
        backup_at: manifest.at,
        nothing_ran: args.nothing_ran_since,
        actor: by.actor,
        detail: format!(
            "from a backup of {} by presswork {}{vouched}{reason}",
            stamp(manifest.at),
            manifest.presswork
        ),
    };
    let aside = match &cx.config.ledger {
        Store::Sqlite(path) => to_file(cx, archive, path, &restored, args.force).await?,
        Store::Server(url) => {
            to_server(cx, archive, url, restored, args.force).await?;
            None
        }
        Store::Memory => return Err(CliError::usage("ledger.url = \"memory:\" keeps nothing")),
    };
    report(cx, &manifest, aside).await
}

/// The backup is for this ledger and this program.
fn fits(cx: &Cx, manifest: &Manifest) -> Result<(), CliError> {
    let (name, known) = match &cx.config.ledger {
        Store::Server(_) => ("postgres", postgres::KNOWN),
        _ => ("sqlite", sqlite::KNOWN),
    };
    if manifest.ledger != name {
        let message = format!(
            "the backup is of a {} ledger, and ledger.url names one of {name}",
            plain(&manifest.ledger)
        );
        return Err(CliError::conflict(message).hint(
            "set ledger.url to the kind of ledger that it is for; a backup can't change kinds",
        ));
    }
    if manifest.media.is_some() && cx.config.media_account().is_some() {
        let message = format!(
            "the backup holds media, which this doesn't bring into {}",
            plain(&cx.config.media_place())
        );
        return Err(CliError::conflict(message).hint(
            "leave media.account out, restore, copy what is in media.folder into the bucket, below media.prefix, and set it again",
        ));
    }
    if known < manifest.schema {
        let message = format!(
            "the backup's schema is version {}, newer than this program's {known}",
            manifest.schema
        );
        let made = plain(&manifest.presswork);
        return Err(
            CliError::conflict(message).hint(format!("use presswork {made}, which made it"))
        );
    }
    Ok(())
}

/// What another user (root, in a hurry) writes, the daemon couldn't open afterwards.
fn right_user(config: &Config) -> Result<(), CliError> {
    let file = match &config.ledger {
        Store::Sqlite(path) => path.parent(),
        _ => None,
    };
    for folder in [Some(&*config.state_dir), file].into_iter().flatten() {
        let owner = std::fs::metadata(folder).map(|it| it.uid());
        let Ok(owner) = owner else { continue };
        if owner != rustix::process::geteuid().as_raw() {
            let message = format!("{} belongs to another user", folder.display());
            return Err(CliError::conflict(message).hint(
                "be the user that the daemon runs as: sudo -u presswork presswork restore ...",
            ));
        }
    }
    Ok(())
}

fn unusable(file: &Path, e: Unusable) -> CliError {
    let file = file.display();
    match e {
        Unusable::Io(e) if e.kind() == io::ErrorKind::NotFound => {
            CliError::missing(format!("there is no file {file}"))
        }
        Unusable::Io(e) => CliError::failed(format!("{file} can't be read: {e}")),
        Unusable::Damaged(why) => {
            CliError::failed(format!("{file} can't be used: {why}")).hint("take another backup")
        }
    }
}

fn describe(cx: &Cx, manifest: &Manifest) -> Result<(), CliError> {
    if cx.out.json {
        return cx.out.document(manifest);
    }
    cx.out.line(&format!(
        "whole: the {} ledger of {} (schema {}, {} unfinished jobs and dead letters), by presswork {}, {}",
        plain(&manifest.ledger),
        stamp(manifest.at),
        manifest.schema,
        manifest.unfinished,
        plain(&manifest.presswork),
        match manifest.media {
            Some(files) => format!("with {files} files of the media store"),
            None => "without the media".to_owned(),
        }
    ))
}

/// Whether a ledger holds anything that somebody may miss.
async fn holds(ledger: &dyn Ledger) -> Result<bool, CliError> {
    let any = Filter {
        states: State::ALL.to_vec(),
        limit: 1,
        ..Filter::default()
    };
    Ok(!ledger.jobs(&any).await?.is_empty() || !ledger.quarantined(None, 1).await?.is_empty())
}

fn occupied(what: &str) -> CliError {
    CliError::conflict(format!("{what} holds jobs already"))
        .hint("`presswork backup` saves it; --force replaces it")
}

/// Into a SQLite file. Where the one that was there lies now.
async fn to_file(
    cx: &Cx,
    archive: Archive,
    path: &Path,
    restored: &Restored,
    force: bool,
) -> Result<Option<PathBuf>, CliError> {
    let shown = path.display();
    if path.exists() && !force {
        let unreadable = |e| {
            CliError::conflict(format!("what is at {shown} can't be read: {e}"))
                .hint("--force puts it aside")
        };
        let there = Sqlite::open(path, cx.clock.clone()).await;
        let there = there.map_err(unreadable)?;
        let schema = there.schema().await.map_err(unreadable)?;
        if schema.found != 0 && (schema.found != schema.known || holds(&there).await?) {
            return Err(occupied(&shown.to_string()));
        }
    }
    let failed = |e: io::Error| CliError::failed(format!("{shown} can't be restored: {e}"));
    if let Some(folder) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let new = Scrap::beside(path).map_err(failed)?;
    let (folder, mut meter) = (
        cx.config.media.folder.clone(),
        Meter::new(cx, "restoring the ledger"),
    );
    let to = new.0.clone();
    let unpacked = blocking(move || {
        let mut archive = archive;
        let mut file = std::fs::OpenOptions::new().write(true).open(&to)?;
        let mut from = archive.read(SQLITE)?;
        copy(&mut from, &mut file, &mut meter)?;
        drop(from);
        media(&mut archive, &folder, &mut meter)?;
        meter.clear();
        Ok(())
    });
    unpacked
        .await
        .map_err(|e: Unusable| failed(io::Error::other(e)))?;
    sqlite::renew(&new.0, restored, &cx.clock).await?;
    let mut aside = None;
    if path.exists() {
        // to the microsecond: what an earlier restore put aside stays, too
        let stamp = cx.clock.now().format("%Y%m%dT%H%M%S%.6fZ");
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".before-restore-{stamp}"));
        let name = PathBuf::from(name);
        // what was written last may lie beside the file: it goes along
        for (from, to) in with_sidecars(path).iter().zip(with_sidecars(&name)) {
            if from.exists() {
                std::fs::rename(from, to).map_err(failed)?;
            }
        }
        aside = Some(name);
    }
    let synced = std::fs::File::open(&new.0).and_then(|it| it.sync_all());
    let moved = synced.and_then(|()| std::fs::rename(&new.0, path));
    moved.and_then(|()| sync_folder(path)).map_err(failed)?;
    Ok(aside)
}

/// Into a PostgreSQL database, in one transaction.
async fn to_server(
    cx: &Cx,
    archive: Archive,
    url: &SecretString,
    restored: Restored,
    force: bool,
) -> Result<(), CliError> {
    let there = Postgres::open(url, PgOptions::new(Role::Cli))?;
    there.server_major().await?;
    let schema = there.schema().await?;
    if schema.found != 0 {
        if let Some(run) = there.live_runs().await?.first() {
            let message = format!(
                "a daemon uses this ledger: process {} on host {}",
                run.pid,
                plain(&run.host)
            );
            return Err(CliError::conflict(message)
                .hint("stop it; if it is dead already, its lease is over within daemon.lease_s"));
        }
        if !force && (schema.found != schema.known || holds(&there).await?) {
            return Err(occupied("the ledger"));
        }
    }
    there.close().await;
    let (url, folder) = (url.clone(), cx.config.media.folder.clone());
    let mut meter = Meter::new(cx, "restoring the ledger");
    let replace = schema.found != 0;
    let done = blocking(move || {
        let mut archive = archive;
        media(&mut archive, &folder, &mut meter).map_err(io::Error::other)?;
        load(&mut archive, &url, &restored, replace, &mut meter)?;
        meter.clear();
        Ok(())
    });
    done.await.map_err(told)
}

/// From `pg_restore`, which makes SQL of the dump, into `psql`.
fn load(
    archive: &mut Archive,
    url: &SecretString,
    restored: &Restored,
    replace: bool,
    meter: &mut Meter,
) -> Result<(), ToolError> {
    let reader = Tool::find("pg_restore", archive.manifest.pg_dump.unwrap_or(0))?;
    let writer = Tool::find("psql", reader.major)?;
    let mut reading = reader.alone();
    // without its name the schema itself would be made, and may be there
    reading.args(["--no-owner", "--schema=presswork", "--file=-"]);
    let mut writing = writer.at(url)?;
    writing.args([
        "--no-psqlrc",
        "--quiet",
        "--output=/dev/null",
        "--set=ON_ERROR_STOP=1",
        "--file=-",
    ]);
    let mut reading = reader.start(&mut reading)?;
    let mut writing = writer.start(&mut writing)?;
    let (Some(mut dump), Some(mut sql), Some(mut to)) =
        (reading.stdin(), reading.stdout(), writing.stdin())
    else {
        return Err(io::Error::other("a pipe is missing").into());
    };
    let mut from = archive.read(DUMP).map_err(io::Error::other)?;
    let piped = std::thread::scope(|scope| {
        // who doesn't read to the end says itself why
        scope.spawn(move || {
            let _ = copy(&mut from, &mut dump, meter);
        });
        to.write_all(postgres::prepare(replace).as_bytes())?;
        io::copy(&mut sql, &mut to)
    });
    // `psql` commits only what is behind the last line, which it gets when all before it was whole
    let stopped = piped
        .err()
        .filter(|e| e.kind() != io::ErrorKind::BrokenPipe);
    if let Some(e) = stopped {
        return Err(e.into());
    }
    drop(sql);
    let read = reading.done();
    if read.is_ok() {
        // as above: a pipe that broke is told by who broke it
        let _ = to.write_all(postgres::renew(restored).as_bytes());
    }
    drop(to);
    // the one that ended first knows why
    match (writing.done(), read) {
        (Err(e), _) => Err(e),
        (Ok(()), read) => read,
    }
}

fn copy(from: &mut impl Read, to: &mut impl io::Write, meter: &mut Meter) -> io::Result<()> {
    let mut chunk = vec![0; 256 << 10];
    loop {
        match from.read(&mut chunk)? {
            0 => return to.flush(),
            n => {
                to.write_all(&chunk[..n])?;
                meter.step(n as u64);
            }
        }
    }
}

/// Brings the media back that are in the backup and not in their folder. Before the ledger: one that
/// names what isn't there would be worse than files that nobody names.
fn media(archive: &mut Archive, folder: &Path, meter: &mut Meter) -> Result<(), Unusable> {
    let names: Vec<String> = archive
        .names()
        .filter(|it| it.starts_with(MEDIA))
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    meter.begin("restoring the media");
    for name in names {
        let within = Path::new(name.trim_start_matches(MEDIA));
        if !within
            .components()
            .all(|it| matches!(it, Component::Normal(_)))
        {
            return Err(Unusable::Damaged(format!("`{name}` is no place of media")));
        }
        let to = folder.join(within);
        // a place is used once: what is there is the same
        if to.exists() {
            continue;
        }
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let scrap = Scrap::beside(&to)?;
        let mut file = std::fs::OpenOptions::new().write(true).open(&scrap.0)?;
        copy(&mut archive.read(&name)?, &mut file, meter)?;
        file.sync_all()?;
        std::fs::rename(&scrap.0, &to)?;
        sync_folder(&to)?;
    }
    Ok(())
}

/// What is there now, and what is left to do.
async fn report(cx: &Cx, manifest: &Manifest, aside: Option<PathBuf>) -> Result<(), CliError> {
    let ledger = cx.open().await?;
    let migrated = ledger.migrate().await?;
    let audit = ledger.audit(None, 1).await?.into_iter().next();
    let detail = audit.map(|it| it.detail).unwrap_or_default();
    let unfinished: u64 = ledger.counts().await?.values().sum();
    let folder = cx.config.media.folder.display().to_string();
    if cx.out.json {
        return cx.out.document(&serde_json::json!({
            "backup_at": manifest.at, "ledger": manifest.ledger, "schema": migrated.to,
            "unfinished": unfinished, "restored": detail, "media": manifest.media,
            "media_folder": folder, "aside": aside,
        }));
    }
    cx.out.line(&format!(
        "{} {}",
        cx.out.paint(Tone::Good, "restored"),
        plain(&detail)
    ))?;
    cx.out
        .line(&format!("{unfinished} unfinished jobs and dead letters"))?;
    if let Some(aside) = aside {
        let aside = plain(&aside.display().to_string());
        cx.out.line(&format!("what was there lies at {aside}"))?;
    }
    if manifest.media.is_none() {
        let place = plain(&cx.config.media_place());
        cx.out.line(&format!(
            "the media aren't in the backup: they have to be in {place} before the daemon starts"
        ))?;
    }
    cx.out.line(
        "start the daemon; then `presswork unresolved list` shows what a person has to decide",
    )
}
