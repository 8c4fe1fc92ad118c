//! Drawing: real PNGs of the asked size, in the answer or behind a URL of the sandbox, and their price.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::super::{
    acts::{ActLog, Media},
    play::without_marks,
};
use super::{images::Order, png::png};

/// Play-money prices in USD per token, those of a small model; a dall-e costs by the picture.
const INPUT_USD: f64 = 2.5e-6;
const OUTPUT_USD: f64 = 8e-6;
const DALLE_USD: f64 = 0.04;
/// Tokens of a picture that is read, and of one that is drawn.
const READ_TOKENS: u64 = 323;
const DRAWN_TOKENS: u64 = 1_056;

/// The pictures of an order, kept: as the answer tells them, and as the log does.
///
/// # Errors
/// When one can't be kept.
pub(super) async fn drawn(
    order: &Order,
    acts: &ActLog,
    base: &str,
) -> std::io::Result<(Vec<Value>, Vec<Media>)> {
    let prompt = without_marks(&order.prompt);
    let (mut data, mut media) = (Vec::new(), Vec::new());
    for i in 0..order.n {
        let (width, height) = order.size;
        let picture = png(
            width,
            height,
            &[&order.prompt, &order.model, &i.to_string()],
        );
        let bytes = picture.len() as u64;
        let mut told = match order.by_url {
            true => json!({}),
            false => json!({"b64_json": STANDARD.encode(&picture)}),
        };
        let digest = acts.keep_media(picture.into()).await?;
        if order.by_url {
            told["url"] = format!("{base}/media/{digest}").into();
        }
        if order.model == "dall-e-3" {
            told["revised_prompt"] = format!("In bold stripes: {prompt}").into();
        }
        data.push(told);
        media.push(Media {
            digest,
            alt: prompt.clone(),
            bytes,
            mime: "image/png".to_owned(),
        });
    }
    Ok((data, media))
}

/// The tokens of an order, of which the prompt has `text`.
pub(super) fn usage(order: &Order, text: u64) -> Value {
    let images = order.originals.len() as u64 * READ_TOKENS;
    let drawn = order.n * DRAWN_TOKENS;
    json!({
        "input_tokens": text + images,
        "output_tokens": drawn,
        "total_tokens": text + images + drawn,
        "input_tokens_details": {"text_tokens": text, "image_tokens": images},
    })
}

/// What an order costs in USD.
pub(super) fn cost(order: &Order, usage: &Value) -> f64 {
    let of = |name: &str| usage[name].as_u64().unwrap_or_default() as f64;
    match order.is_dalle() {
        true => order.n as f64 * DALLE_USD,
        false => of("input_tokens") * INPUT_USD + of("output_tokens") * OUTPUT_USD,
    }
}
