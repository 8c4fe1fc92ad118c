//! Repositories: records by collection and key, blobs by content, and what reads and writes of them answer.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::super::{
    acts::{Act, Draft, Media, held},
    exchange::Answer,
    text::{base32, canonical, sha256},
};
use super::{
    input::{Write, tid},
    lexicon::{self, BlobRef, POST},
    session,
    side::{Bluesky, NAME, Side, refuse},
};

/// A CID of version 1 with SHA-256: `bafyrei...` for a record, `bafkrei...` for bytes.
fn cid(codec: u8, digest: &[u8; 32]) -> String {
    let mut bytes = vec![0x01, codec, 0x12, 0x20];
    bytes.extend_from_slice(digest);
    format!("b{}", base32(&bytes))
}

fn cid_of_record(value: &Value) -> String {
    cid(0x71, &sha256(canonical(value).to_string().as_bytes()))
}

impl Bluesky {
    fn uri(handle: &str, collection: &str, rkey: &str) -> String {
        format!("at://{}/{collection}/{rkey}", session::did(handle))
    }

    /// Keeps bytes under their content's name; a repeat is no new act.
    pub(super) async fn upload(
        &self,
        account: String,
        mime: String,
        bytes: bytes::Bytes,
    ) -> Answer {
        let (size, link) = (bytes.len() as u64, cid(0x55, &sha256(&bytes)));
        let digest = match self.acts.keep_media(bytes).await {
            Ok(digest) => digest,
            Err(error) => {
                return refuse(
                    500,
                    "InternalServerError",
                    &format!("The blob could not be kept: {error}"),
                );
            }
        };
        let mut side = held(&self.side);
        let place = (session::did(&account), link.clone());
        let mime = side
            .blobs
            .get(&place)
            .map_or(mime, |kept| kept.mime.clone());
        if !side.blobs.contains_key(&place) {
            let act = self.acts.record(
                self.clock.now(),
                Draft {
                    platform: NAME,
                    op: "uploadBlob",
                    account,
                    key: None,
                    id: link.clone(),
                    url: Some(format!("{}/media/{digest}", self.base)),
                    text: String::new(),
                    media: vec![Media {
                        digest,
                        alt: String::new(),
                        bytes: size,
                        mime: mime.clone(),
                    }],
                    detail: json!({"cid": link}),
                },
            );
            side.apply(&act);
        }
        let blob = json!({"$type": "blob", "ref": {"$link": link}, "mimeType": mime, "size": size});
        Answer::json(200, &json!({"blob": blob}))
    }

    /// `putRecord` and `createRecord`, with what was seen of a real PDS: the same record again is no commit, another
    /// one with `swapRecord: null` is InvalidSwap, and creating on a key that exists is a 500.
    pub(super) fn write(&self, account: String, write: Write) -> Answer {
        let Write {
            create,
            collection,
            rkey,
            mut record,
            swap,
            validate,
        } = write;
        match record.get("$type") {
            None => {
                record.insert("$type".into(), Value::String(collection.clone()));
            }
            Some(kind) if *kind == collection.as_str() => {}
            Some(kind) => {
                let why = format!(
                    "Invalid $type: expected {collection}, got {}",
                    kind.as_str().unwrap_or("no string")
                );
                return refuse(400, "InvalidRequest", &why);
            }
        }
        let blobs = match checked(&collection, &record, validate) {
            Ok(blobs) => blobs,
            Err(why) => return refuse(400, "InvalidRequest", &why),
        };
        let mut side = held(&self.side);
        let files = match attached(&side, &account, blobs) {
            Ok(files) => files,
            Err((name, why)) => return refuse(400, name, &why),
        };
        let value = Value::Object(record);
        let new_cid = cid_of_record(&value);
        let did = session::did(&account);
        let current = side
            .records
            .get(&did)
            .and_then(|repo| repo.get(&(collection.clone(), rkey.clone())));
        let uri = Self::uri(&account, &collection, &rkey);
        let status = if collection == POST && validate != Some(false) {
            "valid"
        } else {
            "unknown"
        };
        let mut done = json!({"uri": uri, "cid": new_cid, "validationStatus": status});
        match (current, &swap) {
            (Some(_), _) if create => return self.failed(),
            (Some(now), _) if now.cid == new_cid => return Answer::json(200, &done),
            (Some(now), Some(wanted)) if wanted.as_ref() != Some(&now.cid) => {
                return refuse(400, "InvalidSwap", &format!("Record was at {}", now.cid));
            }
            (None, Some(Some(_))) => return refuse(400, "InvalidSwap", "Record was at null"),
            _ => {}
        }
        let action = if current.is_some() {
            "update"
        } else {
            "create"
        };
        let text = value["text"].as_str().unwrap_or_default().to_owned();
        let page = (collection == POST)
            .then(|| format!("{}/bluesky/profile/{account}/post/{rkey}", self.base));
        let act = self.acts.record(self.clock.now(), Draft {
            platform: NAME,
            op: if create { "createRecord" } else { "putRecord" },
            account,
            key: Some(rkey),
            id: uri,
            url: page,
            text,
            media: files,
            detail: json!({"collection": collection, "cid": new_cid, "action": action, "record": value}),
        });
        side.apply(&act);
        done["commit"] = commit(&act);
        Answer::json(200, &done)
    }

    fn failed(&self) -> Answer {
        refuse(500, "InternalServerError", "Internal Server Error")
    }

    pub(super) fn get(
        &self,
        did: &str,
        collection: &str,
        rkey: &str,
        wanted: Option<&str>,
    ) -> Answer {
        let side = held(&self.side);
        let place = (collection.to_owned(), rkey.to_owned());
        let uri = format!("at://{did}/{collection}/{rkey}");
        let found = side.records.get(did).and_then(|repo| repo.get(&place));
        match found.filter(|record| wanted.is_none_or(|cid| cid == record.cid)) {
            Some(record) => Answer::json(
                200,
                &json!({"uri": uri, "cid": record.cid, "value": record.value}),
            ),
            None => refuse(
                400,
                "RecordNotFound",
                &format!("Could not locate record: {uri}"),
            ),
        }
    }

    pub(super) fn list(
        &self,
        did: &str,
        collection: &str,
        limit: usize,
        cursor: Option<&str>,
        reverse: bool,
    ) -> Answer {
        let side = held(&self.side);
        let empty = BTreeMap::new();
        let repo = side.records.get(did).unwrap_or(&empty);
        let behind = |rkey: &str| {
            cursor.is_none_or(|cursor| {
                if reverse {
                    rkey > cursor
                } else {
                    rkey < cursor
                }
            })
        };
        let mut found: Vec<_> = repo
            .iter()
            .filter(|((name, rkey), _)| name == collection && behind(rkey))
            .collect();
        if !reverse {
            found.reverse();
        }
        let page: Vec<_> = found.iter().take(limit).map(|((name, rkey), record)| {
            json!({"uri": format!("at://{did}/{name}/{rkey}"), "cid": record.cid, "value": record.value})
        }).collect();
        let mut answer = json!({"records": page});
        if let Some(((_, rkey), _)) = found.get(limit.wrapping_sub(1)) {
            answer["cursor"] = Value::String(rkey.clone());
        }
        Answer::json(200, &answer)
    }

    /// Deletes a record; one that isn't there is deleted already.
    pub(super) fn delete(
        &self,
        account: String,
        collection: String,
        rkey: String,
        swap: Option<String>,
    ) -> Answer {
        let mut side = held(&self.side);
        let did = session::did(&account);
        let current = side
            .records
            .get(&did)
            .and_then(|repo| repo.get(&(collection.clone(), rkey.clone())));
        let Some(current) = current else {
            return Answer::json(200, &json!({}));
        };
        if swap.is_some_and(|swap| swap != current.cid) {
            return refuse(
                400,
                "InvalidSwap",
                &format!("Record was at {}", current.cid),
            );
        }
        let id = Self::uri(&account, &collection, &rkey);
        let act = self.acts.record(
            self.clock.now(),
            Draft {
                platform: NAME,
                op: "deleteRecord",
                account,
                key: Some(rkey),
                id,
                url: None,
                text: String::new(),
                media: Vec::new(),
                detail: json!({"collection": collection}),
            },
        );
        side.apply(&act);
        Answer::json(200, &json!({"commit": commit(&act)}))
    }
}

/// The commit that an act made, as far as a client can see it.
fn commit(act: &Arc<Act>) -> Value {
    let digest = sha256(format!("commit {} {}", act.n, act.id).as_bytes());
    json!({"cid": cid(0x71, &digest), "rev": tid(act.at)})
}

fn checked(
    collection: &str,
    record: &Map<String, Value>,
    validate: Option<bool>,
) -> Result<Vec<BlobRef>, String> {
    match validate {
        Some(false) => Ok(Vec::new()),
        _ if collection == POST => lexicon::post(record),
        Some(true) => Err(format!("Unknown lexicon type: {collection}")),
        None => Ok(Vec::new()),
    }
}

/// The kept files that a record refers to; all must have been uploaded by this account.
fn attached(
    side: &Side,
    account: &str,
    blobs: Vec<BlobRef>,
) -> Result<Vec<Media>, (&'static str, String)> {
    let did = session::did(account);
    let file = |blob: BlobRef| {
        let kept = side.blobs.get(&(did.clone(), blob.cid.clone()));
        let kept =
            kept.ok_or_else(|| ("BlobNotFound", format!("Could not find blob: {}", blob.cid)))?;
        if kept.mime != blob.mime {
            let why = format!(
                "Referenced Mimetype does not match stored blob. Expected: {}, Got: {}",
                kept.mime, blob.mime
            );
            return Err(("InvalidMimeType", why));
        }
        if kept.bytes != blob.size {
            let why = format!(
                "Referenced size does not match stored blob. Expected: {}, Got: {}",
                kept.bytes, blob.size
            );
            return Err(("InvalidSize", why));
        }
        blob.fits()?;
        Ok(Media {
            alt: blob.alt,
            ..kept.clone()
        })
    };
    blobs.into_iter().map(file).collect()
}
