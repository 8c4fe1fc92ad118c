//! What a request for pictures may say, checked as strictly as the platform checks it.

use serde_json::{Map, Value};

use super::super::form::Form;
use super::request::{Invalid, invalid, known, missing};

/// The fields that the description of `CreateImageRequest` names.
const DRAW_FIELDS: &[&str] = &[
    "prompt",
    "model",
    "n",
    "quality",
    "response_format",
    "output_format",
    "output_compression",
    "stream",
    "partial_images",
    "size",
    "moderation",
    "background",
    "style",
    "user",
];

/// The fields that the description of `CreateImageEditRequest` names, files apart.
const EDIT_FIELDS: &[&str] = &[
    "prompt",
    "background",
    "model",
    "n",
    "size",
    "response_format",
    "output_format",
    "output_compression",
    "user",
    "input_fidelity",
    "stream",
    "partial_images",
    "quality",
];

/// Bytes of a picture that is edited.
const ORIGINAL_MAX: usize = 50_000_000;
/// Pictures that are edited together.
const ORIGINALS: usize = 16;
/// What `auto` draws.
const AUTO: (u32, u32) = (1024, 1024);
/// Words whose pictures are refused, as the platform refuses what its policy forbids.
const FORBIDDEN: &str = "forbidden by policy";

/// A request that was understood.
#[derive(Debug)]
pub(in super::super) struct Order {
    pub(super) model: String,
    pub(super) prompt: String,
    pub(super) n: u64,
    pub(super) size: (u32, u32),
    pub(super) quality: String,
    pub(super) background: String,
    /// Whether the answer names URLs instead of holding the pictures.
    pub(super) by_url: bool,
    /// Bytes of the pictures that are edited; empty when there are none.
    pub(super) originals: Vec<u64>,
}

impl Order {
    pub(super) fn is_dalle(&self) -> bool {
        self.model.starts_with("dall-e-")
    }
}

/// Checks the body of a generation.
pub(super) fn draw(body: &[u8]) -> Result<Order, Invalid> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => {
            known(&fields, DRAW_FIELDS, "")?;
            order(&fields, Vec::new())
        }
        _ => invalid(
            "body",
            "invalid_type",
            "The body must be a JSON object.".into(),
        ),
    }
}

/// Checks the form of an edit.
pub(super) fn edit(form: Form) -> Result<Order, Invalid> {
    known(&form.fields, EDIT_FIELDS, "")?;
    let mut originals = Vec::new();
    for file in &form.files {
        if !matches!(file.field.as_str(), "image" | "image[]") {
            let message = format!("Unknown parameter: '{}'.", file.field);
            return invalid(&file.field, "unknown_parameter", message);
        }
        let magic = match file.mime.as_str() {
            "image/png" => file.bytes.starts_with(b"\x89PNG"),
            "image/jpeg" => file.bytes.starts_with(b"\xff\xd8\xff"),
            "image/webp" => file.bytes.starts_with(b"RIFF"),
            _ => false,
        };
        if !magic || ORIGINAL_MAX < file.bytes.len() {
            let message = "Invalid image file or mode for image, please check your image file.";
            return invalid("image", "invalid_image_file", message.into());
        }
        originals.push(file.bytes.len() as u64);
    }
    if originals.is_empty() {
        return missing("image");
    }
    let order = order(&form.fields, originals)?;
    let most = match order.model.as_str() {
        "dall-e-3" => 0,
        "dall-e-2" => 1,
        _ => ORIGINALS,
    };
    if most < order.originals.len() {
        let message = format!("Invalid 'image': {} takes at most {most}.", order.model);
        return invalid("image", "invalid_value", message);
    }
    Ok(order)
}

fn order(fields: &Map<String, Value>, originals: Vec<u64>) -> Result<Order, Invalid> {
    let prompt = match word(fields, "prompt")? {
        Some(it) if !it.is_empty() => it,
        _ => return missing("prompt"),
    };
    if prompt.contains(FORBIDDEN) {
        let message = "Your request was rejected by the safety system.";
        return invalid("prompt", "moderation_blocked", message.into());
    }
    let model = word(fields, "model")?.unwrap_or_else(|| "dall-e-2".to_owned());
    let dalle = matches!(model.as_str(), "dall-e-2" | "dall-e-3");
    if !dalle
        && !["gpt-image-", "chatgpt-image-", "sandbox-"]
            .iter()
            .any(|it| model.starts_with(it))
    {
        return Err(Invalid {
            message: format!("The model '{model}' does not exist."),
            param: Some("model".to_owned()),
            code: Some("model_not_found"),
            status: 404,
        });
    }
    let n = number(fields, "n")?.unwrap_or(1);
    if !(1..=if model == "dall-e-3" { 1 } else { 10 }).contains(&n) {
        return invalid("n", "invalid_value", format!("Invalid 'n': {n}."));
    }
    let only_gpt = [
        "output_format",
        "output_compression",
        "background",
        "moderation",
        "input_fidelity",
    ];
    let only_dalle = ["response_format", "style"];
    let refused = if dalle {
        &only_gpt[..]
    } else {
        &only_dalle[..]
    };
    if let Some(name) = refused.iter().find(|it| fields.contains_key(**it)) {
        let message = format!("Unknown parameter: '{name}'.");
        return invalid(name, "unknown_parameter", message);
    }
    let of = |name: &str, words: &[&str]| one_of(fields, name, words);
    let qualities: &[&str] = match model.as_str() {
        "dall-e-2" => &["standard", "auto"],
        "dall-e-3" => &["standard", "hd", "auto"],
        _ => &["low", "medium", "high", "auto"],
    };
    let quality = of("quality", qualities)?;
    let background = of("background", &["transparent", "opaque", "auto"])?;
    // this sandbox draws PNGs only
    of("output_format", &["png"])?;
    of("input_fidelity", &["high", "low"])?;
    let by_url =
        dalle && of("response_format", &["url", "b64_json"])?.as_deref() != Some("b64_json");
    Ok(Order {
        size: size(fields, &model)?,
        quality: quality
            .filter(|it| it != "auto")
            .unwrap_or_else(|| "high".to_owned()),
        background: background
            .filter(|it| it != "auto")
            .unwrap_or_else(|| "opaque".to_owned()),
        model,
        prompt,
        n,
        by_url,
        originals,
    })
}

fn size(fields: &Map<String, Value>, model: &str) -> Result<(u32, u32), Invalid> {
    let Some(said) = word(fields, "size")? else {
        return Ok(AUTO);
    };
    let sizes: &[&str] = match model {
        "dall-e-2" => &["256x256", "512x512", "1024x1024"],
        "dall-e-3" => &["1024x1024", "1792x1024", "1024x1792"],
        it if it.starts_with("gpt-image-2") => &[],
        _ => &["auto", "1024x1024", "1536x1024", "1024x1536"],
    };
    if said == "auto" && (sizes.is_empty() || sizes.contains(&"auto")) {
        return Ok(AUTO);
    }
    let sides = said
        .split_once('x')
        .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let free = |(a, b): (u32, u32)| {
        a.is_multiple_of(16)
            && b.is_multiple_of(16)
            && 0 < a.min(b)
            && a.max(b) <= 3 * a.min(b)
            && u64::from(a) * u64::from(b) <= 3_840 * 2_160
    };
    match sides {
        Some(it) if sizes.contains(&said.as_str()) || (sizes.is_empty() && free(it)) => Ok(it),
        _ => invalid("size", "invalid_value", format!("Invalid value: '{said}'.")),
    }
}

fn word(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, Invalid> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(it)) => Ok(Some(it.clone())),
        Some(_) => invalid(
            name,
            "invalid_type",
            format!("Invalid type for '{name}': expected a string."),
        ),
    }
}

/// A whole number; in a form it is text.
fn number(fields: &Map<String, Value>, name: &str) -> Result<Option<u64>, Invalid> {
    let number = match fields.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(it)) => it.parse().ok(),
        Some(it) => it.as_u64(),
    };
    match number {
        Some(it) => Ok(Some(it)),
        None => invalid(
            name,
            "invalid_type",
            format!("Invalid type for '{name}': expected an integer."),
        ),
    }
}

fn one_of(
    fields: &Map<String, Value>,
    name: &str,
    words: &[&str],
) -> Result<Option<String>, Invalid> {
    match word(fields, name)? {
        Some(it) if !words.contains(&it.as_str()) => {
            let message = format!(
                "Invalid value: '{it}'. Supported values are: {}.",
                words.join(", ")
            );
            invalid(name, "invalid_value", message)
        }
        it => Ok(it),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn code(body: Value) -> Option<&'static str> {
        draw(body.to_string().as_bytes())
            .err()
            .and_then(|it| it.code)
    }

    #[test]
    fn what_the_platform_refuses_is_refused() {
        assert_eq!(
            code(json!({"prompt": "a", "model": "gpt-image-1", "size": "auto", "n": 10})),
            None
        );
        for (body, expected) in [
            (json!({}), "missing_required_parameter"),
            (json!({"prompt": "a", "strength": 1}), "unknown_parameter"),
            (json!({"prompt": "a", "n": 11}), "invalid_value"),
            (
                json!({"prompt": "a", "model": "dall-e-3", "n": 2}),
                "invalid_value",
            ),
            (json!({"prompt": "a", "size": "1x1"}), "invalid_value"),
            (
                json!({"prompt": "a", "model": "gpt-image-2", "size": "1000x1000"}),
                "invalid_value",
            ),
            (
                json!({"prompt": "a", "background": "opaque"}),
                "unknown_parameter",
            ),
            (
                json!({"prompt": "a", "model": "gpt-image-1", "response_format": "url"}),
                "unknown_parameter",
            ),
            (json!({"prompt": "a", "model": "gpt-5"}), "model_not_found"),
            (
                json!({"prompt": "a thing forbidden by policy"}),
                "moderation_blocked",
            ),
        ] {
            assert_eq!(code(body.clone()), Some(expected), "{body}");
        }
    }

    #[test]
    fn the_fields_are_those_of_the_description() {
        let Some(text) = super::super::super::text::specification("openai/openapi.yaml") else {
            return;
        };
        for (schema, fields) in [
            ("\n    CreateImageRequest:\n", DRAW_FIELDS),
            ("\n    CreateImageEditRequest:\n", EDIT_FIELDS),
        ] {
            let (_, rest) = text.split_once(schema).expect("it is there");
            let (_, rest) = rest.split_once("      properties:\n").expect("it has some");
            let mut named: Vec<&str> = rest
                .lines()
                .take_while(|it| it.starts_with("        ") || it.trim().is_empty())
                .filter(|it| it.starts_with("        ") && it.as_bytes().get(8) != Some(&b' '))
                .filter_map(|it| it.trim().split_once(':'))
                .map(|(name, _)| name)
                .filter(|it| !matches!(*it, "image" | "mask"))
                .collect();
            let mut fields = fields.to_vec();
            fields.sort_unstable();
            named.sort_unstable();
            assert_eq!(named, fields, "{schema}");
        }
    }
}
