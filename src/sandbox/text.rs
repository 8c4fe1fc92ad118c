//! Small text tools shared by the platforms and the wall: digests, base32, escaping, links, form fields.

use std::ops::Range;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use unicode_segmentation::UnicodeSegmentation;

/// SHA-256 of some bytes.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            write!(out, "{byte:02x}").expect("writing to a String can't fail");
            out
        })
}

/// Base32 as multibase `b` and `did:plc` use it: RFC 4648, lower case, no padding.
pub(super) fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut out = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut buffer, mut bits) = (0u32, 0u32);
    for &byte in bytes {
        buffer = (buffer << 8) | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(ALPHABET[(buffer >> bits) as usize & 31] as char);
        }
        buffer &= (1 << bits) - 1;
    }
    if bits > 0 {
        out.push(ALPHABET[(buffer << (5 - bits)) as usize & 31] as char);
    }
    out
}

/// A number that depends on the given words only; the same on every machine and in every run.
pub(super) fn fingerprint(words: &[&str]) -> u64 {
    let mut hash = Sha256::new();
    for word in words {
        hash.update((word.len() as u64).to_be_bytes());
        hash.update(word.as_bytes());
    }
    let digest = hash.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// Text made safe for HTML, between tags and inside quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Characters as a reader counts them.
pub(super) fn graphemes(text: &str) -> usize {
    text.graphemes(true).count()
}

/// Byte ranges of the http(s) links in a text; closing punctuation is not part of a link.
pub(super) fn links(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = next_scheme(text, from) {
        let rest = &text[start..];
        let end = rest
            .find(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"'))
            .unwrap_or(rest.len());
        let link = rest[..end].trim_end_matches(['.', ',', ';', ':', '!', '?', ')', ']', '\'']);
        if link
            .split_once("://")
            .is_some_and(|(_, host)| !host.is_empty())
        {
            found.push(start..start + link.len());
        }
        from = start + end.max(1);
    }
    found
}

fn next_scheme(text: &str, from: usize) -> Option<usize> {
    let rest = &text[from..];
    [rest.find("https://"), rest.find("http://")]
        .into_iter()
        .flatten()
        .min()
        .map(|at| from + at)
}

/// A JSON value with the keys of every object sorted, so that equal records have equal bytes.
pub(super) fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(key, _)| key.as_str());
            Value::Object(
                sorted
                    .into_iter()
                    .map(|(key, value)| (key.clone(), canonical(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

/// Form fields as the JSON a Rails application makes of them: `a`, `a[]`, `a[b]` and `a[b][]`.
/// A field that names one thing in two shapes (`a` and `a[]`) is refused with a sentence.
pub(super) fn form_object(
    fields: impl IntoIterator<Item = (String, String)>,
) -> Result<Map<String, Value>, String> {
    let mut out = Map::new();
    for (name, value) in fields {
        let (head, tail) = match name.find('[') {
            Some(at) => name.split_at(at),
            None => (name.as_str(), ""),
        };
        put_field(&mut out, head, tail, value)
            .ok_or_else(|| format!("the form field {name} can't be read"))?;
    }
    Ok(out)
}

fn put_field(into: &mut Map<String, Value>, head: &str, tail: &str, value: String) -> Option<()> {
    if tail.is_empty() {
        into.insert(head.to_owned(), Value::String(value));
        return Some(());
    }
    let (inner, rest) = tail.strip_prefix('[')?.split_once(']')?;
    if inner.is_empty() {
        let list = into.entry(head).or_insert_with(|| Value::Array(Vec::new()));
        list.as_array_mut()?.push(Value::String(value));
        return rest.is_empty().then_some(());
    }
    let nested = into
        .entry(head)
        .or_insert_with(|| Value::Object(Map::new()));
    put_field(nested.as_object_mut()?, inner, rest, value)
}

/// A platform's description, for tests: below `PRESSWORK_SPECS`, else below `../shared/specs`.
#[cfg(test)]
pub(super) fn specification(path: &str) -> Option<String> {
    let beside = || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/specs");
    let root = std::env::var_os("PRESSWORK_SPECS").map_or_else(beside, std::path::PathBuf::from);
    let text = std::fs::read_to_string(root.join(path)).ok();
    if text.is_none() {
        eprintln!(
            "skipped: {path} was not found; PRESSWORK_SPECS names the directory of the descriptions"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_rfc_4648_in_lower_case() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base32(b""), "");
    }

    #[test]
    fn links_end_before_punctuation_and_need_a_host() {
        let text = "See https://a.example/x?y=1, or (http://b.example). https:// is none";
        let found: Vec<_> = links(text).into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, ["https://a.example/x?y=1", "http://b.example"]);
    }

    #[test]
    fn form_fields_nest() {
        let fields = [
            ("a", "1"),
            ("b[]", "2"),
            ("b[]", "3"),
            ("c[d]", "4"),
            ("c[e][]", "5"),
        ];
        let object =
            form_object(fields.map(|(k, v)| (k.to_owned(), v.to_owned()))).expect("a form");
        assert_eq!(
            Value::Object(object),
            serde_json::json!({"a": "1", "b": ["2", "3"], "c": {"d": "4", "e": ["5"]}})
        );
        assert!(form_object([("a".into(), "1".into()), ("a[]".into(), "2".into())]).is_err());
    }

    #[test]
    fn canonical_forgets_the_order_of_keys() {
        let (one, two) = (
            r#"{"b":1,"a":{"d":[1,2],"c":2}}"#,
            r#"{"a":{"c":2,"d":[1,2]},"b":1}"#,
        );
        let read =
            |text| canonical(&serde_json::from_str::<Value>(text).expect("JSON")).to_string();
        assert_eq!(read(one), read(two));
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(
            escape("<a href=\"x\" id='y'>&"),
            "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;"
        );
    }
}
