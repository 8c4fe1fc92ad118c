//! `illustrate.image`: pictures from an OpenAI-compatible model, drawn or edited from others, in the
//! media store; paid for once.

mod draft;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Config;
use crate::context::{Context, Permit, Wanted};
use crate::effect::Receipt;
use crate::handler::{AGE_MAX_S, Defaults, Handler};
use crate::job::Envelope;
use crate::json::Violation;
use crate::media::Limits;
use crate::outcome::{Failure, Outcome};
use crate::platform::openai_images::{self, Drawing, Drawn, Original, Picture, Place};
use crate::reference::Reference;
use crate::retry::Policy;

use super::paid;
use draft::{ORIGINAL_TYPES, Payload, Source};

/// Bytes of an edit's pictures together: they are in memory while they are sent.
const ORIGINALS_MAX: u64 = 64 << 20;

/// A picture of the result.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    #[serde(flatten)]
    reference: Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    revised_prompt: Option<String>,
}

/// The kind.
pub(super) struct IllustrateImage;

impl Handler for IllustrateImage {
    type Payload = Payload;
    const DEFAULTS: Defaults = Defaults {
        name: "illustrate.image",
        about: "pictures from an OpenAI-compatible model, drawn or edited from others",
        lane: "openai",
        retry: Policy {
            attempts_max: 6,
            base_ms: 2_000,
            cap_ms: 300_000,
        },
        timeout_s: 300,
        age_max_s: AGE_MAX_S,
        platforms: &["openai"],
        example: r#"{"model": "gpt-image-1", "prompt": "A fox in a print shop, woodcut."}"#,
    };
    const SENDS: &'static [&'static str] = &["openai.image"];

    fn preflight(payload: &Payload, _: &Envelope, config: &Config) -> Vec<Violation> {
        payload.draft(config).1
    }

    async fn run(cx: &Context, payload: Payload) -> Result<Value, Outcome> {
        let (_, account) = cx.account("openai")?;
        // a preset may be changed between two attempts, and what was asked for may not
        let step = cx.step_here("request");
        let drawing = cx.step(&step, async { drawing(&payload, &cx.config) });
        let drawing: Drawing = drawing.await?;
        let references = originals(cx, &payload).await?;
        let intent = json!({
            "base_url": account.base_url,
            "request": drawing.fields(),
            "originals": references.iter().map(|it| it.media).collect::<Vec<_>>(),
        });
        let cache = paid::Cache::of(cx, payload.cache, &intent);
        if let Some(cache) = &cache
            && let Some(result) = cache.find().await?
        {
            return Ok(result);
        }
        let budget = paid::budget(cx);
        let wanted = Wanted {
            step: "draw",
            ordinal: 0,
            op: "openai.image",
            rule: paid::rule(cx),
            intent,
            keep: Value::Null,
            says: None,
            budget,
            price: paid::price_of_pictures(cx, &drawing, references.len()),
        };
        cx.progress(20, format!("asking {}", drawing.model));
        let send = |permit: Permit| {
            let (drawing, references) = (&drawing, &references);
            async move {
                let originals = loaded(cx, references).await?;
                let place = Place {
                    media: cx.media(),
                    limits: Limits::of(&cx.config.media),
                };
                let what = (drawing, &originals[..]);
                let deadline = budget.mul_f32(0.9);
                let prices = &cx.config.models;
                let drawn = openai_images::draw(&cx.http, account, what, prices, &place, deadline);
                let mut receipt = drawn.await?;
                // what was lost may have been made, so it counts as spent
                receipt.detail["sends"] = json!(permit.lost + 1);
                Ok(receipt)
            }
        };
        let receipt = cx.effect(wanted, send).await.map_err(paid::out_of_money)?;
        cx.progress(70, "answered");
        let mut result = result(cx, &receipt, &drawing.model).await?;
        paid::say_who(cx, &mut result);
        if let Some(cache) = &cache {
            cache.offer().await?;
        }
        Ok(result)
    }
}

/// What is asked for, by the configuration of the first attempt.
fn drawing(payload: &Payload, config: &Config) -> Result<Drawing, Outcome> {
    let (drawing, found) = payload.draft(config);
    if found.is_empty() {
        return Ok(drawing);
    }
    let told: Vec<String> = found.iter().map(ToString::to_string).collect();
    Err(Failure::permanent("preflight", told.join("; ")).into())
}

/// The pictures to edit, each in the media store and fit to be sent: recorded, since what is behind a
/// URL changes.
async fn originals(cx: &Context, payload: &Payload) -> Result<Vec<Reference>, Outcome> {
    let unfit = |i: usize, what: String| {
        Outcome::from(Failure::permanent("media", format!("/images/{i}: {what}")))
    };
    let (mut references, mut bytes) = (Vec::new(), 0);
    for (i, text) in payload.images.iter().enumerate() {
        cx.go_on()?;
        cx.progress(5, format!("picture {} of {}", i + 1, payload.images.len()));
        let source = Source::read(text).map_err(|e| unfit(i, e))?;
        let find = async {
            Ok(match source {
                Source::Stored(name) => cx.media().look(name).await?,
                Source::Url(url) => cx.fetcher().get(url, &cx.config.media).await?,
            })
        };
        let it: Reference = cx.step(&format!("original-{i}"), find).await?;
        if !ORIGINAL_TYPES.contains(&it.mime.as_str()) {
            let types = ORIGINAL_TYPES.join(", ");
            return Err(unfit(i, format!("is {}; one of {types} is taken", it.mime)));
        }
        bytes += it.bytes;
        references.push(it);
    }
    match bytes <= ORIGINALS_MAX {
        true => Ok(references),
        false => {
            let message =
                format!("the pictures have {bytes} bytes; at most {ORIGINALS_MAX} are sent");
            Err(Failure::permanent("media", message).into())
        }
    }
}

/// The bytes of the pictures to edit. Nothing was sent yet, so a failure refuses.
async fn loaded(
    cx: &Context,
    references: &[Reference],
) -> Result<Vec<Original>, crate::platform::CallError> {
    let mut originals = Vec::with_capacity(references.len());
    for it in references {
        let read = cx.media().whole(it.media, ORIGINALS_MAX).await;
        let (about, bytes) = read.map_err(|e| {
            let failure = match Outcome::from(e) {
                Outcome::Failed(it) => it,
                other => Failure::transient("ledger", other.to_string()),
            };
            crate::platform::CallError::Refused(failure)
        })?;
        originals.push(Original {
            mime: about.mime,
            bytes,
        });
    }
    Ok(originals)
}

/// The job's result from the recorded answer: a re-run reads the same, and pays nothing. Each picture
/// is named by a step of its own, which holds it.
async fn result(cx: &Context, receipt: &Receipt, model: &str) -> Result<Value, Outcome> {
    paid::is_here(receipt, "picture")?;
    let drawn: Drawn = serde_json::from_value(receipt.detail.clone()).map_err(|e| {
        let message = format!("the recorded answer can't be read: {e}");
        Failure::permanent("receipt", message)
    })?;
    let mut images: Vec<Done> = Vec::with_capacity(drawn.pictures.len());
    for (i, picture) in drawn.pictures.into_iter().enumerate() {
        cx.go_on()?;
        images.push(
            cx.step(&format!("picture-{i}"), copied(cx, picture))
                .await?,
        );
    }
    let sends = receipt.detail["sends"].as_u64().unwrap_or(1);
    cx.progress(100, "stored");
    Ok(json!({
        "images": images,
        "model": model,
        "usage": {
            "input_tokens": drawn.input_tokens,
            "output_tokens": drawn.output_tokens,
            "sends": sends,
        },
        "cost_micros": drawn.cost_micros.map(|it| it.saturating_mul(sends)),
        "request_id": drawn.request_id,
    }))
}

/// A picture of an answer in the media store: from where it is for an hour, unless it is there.
async fn copied(cx: &Context, picture: Picture) -> Result<Done, Outcome> {
    let reference = match (picture.stored, &picture.url) {
        (Some(it), _) => cx.media().look(it.media).await?,
        (None, Some(url)) => {
            let got = cx.fetcher().get(url, &cx.config.media).await;
            got.map_err(paid_for)?
        }
        (None, None) => {
            let message = "the recorded answer neither holds nor names a picture";
            return Err(Failure::permanent("receipt", message).into());
        }
    };
    Ok(Done {
        reference,
        revised_prompt: picture.revised_prompt,
    })
}

/// Says that a picture exists, where it can't be copied.
fn paid_for(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed(it) => {
            let message = format!(
                "the picture was made and paid for, and can't be copied: {}",
                it.message
            );
            Outcome::Failed(Failure { message, ..it })
        }
        other => other,
    }
}
