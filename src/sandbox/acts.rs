//! The act log: what the sandbox really did, one JSON line an act, on disk before the answer leaves.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
};

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use super::{
    spool::Spooled,
    text::{hex, sha256},
};

/// A thing that really happened: a post, an upload, a generation that was charged for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Act {
    /// Counted from 1 in the order of the acts.
    pub(super) n: u64,
    /// By the sandbox's clock.
    pub(super) at: DateTime<Utc>,
    pub(super) platform: String,
    pub(super) op: String,
    pub(super) account: String,
    /// Idempotency-Key, record key or nothing.
    pub(super) key: Option<String>,
    /// The remote id.
    pub(super) id: String,
    /// A page of the sandbox that shows it.
    pub(super) url: Option<String>,
    pub(super) text: String,
    pub(super) media: Vec<Media>,
    /// Everything the platform needs to remember it after a restart.
    pub(super) detail: Value,
}

/// A picture, video or other file of an act.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Media {
    /// SHA-256 in hexadecimal; also the name of the file under `media/`.
    pub(super) digest: String,
    pub(super) alt: String,
    pub(super) bytes: u64,
    pub(super) mime: String,
}

/// An act that has no number and no time yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) platform: &'static str,
    pub(super) op: &'static str,
    pub(super) account: String,
    pub(super) key: Option<String>,
    pub(super) id: String,
    pub(super) url: Option<String>,
    pub(super) text: String,
    pub(super) media: Vec<Media>,
    pub(super) detail: Value,
}

/// The log of one sandbox directory.
#[derive(Debug)]
pub(super) struct ActLog {
    kept: Mutex<Vec<Arc<Act>>>,
    notes: Mutex<Option<mpsc::Sender<Note>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    media: PathBuf,
}

/// What the writing thread is told; the channel keeps the order.
enum Note {
    Line(Vec<u8>),
    Clear,
    Barrier(oneshot::Sender<Result<(), String>>),
}

impl ActLog {
    /// Opens `acts.jsonl` in `dir` (created), reads it back, cuts off a last line that a crash tore.
    ///
    /// # Errors
    /// When the directory can't be used, belongs to a running sandbox, or holds a line that is no act.
    pub(super) fn open(dir: &Path) -> anyhow::Result<ActLog> {
        let media = dir.join("media");
        std::fs::create_dir_all(&media).with_context(|| format!("creating {}", media.display()))?;
        let path = dir.join("acts.jsonl");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        if file.try_lock().is_err() {
            bail!(
                "{} belongs to a sandbox that is running: stop it or name another directory",
                dir.display()
            );
        }
        let (acts, good) =
            read_back(&file).with_context(|| format!("reading {}", path.display()))?;
        file.set_len(good)
            .and_then(|()| file.seek(SeekFrom::Start(good)))
            .context("cutting off a torn line")?;
        let (notes, inbox) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name("sandbox-acts".into())
            .spawn(move || write_down(file, &inbox))
            .context("starting the thread that writes acts")?;
        Ok(ActLog {
            kept: Mutex::new(acts),
            notes: Mutex::new(Some(notes)),
            writer: Mutex::new(Some(writer)),
            media,
        })
    }

    /// Every act so far, oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Act>> {
        held(&self.kept).clone()
    }

    /// Numbers an act and hands it to the writer. It is on disk only after [`ActLog::settled`].
    pub(super) fn record(&self, at: DateTime<Utc>, draft: Draft) -> Arc<Act> {
        let mut kept = held(&self.kept);
        let act = Arc::new(Act {
            n: kept.last().map_or(1, |last| last.n + 1),
            at,
            platform: draft.platform.to_owned(),
            op: draft.op.to_owned(),
            account: draft.account,
            key: draft.key,
            id: draft.id,
            url: draft.url,
            text: draft.text,
            media: draft.media,
            detail: draft.detail,
        });
        let mut line = serde_json::to_vec(&*act).expect("an act holds nothing JSON can't say");
        line.push(b'\n');
        kept.push(Arc::clone(&act));
        // Sent under the lock, so that the file has the order of the numbers.
        self.tell(Note::Line(line));
        act
    }

    /// Waits until everything recorded before this call is on disk.
    ///
    /// # Errors
    /// When it could not be written; the log stays refused from then on.
    pub(super) async fn settled(&self) -> Result<(), String> {
        let (done, wait) = oneshot::channel();
        self.tell(Note::Barrier(done));
        wait.await
            .unwrap_or_else(|_| Err("the act log is closed".into()))
    }

    /// Forgets every act, on disk too; kept media files stay, they are named by their content.
    pub(super) fn clear(&self) {
        let mut kept = held(&self.kept);
        kept.clear();
        self.tell(Note::Clear);
    }

    /// Keeps bytes under `media/<sha256>`, on disk when this returns; answers the digest.
    ///
    /// # Errors
    /// When the file can't be written.
    pub(super) async fn keep_media(&self, bytes: bytes::Bytes) -> std::io::Result<String> {
        let dir = self.media.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let digest = hex(&sha256(&bytes));
            let path = dir.join(&digest);
            if !path.try_exists()? {
                let part = dir.join(format!("{digest}.{}.part", uuid::Uuid::new_v4().simple()));
                let mut file = File::create(&part)?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                std::fs::rename(&part, &path)?;
                File::open(&dir)?.sync_all()?;
            }
            Ok(digest)
        });
        kept.await.map_err(std::io::Error::other)?
    }

    /// Keeps a body under `media/<sha256>`, on disk when this returns; answers the digest.
    ///
    /// # Errors
    /// When the file can't be moved there.
    pub(super) async fn keep_file(&self, spooled: Arc<Spooled>) -> std::io::Result<String> {
        let dir = self.media.clone();
        let kept = tokio::task::spawn_blocking(move || {
            spooled.keep(&dir)?;
            Ok(spooled.digest())
        });
        kept.await.map_err(std::io::Error::other)?
    }

    /// Where a kept file is; nothing for a name that is no digest.
    pub(super) fn media_path(&self, digest: &str) -> Option<PathBuf> {
        let named = digest.len() == 64
            && digest
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        named.then(|| self.media.join(digest))
    }

    /// Lets the writer finish and gives the directory back. Later acts are refused by `settled`.
    pub(super) fn close(&self) {
        held(&self.notes).take();
        if let Some(writer) = held(&self.writer).take() {
            // A panic of the writer has already refused every barrier.
            let _ = writer.join();
        }
    }

    fn tell(&self, note: Note) {
        if let Some(notes) = held(&self.notes).as_ref() {
            // A writer that is gone shows at the barrier: its sender is dropped unanswered.
            let _ = notes.send(note);
        }
    }
}

impl Drop for ActLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// A lock whose holder panicked still guards whole data: every change here is one step.
pub(super) fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_back(file: &File) -> anyhow::Result<(Vec<Arc<Act>>, u64)> {
    let mut reader = BufReader::new(file);
    let (mut acts, mut good, mut line, mut number) = (Vec::new(), 0u64, Vec::new(), 0usize);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        number += 1;
        if read == 0 || line.last() != Some(&b'\n') {
            if read > 0 {
                tracing::warn!(
                    line = number,
                    "the last act was torn by a crash and is cut off"
                );
            }
            return Ok((acts, good));
        }
        let act =
            serde_json::from_slice(&line).with_context(|| format!("line {number} is no act"))?;
        acts.push(Arc::new(act));
        good += read as u64;
    }
}

/// Takes everything that waits, writes it with one fsync, then answers those who wait for it.
fn write_down(mut file: File, inbox: &mpsc::Receiver<Note>) {
    let mut failed: Option<String> = None;
    while let Ok(first) = inbox.recv() {
        let (mut lines, mut waiting) = (Vec::new(), Vec::new());
        for note in std::iter::once(first).chain(inbox.try_iter()) {
            match note {
                Note::Line(line) => lines.extend_from_slice(&line),
                Note::Barrier(done) => waiting.push(done),
                Note::Clear => {
                    lines.clear();
                    let cleared = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
                    failed = cleared
                        .and_then(|_| file.sync_all())
                        .err()
                        .map(|e| e.to_string());
                }
            }
        }
        if !lines.is_empty() && failed.is_none() {
            failed = file
                .write_all(&lines)
                .and_then(|()| file.sync_data())
                .err()
                .map(|e| e.to_string());
        }
        let outcome = failed.clone().map_or(Ok(()), |why| {
            Err(format!("the act log can't be written: {why}"))
        });
        for done in waiting {
            // The request may be gone; the act stays.
            let _ = done.send(outcome.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(id: &str) -> Draft {
        Draft {
            platform: "mastodon",
            op: "status.create",
            account: "alice".into(),
            key: Some("k".into()),
            id: id.into(),
            url: None,
            text: "line\nbreak".into(),
            media: vec![],
            detail: serde_json::json!({"a": 1}),
        }
    }

    #[tokio::test]
    async fn an_act_is_on_disk_when_settled_and_comes_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = ActLog::open(dir.path()).expect("opens");
        let act = log.record(Utc::now(), draft("1"));
        log.settled().await.expect("written");
        let text = std::fs::read_to_string(dir.path().join("acts.jsonl")).expect("the file");
        assert_eq!(
            serde_json::from_str::<Act>(text.trim()).expect("an act"),
            *act
        );
        assert!(
            ActLog::open(dir.path()).is_err(),
            "two sandboxes must not share a directory"
        );
        log.close();
        assert!(
            log.settled().await.is_err(),
            "a closed log must not say it wrote"
        );
        let again = ActLog::open(dir.path()).expect("opens again");
        assert_eq!(again.all(), vec![act]);
        assert_eq!(again.record(Utc::now(), draft("2")).n, 2);
    }

    #[tokio::test]
    async fn a_torn_last_line_is_cut_off_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("acts.jsonl");
        let log = ActLog::open(dir.path()).expect("opens");
        log.record(Utc::now(), draft("1"));
        log.settled().await.expect("written");
        drop(log);
        let whole = std::fs::read_to_string(&path).expect("the file");
        std::fs::write(&path, format!("{whole}{{\"n\":2,")).expect("torn");
        let log = ActLog::open(dir.path()).expect("opens");
        assert_eq!(log.all().len(), 1);
        drop(log);
        assert_eq!(std::fs::read_to_string(&path).expect("the file"), whole);
        std::fs::write(&path, format!("nonsense\n{whole}")).expect("broken");
        let told = format!("{:#}", ActLog::open(dir.path()).expect_err("refused"));
        assert!(told.contains("line 1 is no act"), "{told}");
    }
}
