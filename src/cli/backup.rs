//! `presswork backup`: the ledger in one file, while the daemon runs.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cx::Cx;
use super::out::{CliError, Exit, plain, stamp};
use crate::backup::archive::Writer;
use crate::backup::tools::{Tool, ToolError};
use crate::backup::{DUMP, FORMAT, MEDIA, Manifest, SQLITE};
use crate::config::Store;
use crate::ledger::postgres::{PgOptions, Postgres, Role};
use crate::ledger::sqlite::Sqlite;

const AFTER: &str = "\
The file holds the ledger as it was at one moment, and what is needed to check it. The daemon may run.
Of PostgreSQL it is made by `pg_dump` (of the server's major version or newer), of SQLite by the file's
own means. The configuration, its secrets, the queue (it is filled anew) and, without --media, the
pictures and films of the media store are not in it: copy the folder of the media (media.folder) beside
it, or save their bucket (media.account) by its own means. It is a tar archive, for its owner only; it holds what people wrote, so keep it like the ledger.

Examples:
  presswork backup /var/backups/presswork-$(date +%F).tar
  presswork backup --media --force /mnt/backup/presswork.tar
  presswork restore --check /mnt/backup/presswork.tar        is it whole?

Exit codes: 0 done, 1 it failed (nothing is left behind), 4 the file is there already, 5 ledger away";

/// Save the ledger to a file
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// The file to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// With the files of the media store
    #[arg(long)]
    media: bool,
    /// Replace the file
    #[arg(long)]
    force: bool,
}

/// Runs it.
///
/// # Errors
/// When the file is there, or the ledger can't be read, or the file can't be written.
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    if args.file.exists() && !args.force {
        return Err(taken(&args.file));
    }
    if args.media && cx.config.media_account().is_some() {
        let message = format!("the media are in {}", plain(&cx.config.media_place()));
        return Err(CliError::usage(message).hint(
            "leave --media out, and save the bucket by its own means: versions, replication, `aws s3 sync`",
        ));
    }
    let ledger = cx.open().await?;
    let schema = ledger.schema().await?;
    if schema.found == 0 {
        return Err(CliError::new(
            Exit::Away,
            "the ledger is empty: there is nothing to save",
        ));
    }
    let counts = ledger.counts().await?;
    let mut manifest = Manifest {
        format: FORMAT,
        presswork: env!("CARGO_PKG_VERSION").to_owned(),
        ledger: ledger.name().to_owned(),
        schema: schema.found,
        // before the first byte is read: what happens from now on may be missing
        at: ledger.now().await?,
        pg_dump: None,
        unfinished: counts.values().sum(),
        media: None,
        members: Vec::new(),
    };
    let mut writer = Writer::create(&args.file).map_err(|e| unwritable(&args.file, &e))?;
    let mut meter = Meter::new(cx, "saving the ledger");
    match &cx.config.ledger {
        Store::Sqlite(path) => {
            let copy = Scrap::beside(&args.file).map_err(|e| unwritable(&args.file, &e))?;
            let from = Sqlite::open(path, cx.clock.clone()).await?;
            from.copy_to(&copy.0).await?;
            (writer, meter) = blocking(move || {
                let mut file = std::fs::File::open(&copy.0)?;
                writer.add(SQLITE, &mut file, &mut |n| meter.step(n))?;
                Ok((writer, meter))
            })
            .await
            .map_err(|e: io::Error| unwritable(&args.file, &e))?;
        }
        Store::Server(url) => {
            let server = Postgres::open(url, PgOptions::new(Role::Cli))?;
            let (url, major) = (url.clone(), server.server_major().await?);
            let dumped;
            (writer, meter, dumped) = blocking(move || {
                let tool = Tool::find("pg_dump", major)?;
                let mut command = tool.at(&url)?;
                command.args(["--format=custom", "--schema=presswork"]);
                let mut running = tool.start(&mut command)?;
                if let Some(mut dump) = running.stdout() {
                    writer.add(DUMP, &mut dump, &mut |n| meter.step(n))?;
                }
                running.done()?;
                Ok((writer, meter, tool.major))
            })
            .await
            .map_err(told)?;
            manifest.pg_dump = Some(dumped);
        }
        Store::Memory => return Err(CliError::usage("ledger.url = \"memory:\" keeps nothing")),
    }
    let folder = cx.config.media.folder.clone();
    let (with_media, force) = (args.media, args.force);
    let (size, manifest) = blocking(move || {
        if with_media {
            meter.begin("saving the media");
            manifest.media = Some(add_media(&mut writer, &folder, &mut meter)?);
        }
        let size = writer.finish(manifest.clone(), force)?;
        meter.clear();
        Ok((size, manifest))
    })
    .await
    .map_err(|e: io::Error| match e.kind() {
        io::ErrorKind::AlreadyExists => taken(&args.file),
        _ => unwritable(&args.file, &e),
    })?;
    told_done(cx, &args.file, size, &manifest)
}

fn told_done(cx: &Cx, file: &Path, size: u64, manifest: &Manifest) -> Result<(), CliError> {
    let folder = cx.config.media.folder.display().to_string();
    if cx.out.json {
        return cx.out.document(&serde_json::json!({
            "file": file, "bytes": size, "ledger": manifest.ledger, "schema": manifest.schema,
            "at": manifest.at, "unfinished": manifest.unfinished, "media": manifest.media,
            "media_folder": folder,
        }));
    }
    cx.out.line(&format!(
        "saved the {} ledger of {} ({} unfinished jobs and dead letters) to {}, {}",
        manifest.ledger,
        stamp(manifest.at),
        manifest.unfinished,
        plain(&file.display().to_string()),
        human(size)
    ))?;
    let media = match manifest.media {
        Some(files) => format!("with {files} files of the media store"),
        None => {
            let place = plain(&cx.config.media_place());
            match cx.config.media_account() {
                Some(_) => format!("without the media: save {place}, by its own means"),
                None => format!("without the media: copy {place}, or use --media"),
            }
        }
    };
    cx.out.line(&media)
}

/// Adds the files of the media store; how many. One that goes meanwhile was held by no job.
fn add_media(writer: &mut Writer, folder: &Path, meter: &mut Meter) -> io::Result<u64> {
    let (mut files, mut todo) = (0, vec![PathBuf::new()]);
    while let Some(within) = todo.pop() {
        let entries = match std::fs::read_dir(folder.join(&within)) {
            Ok(it) => it,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            let (within, kind) = (within.join(entry.file_name()), entry.file_type()?);
            if kind.is_dir() && within != Path::new(crate::media::blobs::SPOOL) {
                todo.push(within);
            } else if kind.is_file() {
                let mut file = match std::fs::File::open(entry.path()) {
                    Ok(it) => it,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e),
                };
                let name = format!("{MEDIA}{}", within.display());
                writer.add(&name, &mut file, &mut |n| meter.step(n))?;
                files += 1;
            }
        }
    }
    Ok(files)
}

fn taken(file: &Path) -> CliError {
    let file = file.display();
    CliError::conflict(format!("{file} is there already")).hint("--force replaces it")
}

fn unwritable(file: &Path, e: &io::Error) -> CliError {
    CliError::failed(format!("{} can't be written: {e}", file.display()))
        .hint("nothing is left of it; the folder must be there, writable, and have room")
}

/// What a program of PostgreSQL, or its absence, means.
pub(super) fn told(e: ToolError) -> CliError {
    let message = e.to_string();
    match e {
        ToolError::Missing { least, .. } => CliError::failed(message).hint(format!(
            "apt install postgresql-client-{least} (or newer), or run this where it is"
        )),
        ToolError::Failed { .. } => CliError::failed(message).hint(
            "the role needs the right to read all tables of schema presswork (the one that migrated it has it)",
        ),
        ToolError::Io(_) => CliError::failed(message),
    }
}

/// Runs what blocks.
pub(super) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<io::Error> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(io::Error::other(format!("it ended early: {e}")).into()))
}

/// A file that is needed for a while. Dropped, it is gone, with what SQLite keeps beside it.
pub(super) struct Scrap(pub PathBuf);

impl Scrap {
    /// An empty file beside another, for its owner only.
    ///
    /// # Errors
    /// When none can be made.
    pub(super) fn beside(other: &Path) -> io::Result<Self> {
        let mut name = other.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", uuid::Uuid::new_v4().simple()));
        let path = other.with_file_name(name);
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scrap {
    fn drop(&mut self) {
        for path in with_sidecars(&self.0) {
            // most of them aren't there
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A SQLite file and what may lie beside it.
pub(super) fn with_sidecars(path: &Path) -> [PathBuf; 4] {
    ["", "-wal", "-shm", "-journal"].map(|end| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        name.into()
    })
}

/// A size for people.
pub(super) fn human(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{} kB", bytes / 1_000),
        1_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

/// How far it is: one line that changes, where a person watches.
pub(super) struct Meter {
    live: bool,
    what: String,
    bytes: u64,
    next: Instant,
}

impl Meter {
    /// Begins with what is done first.
    pub(super) fn new(cx: &Cx, what: &str) -> Self {
        Self {
            live: !cx.out.json && io::stderr().is_terminal(),
            what: what.to_owned(),
            bytes: 0,
            next: Instant::now(),
        }
    }

    /// What is done now.
    pub(super) fn begin(&mut self, what: &str) {
        (self.what, self.bytes) = (what.to_owned(), 0);
    }

    /// So many bytes more.
    pub(super) fn step(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.live && self.next <= Instant::now() {
            self.next = Instant::now() + Duration::from_millis(100);
            Self::write(&format!("\r\x1b[K{}: {}", self.what, human(self.bytes)));
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        if self.live {
            Self::write("\r\x1b[K");
        }
    }

    fn write(text: &str) {
        // there is nobody left to tell of a closed standard error
        let _ = io::stderr().write_all(text.as_bytes());
        let _ = io::stderr().flush();
    }
}
