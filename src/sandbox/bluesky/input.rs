//! The bodies of the repository procedures, read as strictly as the lexicons describe them.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::lexicon::POST;

/// `putRecord` or `createRecord` as it was understood.
#[derive(Debug)]
pub(in super::super) struct Write {
    pub(super) create: bool,
    pub(super) collection: String,
    pub(super) rkey: String,
    pub(super) record: Map<String, Value>,
    /// Absent, null (there must be no record), or the cid that must be there.
    pub(super) swap: Option<Option<String>>,
    pub(super) validate: Option<bool>,
}

/// Reads a JSON body that may have only these fields.
pub(super) fn object(body: &[u8], fields: &[&str]) -> Result<Map<String, Value>, String> {
    let object: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| format!("Unable to parse request body: {error}"))?;
    match object.keys().find(|name| !fields.contains(&name.as_str())) {
        Some(name) => Err(format!("Input has the unknown field \"{name}\"")),
        None => Ok(object),
    }
}

/// A required text field.
pub(super) fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    match fields.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("Input/{name} must be a string")),
        None => Err(format!("Input must have the property \"{name}\"")),
    }
}

/// An optional text field.
pub(super) fn text_or_none(
    fields: &Map<String, Value>,
    name: &str,
) -> Result<Option<String>, String> {
    if fields.contains_key(name) {
        text(fields, name).map(|text| Some(text.to_owned()))
    } else {
        Ok(None)
    }
}

/// Reads the body of a write.
pub(super) fn write(
    fields: &Map<String, Value>,
    create: bool,
    now: DateTime<Utc>,
) -> Result<Write, String> {
    let collection = text(fields, "collection")?.to_owned();
    if !nsid(&collection) {
        return Err("Input/collection must be a valid nsid".into());
    }
    let rkey = match text_or_none(fields, "rkey")? {
        Some(rkey) => rkey,
        None if create => tid(now),
        None => return Err("Input must have the property \"rkey\"".into()),
    };
    record_key(&collection, &rkey)?;
    let Some(record) = fields.get("record").and_then(Value::as_object) else {
        return Err("Input/record must be an object".into());
    };
    if fields.contains_key("swapCommit") {
        return Err("Input/swapCommit is not served by this sandbox: leave it out".into());
    }
    let swap = match fields.get("swapRecord") {
        None => None,
        Some(Value::Null) => Some(None),
        Some(_) => Some(text_or_none(fields, "swapRecord")?),
    };
    let validate = match fields.get("validate") {
        None => None,
        Some(Value::Bool(validate)) => Some(*validate),
        Some(_) => return Err("Input/validate must be a boolean".into()),
    };
    Ok(Write {
        create,
        collection,
        rkey,
        record: record.clone(),
        swap,
        validate,
    })
}

/// A collection's name: three or more parts between dots.
pub(super) fn nsid(text: &str) -> bool {
    let parts: Vec<_> = text.split('.').collect();
    let plain = |part: &&str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    parts.len() >= 3 && text.len() <= 317 && parts.iter().all(plain)
}

/// A record key; a post's must have the shape of a TID.
fn record_key(collection: &str, rkey: &str) -> Result<(), String> {
    let plain = rkey
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'~' | b'-'));
    if !(1..=512).contains(&rkey.len()) || !plain || rkey == "." || rkey == ".." {
        return Err("Input/rkey must be a valid Record Key".into());
    }
    if collection == POST && !is_tid(rkey) {
        return Err(format!(
            "Invalid record key for {collection}: expected a TID, got {rkey}"
        ));
    }
    Ok(())
}

const TID_LETTERS: &[u8; 32] = b"234567abcdefghijklmnopqrstuvwxyz";

fn is_tid(text: &str) -> bool {
    let first = text.as_bytes().first();
    text.len() == 13
        && text.bytes().all(|b| TID_LETTERS.contains(&b))
        && first.is_some_and(|first| b"234567abcdefghij".contains(first))
}

/// A TID of a moment: microseconds and a clock id of zero in sortable base32.
pub(super) fn tid(at: DateTime<Utc>) -> String {
    let number = (u64::try_from(at.timestamp_micros()).unwrap_or(0) << 10) & (u64::MAX >> 1);
    (0..13)
        .rev()
        .map(|place| TID_LETTERS[(number >> (place * 5)) as usize & 31] as char)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tids_are_well_formed_and_sort_by_time() {
        let now = Utc::now();
        assert!(is_tid(&tid(now)), "{}", tid(now));
        assert!(tid(now) < tid(now + chrono::TimeDelta::milliseconds(1)));
        assert!(
            is_tid("3jzfcijpj2z2a")
                && !is_tid("3jzfcijpj2z2")
                && !is_tid("zjzfcijpj2z2a")
                && !is_tid("3jzfcijpj2z21")
        );
    }

    #[test]
    fn a_post_needs_a_tid_and_other_records_a_key() {
        let read = |collection: &str, rkey: &str| {
            let body = json!({"repo": "a", "collection": collection, "rkey": rkey, "record": {}});
            write(body.as_object().expect("an object"), false, Utc::now()).map(|write| write.swap)
        };
        assert_eq!(read(POST, "3jzfcijpj2z2a"), Ok(None));
        assert!(read(POST, "self").is_err());
        assert!(read("app.bsky.actor.profile", "self").is_ok());
        assert!(read("profile", "self").is_err());
        assert!(read("app.bsky.actor.profile", "a/b").is_err());
    }
}
