//! A large file on its way into a bucket: begun once, sent part by part in any number of attempts, and
//! never left behind.
//!
//! What was announced and isn't written down as begun may have begun nevertheless, when a daemon died or
//! an answer was lost in between: such an upload has no parts, and is looked for and given up before
//! another one begins. Whether a part is there is asked of the store, so a part is sent twice only when
//! nobody knows that it arrived.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use crate::clock::Time;
use crate::context::{Context, Stop};
use crate::crashpoint;
use crate::json::Digest;
use crate::outcome::{Class, Failure, Outcome};
use crate::platform::CallError;
use crate::platform::objects::bucket::{Bucket, exists};
use crate::platform::objects::multipart::{Part, is_gone};
use crate::platform::objects::object::{Found, Object};

/// How often an upload that somebody gave up is begun anew.
const ROUNDS_MAX: u32 = 16;
/// How far the store's clock may be from ours: a signature is refused beyond that.
const SKEW: TimeDelta = TimeDelta::minutes(15);
/// The pause after a part that didn't arrive, when others did.
const PAUSE: TimeDelta = TimeDelta::seconds(2);

/// Giving an upload up may take so long: a store that doesn't answer mustn't hold the attempt.
const GIVE_UP: Duration = Duration::from_secs(10);
/// What an attempt gets to clear away when it is called off: a part is dropped, a call to begin is
/// waited for, and the upload is given up.
const CLEAR: Duration = Duration::from_secs(15);

/// An upload that was begun, as a step keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    upload: String,
    /// All parts but the last have this size.
    part_bytes: u64,
}

/// What is there when all has been sent.
pub(super) enum Sent {
    /// The object itself: an earlier attempt completed it.
    There(Found),
    /// All parts of an upload that is to be completed.
    Parts(String, Vec<Part>),
}

/// A file and where it goes.
pub(super) struct Upload<'a> {
    pub cx: &'a Context,
    pub bucket: Bucket<'a>,
    pub object: &'a Object,
    /// The size of parts, when it begins.
    pub part_bytes: u64,
}

impl Upload<'_> {
    /// Sends what isn't there yet.
    ///
    /// # Errors
    /// Permanent, as `exists`, when the key is taken; snoozed when a part didn't arrive and others did;
    /// what was refused or lost else.
    pub async fn send(&self) -> Result<Sent, Outcome> {
        self.cx.clears_within(CLEAR);
        for round in 0..ROUNDS_MAX {
            self.cx.go_on()?;
            let (is_new, since) = self.announced(round).await?;
            if is_new && let Some(found) = self.there().await? {
                return Ok(Sent::There(found));
            }
            let (begun, there) = match self.begun(round, is_new, since).await? {
                (begun, Some(there)) => (begun, there),
                // completed by an attempt that couldn't write it down, or given up by somebody
                (_, None) => match self.there().await? {
                    Some(found) => return Ok(Sent::There(found)),
                    None => continue,
                },
            };
            match self.parts(&begun, there).await {
                Ok(Some(parts)) => return Ok(Sent::Parts(begun.upload, parts)),
                Ok(None) => {}
                Err(outcome) => {
                    if is_over(self.cx, &outcome) {
                        self.give_up(&begun.upload).await;
                    }
                    return Err(outcome);
                }
            }
        }
        let message = format!(
            "{ROUNDS_MAX} uploads of `{}` were given up by somebody else: is there a rule of the bucket that aborts them too early?",
            self.object.key
        );
        Err(Failure::permanent("given_up", message).into())
    }

    /// Writes down that an upload is about to begin: whether that is new, and when it was.
    async fn announced(&self, round: u32) -> Result<(bool, Time), Outcome> {
        let is_new = AtomicBool::new(false);
        let now = async {
            is_new.store(true, Ordering::Relaxed);
            Ok(self.cx.http.now())
        };
        let name = format!("upload-{round}-announced");
        let since = self.cx.step(&name, now).await?;
        Ok((is_new.into_inner(), since))
    }

    /// The object, if it is there already.
    async fn there(&self) -> Result<Option<Found>, Outcome> {
        match self.bucket.look(&self.object.key).await {
            Ok(Some(it)) if it.is(self.object) => Ok(Some(it)),
            Ok(Some(_)) if !self.object.overwrite => Err(exists(self.object).into()),
            Ok(_) => Ok(None),
            // it may write and not read: then the end will tell
            Err(CallError::Refused(it)) if it.class == Class::Unauthorised => Ok(None),
            Err(e) => Err(e.harmless().into()),
        }
    }

    /// The upload of a round, and the parts that the store has of it: `None` when it is gone.
    async fn begun(
        &self,
        round: u32,
        is_new: bool,
        since: Time,
    ) -> Result<(Begun, Option<Vec<Part>>), Outcome> {
        let begins = AtomicBool::new(false);
        let begin = async {
            begins.store(true, Ordering::Relaxed);
            if !is_new {
                self.give_up_strays(since).await;
            }
            let upload = self.bucket.begin(self.object).await;
            let upload = upload.map_err(CallError::harmless)?;
            crashpoint!("upload.after_create");
            Ok(Begun {
                upload,
                part_bytes: self.part_bytes,
            })
        };
        let begun: Begun = self.cx.step(&format!("upload-{round}"), begin).await?;
        if begins.into_inner() {
            return Ok((begun, Some(Vec::new())));
        }
        match self.bucket.parts(&self.object.key, &begun.upload).await {
            Ok(parts) => Ok((begun, Some(parts))),
            Err(e) if is_gone(&e) => Ok((begun, None)),
            // it may not list them: all are sent again
            Err(CallError::Refused(it)) if it.class == Class::Unauthorised => {
                Ok((begun, Some(Vec::new())))
            }
            Err(e) => Err(e.harmless().into()),
        }
    }

    /// Gives up what began under this key since then and has no parts. Another job of the same key that
    /// has just begun may be hit: it begins anew, with nothing lost.
    async fn give_up_strays(&self, since: Time) {
        let key = &self.object.key;
        // without the right to list them, a rule of the bucket takes them
        let found = self.bucket.unfinished(key).await.unwrap_or_default();
        let young = found
            .iter()
            .filter(|it| it.at.is_some_and(|at| since - SKEW <= at));
        for it in young {
            if let Ok([]) = self.bucket.parts(key, &it.id).await.as_deref() {
                self.give_up(&it.id).await;
            }
        }
    }

    /// Gives an upload up, as far as the store lets it.
    pub async fn give_up(&self, upload: &str) {
        let abort = self.bucket.abort(&self.object.key, upload);
        let code = match tokio::time::timeout(GIVE_UP, abort).await {
            Ok(Ok(())) => return,
            Ok(Err(CallError::Refused(e) | CallError::Unknown(e))) => e.code,
            Err(_) => "timeout".to_owned(),
        };
        let (job, kind) = (self.cx.job.id, &self.cx.job.kind);
        tracing::warn!(%job, kind, code, "an unfinished upload stays in its bucket until a rule of the bucket takes it");
    }

    /// Sends the parts that aren't there: all parts, or nothing when the upload is gone.
    async fn parts(&self, begun: &Begun, there: Vec<Part>) -> Result<Option<Vec<Part>>, Outcome> {
        let (cx, source) = (self.cx, &self.object.source);
        let digests = digests(cx, self.object, begun.part_bytes).await?;
        let count = digests.len();
        let mut parts = Vec::with_capacity(count);
        let mut sent_now = 0;
        for (number, digest) in (1..).zip(digests) {
            cx.go_on()?;
            let from = u64::from(number - 1) * begun.part_bytes;
            let range = from..source.bytes.min(from + begun.part_bytes);
            let percent = 5 + 90 * from / source.bytes.max(1);
            let message = format!("part {number} of {count}");
            cx.progress(u8::try_from(percent).unwrap_or(95), message);
            let size = range.end - range.start;
            let is_there = |it: &&Part| it.number == number && it.size == size;
            if let Some(it) = there.iter().find(is_there) {
                parts.push(it.clone());
                continue;
            }
            let part = (number, range, digest);
            let sent = self
                .bucket
                .part(self.object, &begun.upload, part, cx.media());
            match cx.unless_stopped(sent).await? {
                Ok(it) => parts.push(it),
                Err(e) if is_gone(&e) => return Ok(None),
                Err(e) => return Err(missed(cx, e.harmless(), sent_now)),
            }
            crashpoint!("upload.after_part");
            sent_now += 1;
        }
        Ok(Some(parts))
    }
}

/// A part didn't arrive. Where others did the upload gets on, and no attempt is charged: a large file on
/// a bad line would use up all of them.
fn missed(cx: &Context, failure: Failure, sent_now: u32) -> Outcome {
    match (failure.class, sent_now) {
        (Class::Transient, 1..) => Outcome::Snoozed {
            until: cx.http.now() + failure.retry_after().unwrap_or(PAUSE),
            reason: format!("{sent_now} parts are sent, the next one isn't: {failure}"),
        },
        _ => failure.into(),
    }
}

/// Whether an outcome is the job's last word, as far as its handler can know. What a drain or a lost
/// lease has stopped goes on elsewhere.
pub(super) fn is_over(cx: &Context, outcome: &Outcome) -> bool {
    let is_last = cx.job.attempts_max <= cx.attempt;
    let (called_off, late) = match cx.stopped() {
        Some(Stop::Cancelled) => (true, false),
        Some(Stop::TimedOut) => (false, true),
        Some(Stop::Drain | Stop::LeaseLost) | None => (false, false),
    };
    match outcome {
        Outcome::Failed(it) => match it.class {
            Class::Permanent => true,
            Class::Transient => is_last || called_off,
            Class::Throttled | Class::Unauthorised => called_off,
            // it may be complete
            Class::Unknown => false,
        },
        Outcome::Released { .. } | Outcome::Shut { .. } | Outcome::Snoozed { .. } => {
            called_off || (late && is_last)
        }
        _ => false,
    }
}

/// The digest of each part; read once from the first byte to the last, so that a file that was damaged in
/// the media store is found before anything of it is sent.
///
/// # Errors
/// When it can't be read, or is damaged.
pub(super) async fn digests(
    cx: &Context,
    object: &Object,
    part_bytes: u64,
) -> Result<Vec<Digest>, Outcome> {
    use futures_util::TryStreamExt as _;
    use sha2::{Digest as _, Sha256};
    let unread = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::InvalidData => Failure::permanent("media_damaged", e.to_string()),
        _ => Failure::transient("media_store", e.to_string()),
    };
    let (_, mut stream) = cx.media().read(object.source.media).await?;
    let (mut digests, mut hash, mut room) = (Vec::new(), Sha256::new(), part_bytes);
    while let Some(chunk) = stream.try_next().await.map_err(unread)? {
        cx.go_on()?;
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            if room == 0 {
                digests.push(Digest(hash.finalize_reset().into()));
                room = part_bytes;
            }
            let most = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at(most);
            hash.update(now);
            room -= now.len() as u64;
            rest = later;
        }
    }
    digests.push(Digest(hash.finalize().into()));
    Ok(digests)
}
