//! `upload.object`: a file of the media store, or behind a URL, under a key of the client's own choice in
//! a bucket or a folder: there once, whole, and replacing nothing unless it may.

mod draft;
mod parts;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::budget::Price;
use crate::config::{Account, Config};
use crate::context::{Context, Permit, Wanted};
use crate::crashpoint;
use crate::effect::{EffectId, Receipt, Rule};
use crate::handler::{AGE_MAX_S, Defaults, Handler};
use crate::job::Envelope;
use crate::json::Violation;
use crate::outcome::{Failure, Outcome};
use crate::platform::CallError;
use crate::platform::objects::bucket::{Bucket, is_taken};
use crate::platform::objects::folder::Folder;
use crate::platform::objects::multipart::is_gone;
use crate::platform::objects::object::Object;
use crate::platform::objects::sign::Dialect;
use crate::reference::Reference;
use crate::retry::Policy;

use draft::Payload;
use parts::{Sent, Upload, digests, is_over};

/// The effect's step.
const STEP: &str = "upload";
/// What is done, in the ledger and the figures.
const OP: &str = "object.put";
/// What a call without a large body may take, answer included: a store may think for minutes over a
/// large file that it puts together.
const CALL: Duration = Duration::from_secs(300);
/// The slowest line that a request is meant for, in bytes a second.
const SLOWEST: u64 = 32 << 10;

/// The kind.
pub(super) struct UploadObject;

impl Handler for UploadObject {
    type Payload = Payload;
    const DEFAULTS: Defaults = Defaults {
        name: "upload.object",
        about: "a file into a bucket (S3, R2, MinIO, Ceph, GCS) or a folder",
        lane: "uploads",
        retry: Policy {
            attempts_max: 8,
            base_ms: 2_000,
            cap_ms: 900_000,
        },
        timeout_s: 10_800,
        age_max_s: AGE_MAX_S,
        platforms: &["s3", "gcs", "folder"],
        example: r#"{"url": "https://example.com/intro.mp4", "key": "films/2026/intro.mp4"}"#,
    };

    fn preflight(payload: &Payload, _: &Envelope, _: &Config) -> Vec<Violation> {
        payload.violations()
    }

    async fn run(cx: &Context, payload: Payload) -> Result<Value, Outcome> {
        let (name, account) = account(cx)?;
        let find = async {
            Ok(match (payload.media, &payload.url) {
                (Some(name), _) => cx.media().look(name).await?,
                (None, Some(url)) => cx.fetcher().get(url, &cx.config.media).await?,
                (None, None) => {
                    let message = "the payload names neither `media` nor `url`";
                    return Err(Failure::permanent("payload", message).into());
                }
            })
        };
        cx.progress(1, "finding the file");
        let source: Reference = cx.step("source", find).await?;
        let effect = EffectId::new(cx.job.id, cx.job.revision, STEP, 0, name);
        let object = payload.object(source, effect);
        let receipt = match account.platform.as_str() {
            "folder" => into_folder(cx, account, &object).await?,
            _ => into_bucket(cx, account, &object, &payload).await?,
        };
        cx.progress(100, "uploaded");
        let place = match &account.bucket {
            Some(it) => it.name.clone(),
            None => Folder { account }.name(),
        };
        Ok(json!({
            "bucket": place,
            "key": object.key,
            "url": receipt.url,
            "etag": receipt.detail["etag"],
            "sha256": object.source.media.0.hex(),
            "bytes": object.source.bytes,
            "content_type": object.mime,
        }))
    }
}

/// The account, of any platform that takes objects.
fn account(cx: &Context) -> Result<(&str, &Account), Outcome> {
    let named = cx.job.account.as_deref();
    let is = named.and_then(|it| cx.config.accounts.get(it));
    let platforms = UploadObject::DEFAULTS.platforms;
    let fits = platforms
        .iter()
        .find(|of| is.is_some_and(|it| it.platform == **of));
    cx.account(fits.unwrap_or(&platforms[0]))
}

fn wanted<'a>(account: &Account, object: &Object, budget: Duration) -> Wanted<'a> {
    Wanted {
        step: STEP,
        ordinal: 0,
        op: OP,
        // the key is ours, and says what is under it
        rule: Rule::keyed(None),
        intent: json!({
            "base_url": account.base_url,
            "bucket": account.bucket.as_ref().map(|it| &it.name),
            "key": object.key,
            "media": object.source.media,
            "content_type": object.mime,
            "cache_control": object.cache_control,
            "metadata": object.metadata,
            "overwrite": object.overwrite,
        }),
        keep: Value::Null,
        says: None,
        budget,
        price: Price::Free,
    }
}

/// A time for a request, which must not outlast its attempt.
fn within(cx: &Context, time: Duration) -> Duration {
    let attempt = u64::from(cx.job.timeout_s.saturating_sub(1).max(1));
    time.min(Duration::from_secs(attempt))
}

async fn into_bucket(
    cx: &Context,
    account: &Account,
    object: &Object,
    payload: &Payload,
) -> Result<Receipt, Outcome> {
    let bytes = object.source.bytes;
    let unfit = |message: String| Failure::permanent("part_bytes", message);
    let part_bytes = payload.part_size(bytes).map_err(unfit)?;
    let time = |bytes: u64| within(cx, CALL + Duration::from_secs(bytes / SLOWEST));
    let of = |deadline| Bucket {
        http: &cx.http,
        account,
        deadline,
    };
    // Google keeps no condition on what is put together of parts
    let whole = of(CALL).dialect() == Dialect::Gcs && !object.overwrite;
    match part_bytes.filter(|_| !whole) {
        Some(part_bytes) => {
            let upload = Upload {
                cx,
                bucket: of(time(part_bytes)),
                object,
                part_bytes,
            };
            in_parts(&upload, wanted(account, object, within(cx, CALL))).await
        }
        None => {
            digests(cx, object, bytes.max(1)).await?;
            cx.progress(10, "sending");
            let budget = time(bytes);
            let put = |permit| async move { put(cx, of(budget), object, permit).await };
            cx.effect(wanted(account, object, budget), put).await
        }
    }
}

/// Puts a file in one request.
async fn put(
    cx: &Context,
    bucket: Bucket<'_>,
    object: &Object,
    permit: Permit,
) -> Result<Receipt, CallError> {
    // what was sent before may be there: then it needn't go again, nor over what came after it
    if 0 < permit.lost
        && let Ok(Some(found)) = bucket.look(&object.key).await
        && found.is(object)
    {
        return Ok(bucket.found(object, &found));
    }
    match bucket.put(object, cx.media()).await {
        Err(e) if is_taken(&e) => bucket.taken(object).await,
        done => done,
    }
}

/// Sends a file in parts, and makes the object of them.
async fn in_parts(upload: &Upload<'_>, wanted: Wanted<'_>) -> Result<Receipt, Outcome> {
    let (bucket, object) = (upload.bucket, upload.object);
    let sent = upload.send().await?;
    let is_used = AtomicBool::new(false);
    let complete = |_: Permit| async {
        let (id, parts) = match &sent {
            Sent::There(found) => return Ok(bucket.found(object, found)),
            Sent::Parts(id, parts) => (id, parts),
        };
        crashpoint!("upload.before_complete");
        let done = bucket.complete(object, id, parts).await;
        crashpoint!("upload.after_complete");
        is_used.store(!done.as_ref().is_err_and(is_taken), Ordering::Relaxed);
        match done {
            Err(e) if is_taken(&e) => bucket.taken(object).await,
            Err(e) if is_gone(&e) => completed_before(bucket, object).await,
            done => done,
        }
    };
    let done = upload.cx.effect(wanted, complete).await;
    if let Sent::Parts(id, _) = &sent {
        // the same object may have come by another way meanwhile
        let is_needless = match &done {
            Ok(_) => !is_used.into_inner(),
            Err(outcome) => is_over(upload.cx, outcome),
        };
        if is_needless {
            upload.give_up(id).await;
        }
    }
    done
}

/// An upload that is gone when it is to be completed: it was, and the answer was lost; or somebody gave
/// it up, and the next attempt begins anew.
async fn completed_before(bucket: Bucket<'_>, object: &Object) -> Result<Receipt, CallError> {
    match bucket.look(&object.key).await? {
        Some(found) if found.is(object) => Ok(bucket.found(object, &found)),
        _ => {
            let message = format!("the upload of `{}` was given up by somebody", object.key);
            Err(CallError::Refused(Failure::transient("given_up", message)))
        }
    }
}

async fn into_folder(cx: &Context, account: &Account, object: &Object) -> Result<Receipt, Outcome> {
    let folder = Folder { account };
    let staged = match folder.look(object).await? {
        true => None,
        false => {
            let (_, bytes) = cx.media().read(object.source.media).await?;
            let told = |written: u64| {
                let percent = 5 + 90 * written / object.source.bytes.max(1);
                let message = format!("{} of {} MiB", written >> 20, object.source.bytes >> 20);
                cx.progress(u8::try_from(percent).unwrap_or(95), message);
            };
            let stage = folder.stage(object, bytes, told);
            Some(cx.unless_stopped(stage).await??)
        }
    };
    let now = cx.http.now();
    let publish = |_: Permit| async move {
        match staged {
            None => Ok(folder.receipt(object, now)),
            Some(it) => folder.publish(object, it, now).await,
        }
    };
    cx.effect(wanted(account, object, within(cx, CALL)), publish)
        .await
}
