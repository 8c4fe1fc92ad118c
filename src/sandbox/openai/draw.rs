//! Drawing: real PNGs of the asked size, in the answer or behind a URL of the sandbox.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::super::{
    acts::{Draft, Media},
    exchange::{Answer, Platform},
    faults::without_marks,
};
use super::{OpenAi, images::Order, png::png, refuse, tokens};

/// Play-money prices in USD per token, those of a small model; a dall-e costs by the picture.
const INPUT_USD: f64 = 2.5e-6;
const OUTPUT_USD: f64 = 8e-6;
const DALLE_USD: f64 = 0.04;
/// Tokens of a picture that is read, and of one that is drawn.
const READ_TOKENS: u64 = 323;
const DRAWN_TOKENS: u64 = 1_056;

impl OpenAi {
    pub(super) async fn draw(&self, account: String, order: &Order, key: Option<String>) -> Answer {
        let now = self.clock.now();
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
            let digest = match self.acts.keep_media(picture.into()).await {
                Ok(it) => it,
                Err(e) => {
                    let message = format!("The picture could not be kept: {e}");
                    return refuse(500, &message, None, None);
                }
            };
            if order.by_url {
                told["url"] = format!("{}/media/{digest}", self.base).into();
            }
            if order.model == "dall-e-3" {
                told["revised_prompt"] = format!("{prompt}, in bold stripes").into();
            }
            data.push(told);
            media.push(Media {
                digest,
                alt: prompt.clone(),
                bytes,
                mime: "image/png".to_owned(),
            });
        }
        let usage = usage(order);
        let cost = match order.is_dalle() {
            true => order.n as f64 * DALLE_USD,
            false => {
                let of = |name: &str| usage[name].as_u64().unwrap_or_default() as f64;
                of("input_tokens") * INPUT_USD + of("output_tokens") * OUTPUT_USD
            }
        };
        let (width, height) = order.size;
        let size = format!("{width}x{height}");
        self.acts.record(now, Draft {
            platform: Self::NAME,
            op: if order.originals.is_empty() { "image.generate" } else { "image.edit" },
            account,
            key,
            id: format!("img_{}", uuid::Uuid::new_v4().simple()),
            url: None,
            text: order.prompt.clone(),
            media,
            detail: json!({"prompt": order.prompt, "model": order.model, "size": size, "originals": order.originals, "cost_usd": cost}),
        });
        let mut answer = json!({"created": now.timestamp(), "data": data});
        if !order.is_dalle() {
            answer["background"] = order.background.as_str().into();
            answer["output_format"] = "png".into();
            answer["size"] = size.into();
            answer["quality"] = order.quality.as_str().into();
            answer["usage"] = usage;
        }
        Answer::json(200, &answer)
    }
}

fn usage(order: &Order) -> Value {
    let text = tokens(&order.prompt);
    let images = order.originals.len() as u64 * READ_TOKENS;
    let drawn = order.n * DRAWN_TOKENS;
    json!({
        "input_tokens": text + images,
        "output_tokens": drawn,
        "total_tokens": text + images + drawn,
        "input_tokens_details": {"text_tokens": text, "image_tokens": images},
    })
}
