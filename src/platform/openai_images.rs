//! OpenAI-compatible pictures: drawn, or edited from others; what came is in the media store before it
//! counts as answered.
//!
//! An answer holds its pictures in base64, or says where they are for an hour. The former are
//! stored within the call, so that the receipt names them; the latter are named by the receipt as they
//! were told, and copied after: that can be tried again, and nothing is paid for twice.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::{Account, Model};
use crate::effect::Receipt;
use crate::media::{Limits, Media};
use crate::outcome::{Failure, Outcome};
use crate::reference::Reference;

use super::http::{Body, Call, Http, Part, below};
use super::openai::{RULES, cost};
use super::verdict::{CallError, lost, read, unreadable};

/// Bytes of an answer for each picture: 3840 x 2160 pixels, hardly compressed, in base64.
const ANSWER_MAX: usize = 24 << 20;
/// Bytes of an answer beside its pictures.
const REST_MAX: usize = 1 << 20;
/// Tokens that a picture to edit has at most: those of the finest fidelity, and some.
const ORIGINAL_TOKENS: u64 = 8_192;
/// Tokens around a prompt at most.
const PROMPT_TOKENS: u64 = 64;
/// Characters of base64 that are decoded at once; four of them are three bytes.
const PIECE: usize = 256 << 10;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawing {
    /// The model's name.
    pub model: String,
    /// What is to be seen.
    pub prompt: String,
    /// How many pictures, 1 to 10.
    pub n: u32,
    /// `auto`, or `1024x1024`.
    pub size: Option<String>,
    /// `low`, `medium`, `high`, `auto`; `standard`, `hd`.
    pub quality: Option<String>,
    /// `transparent`, `opaque`, `auto`.
    pub background: Option<String>,
    /// `png`, `jpeg`, `webp`.
    pub output_format: Option<String>,
    /// Of an edit: how closely its pictures are kept, `high` or `low`.
    pub input_fidelity: Option<String>,
}

impl Drawing {
    /// What is sent, by name; `n` where it isn't one, as it is without being said.
    pub fn fields(&self) -> Vec<(&'static str, Value)> {
        let text = |it: &Option<String>| it.clone().map(Value::from);
        let all = [
            ("model", Some(Value::from(self.model.as_str()))),
            ("prompt", Some(self.prompt.as_str().into())),
            ("n", (self.n != 1).then(|| self.n.into())),
            ("size", text(&self.size)),
            ("quality", text(&self.quality)),
            ("background", text(&self.background)),
            ("output_format", text(&self.output_format)),
            ("input_fidelity", text(&self.input_fidelity)),
        ];
        let said = |(name, value): (_, Option<Value>)| Some((name, value?));
        all.into_iter().filter_map(said).collect()
    }

    fn call(&self, account: &Account, originals: &[Original], deadline: Duration) -> Call {
        let fields = self.fields();
        let (path, body) = match originals {
            [] => {
                let body: serde_json::Map<String, Value> = fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect();
                let body = Body::Json(Value::Object(body).to_string());
                ("/v1/images/generations", body)
            }
            _ => ("/v1/images/edits", form(fields, originals)),
        };
        let most = ANSWER_MAX.saturating_mul(self.n as usize) + REST_MAX;
        Call::post(below(&account.base_url, path), body, deadline)
            .bearer(&account.secret)
            .fresh()
            .patient()
            .at_most(most)
    }
}

fn form(fields: Vec<(&'static str, Value)>, originals: &[Original]) -> Body {
    let fields = fields.into_iter().map(|(name, value)| Part {
        name,
        file: None,
        bytes: match value {
            Value::String(text) => text.into(),
            other => other.to_string().into(),
        },
    });
    let name = match originals.len() {
        1 => "image",
        _ => "image[]",
    };
    let files = originals.iter().enumerate().map(|(i, it)| {
        let ending = it.mime.rsplit('/').next().unwrap_or("bin");
        Part {
            name,
            file: Some((format!("picture-{i}.{ending}"), it.mime.clone())),
            bytes: it.bytes.clone(),
        }
    });
    Body::Multipart(fields.chain(files).collect())
}

/// A picture that is edited.
#[derive(Clone, Debug)]
pub struct Original {
    /// Its media type.
    pub mime: String,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A picture as it was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Picture {
    /// The picture, where the answer held it.
    pub stored: Option<Reference>,
    /// Where it is for an hour, where not.
    pub url: Option<String>,
    /// The prompt that the model made of the prompt.
    pub revised_prompt: Option<String>,
}

/// What came back: kept with the receipt, so that it is paid for once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drawn {
    /// The pictures, one at least.
    pub pictures: Vec<Picture>,
    /// Tokens read; `None` where the model doesn't count them.
    pub input_tokens: Option<u64>,
    /// Tokens written.
    pub output_tokens: Option<u64>,
    /// What it cost, in millionths of a US dollar; `None` without a price or without tokens.
    pub cost_micros: Option<u64>,
    /// The platform's id of the request, for its support.
    pub request_id: Option<String>,
}

/// An answer of [`draw`].
#[derive(Deserialize)]
pub struct Answered<'a> {
    #[serde(borrow)]
    data: Vec<Told<'a>>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    b64_json: Option<Cow<'a, str>>,
    url: Option<String>,
    revised_prompt: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    input_tokens: u64,
    output_tokens: u64,
}

/// Where pictures go that an answer holds.
pub struct Place<'a> {
    /// The media store.
    pub media: &'a Media,
    /// What it takes.
    pub limits: Limits,
}

/// Asks for pictures, once. The receipt's detail is a [`Drawn`].
///
/// # Errors
/// What was refused, or unknown: then they may have been made, and paid for.
pub async fn draw(
    http: &Http,
    account: &Account,
    (drawing, originals): (&Drawing, &[Original]),
    prices: &BTreeMap<String, Model>,
    into: &Place<'_>,
    deadline: Duration,
) -> Result<Receipt, CallError> {
    let call = drawing.call(account, originals, deadline);
    let answer = http.send(&call).await.map_err(|it| lost(&RULES, &it))?;
    let answered: Answered<'_> = read(&RULES, &call, &answer)?;
    if answered.data.is_empty() {
        return Err(unreadable(&RULES, &call, &answer, "it holds no picture"));
    }
    let unfit = |why: &str| unreadable(&RULES, &call, &answer, why);
    let mut pictures = Vec::with_capacity(answered.data.len());
    for told in answered.data {
        pictures.push(kept(told, into, &unfit).await?);
    }
    let usage = answered.usage.as_ref();
    let count = pictures.len();
    let price = price(prices, drawing);
    let drawn = Drawn {
        pictures,
        input_tokens: usage.map(|it| it.input_tokens),
        output_tokens: usage.map(|it| it.output_tokens),
        cost_micros: price.and_then(|price| match (price.image_micros, usage) {
            (Some(each), _) => Some(times(each, count)),
            (None, Some(it)) => Some(cost(price, it.input_tokens, it.output_tokens)),
            (None, None) => None,
        }),
        request_id: answer.header("x-request-id").map(str::to_owned),
    };
    Ok(Receipt {
        remote_id: None,
        url: None,
        at: answer.at,
        detail: json!(drawn),
    })
}

/// The price that fits best: of the model with this size and quality (`dall-e-3/1024x1792/hd`), with this
/// size, or of the model.
pub fn price<'a>(prices: &'a BTreeMap<String, Model>, drawing: &Drawing) -> Option<&'a Model> {
    let of = |it: &Option<String>| it.clone().unwrap_or_else(|| "auto".to_owned());
    let sized = format!("{}/{}", drawing.model, of(&drawing.size));
    let whole = format!("{sized}/{}", of(&drawing.quality));
    let named = [whole, sized, drawing.model.clone()];
    named.iter().find_map(|it| prices.get(it))
}

/// What pictures cost at most, drawn from so many others.
pub fn estimate(price: &Model, drawing: &Drawing, originals: usize) -> u64 {
    let pictures = u64::from(drawing.n);
    if let Some(each) = price.image_micros {
        return each.saturating_mul(pictures);
    }
    let count = |it: usize| u64::try_from(it).unwrap_or(u64::MAX);
    let read = count(originals).saturating_mul(ORIGINAL_TOKENS);
    let input = read.saturating_add(count(drawing.prompt.len()) + PROMPT_TOKENS);
    cost(
        price,
        input,
        pictures.saturating_mul(price.output_tokens_max),
    )
}

fn times(each: u64, count: usize) -> u64 {
    each.saturating_mul(u64::try_from(count).unwrap_or(u64::MAX))
}

/// A picture of an answer: stored, or where it is.
async fn kept(
    told: Told<'_>,
    into: &Place<'_>,
    unfit: &(impl Fn(&str) -> CallError + Sync),
) -> Result<Picture, CallError> {
    let stored = match (&told.b64_json, &told.url) {
        (Some(text), _) => Some(store(text, into, unfit).await?),
        (None, Some(_)) => None,
        (None, None) => {
            return Err(unfit("a picture is neither held nor named"));
        }
    };
    Ok(Picture {
        url: told.url.filter(|_| stored.is_none()),
        stored,
        revised_prompt: told.revised_prompt,
    })
}

async fn store(
    text: &str,
    into: &Place<'_>,
    unfit: &(impl Fn(&str) -> CallError + Sync),
) -> Result<Reference, CallError> {
    let lost = |e: crate::media::MediaError| {
        let message = format!("the picture was made, and couldn't be stored: {e}");
        let code = match Outcome::from(e) {
            Outcome::Failed(it) => it.code,
            _ => "media_store".to_owned(),
        };
        CallError::Unknown(Failure::transient(&code, message))
    };
    let mut draft = into.media.draft(into.limits, None);
    for piece in text.as_bytes().chunks(PIECE) {
        let bytes = STANDARD
            .decode(piece)
            .map_err(|e| unfit(&format!("a picture is no base64: {e}")))?;
        draft.write(&bytes).await.map_err(lost)?;
    }
    draft.finish().await.map_err(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawing() -> Drawing {
        Drawing {
            model: "gpt-image-1".to_owned(),
            prompt: "a fox".to_owned(),
            n: 1,
            size: None,
            quality: None,
            background: None,
            output_format: None,
            input_fidelity: None,
        }
    }

    #[test]
    fn only_what_was_said_is_sent() {
        let names = |it: &Drawing| it.fields().into_iter().map(|it| it.0).collect::<Vec<_>>();
        assert_eq!(names(&drawing()), ["model", "prompt"]);
        let more = Drawing {
            n: 2,
            size: Some("auto".to_owned()),
            ..drawing()
        };
        assert_eq!(names(&more), ["model", "prompt", "n", "size"]);
    }

    #[test]
    fn one_picture_or_many_have_their_own_names() {
        let original = Original {
            mime: "image/png".to_owned(),
            bytes: Bytes::from_static(b"x"),
        };
        let names = |count: usize| match form(drawing().fields(), &vec![original.clone(); count]) {
            Body::Multipart(parts) => parts.iter().map(|it| it.name).collect::<Vec<_>>(),
            _ => vec![],
        };
        assert_eq!(names(1), ["model", "prompt", "image"]);
        assert_eq!(names(2), ["model", "prompt", "image[]", "image[]"]);
    }
}
