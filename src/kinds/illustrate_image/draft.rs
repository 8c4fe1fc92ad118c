//! From a payload and its preset to what is asked for, and all that can be said against it: models
//! differ in what they take.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Config, Preset};
use crate::json::{Violation, did_you_mean};
use crate::platform::address::Policy;
use crate::platform::openai_images::Drawing;
use crate::reference::Name;

/// What to draw. What a preset says holds where the payload says nothing.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Payload {
    /// What is to be seen.
    pub(super) prompt: String,
    /// One of `[presets]` in jobs.toml.
    preset: Option<String>,
    /// The model's name.
    model: Option<String>,
    /// What must not be seen. The models know no such thing, so the prompt says it.
    negative_prompt: Option<String>,
    /// Pictures to edit, at most 16: `media:sha256:...`, or public URLs.
    #[serde(default)]
    pub(super) images: Vec<String>,
    /// How far an edit may go from its pictures, 0 to 100.
    strength_percent: Option<u32>,
    /// `auto`, or width and height in pixels: `1024x1024`.
    size: Option<String>,
    /// `low`, `medium`, `high` or `auto`; of dall-e-3 `standard` or `hd`.
    quality: Option<String>,
    /// `transparent`, `opaque` or `auto`.
    background: Option<String>,
    /// `png`, `jpeg` or `webp`.
    output_format: Option<String>,
    /// How many pictures, 1 to 10. Default: 1.
    n: Option<u32>,
    /// `false`: the model is asked, whatever `cache_age_s` in `jobs.toml` allows, and the pictures
    /// aren't left to other jobs.
    pub(super) cache: Option<bool>,
}

/// Media types of pictures that can be edited.
pub(super) const ORIGINAL_TYPES: [&str; 3] = ["image/png", "image/jpeg", "image/webp"];
/// Pictures that are edited together.
const ORIGINALS: usize = 16;
/// Pictures that are asked for at once.
const PICTURES: u32 = 10;
/// Pixels of the largest picture: 3840 x 2160.
const PIXELS: u64 = 3_840 * 2_160;

/// Models that take the same (OpenAI's description of `/images`, version 2.3.0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Dalle2,
    Dalle3,
    Gpt1,
    Gpt2,
    /// Of another server: it knows best.
    Other,
}

impl Family {
    fn of(model: &str) -> Self {
        match model {
            "dall-e-2" => Self::Dalle2,
            "dall-e-3" => Self::Dalle3,
            it if it.starts_with("gpt-image-2") => Self::Gpt2,
            it if it.starts_with("gpt-image-") || it == "chatgpt-image-latest" => Self::Gpt1,
            _ => Self::Other,
        }
    }

    fn prompt_max(self) -> usize {
        match self {
            Self::Dalle2 => 1_000,
            Self::Dalle3 => 4_000,
            Self::Gpt1 | Self::Gpt2 | Self::Other => 32_000,
        }
    }

    /// The sizes, where they are few.
    fn sizes(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Dalle2 => Some(&["256x256", "512x512", "1024x1024"]),
            Self::Dalle3 => Some(&["1024x1024", "1792x1024", "1024x1792"]),
            Self::Gpt1 => Some(&["auto", "1024x1024", "1536x1024", "1024x1536"]),
            Self::Gpt2 | Self::Other => None,
        }
    }

    fn qualities(self) -> &'static [&'static str] {
        match self {
            Self::Dalle2 => &["standard", "auto"],
            Self::Dalle3 => &["standard", "hd", "auto"],
            Self::Gpt1 | Self::Gpt2 => &["low", "medium", "high", "auto"],
            Self::Other => &["low", "medium", "high", "auto", "standard", "hd"],
        }
    }

    fn is_dalle(self) -> bool {
        matches!(self, Self::Dalle2 | Self::Dalle3)
    }
}

/// A picture that a payload names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Source<'a> {
    /// In the media store.
    Stored(Name),
    /// Behind a URL.
    Url(&'a str),
}

impl<'a> Source<'a> {
    /// Reads `media:sha256:...`, or takes it for a URL.
    ///
    /// # Errors
    /// What is wrong with a name.
    pub(super) fn read(text: &'a str) -> Result<Self, String> {
        match text.starts_with("media:") {
            true => text.parse().map(Self::Stored),
            false => Ok(Self::Url(text)),
        }
    }
}

impl Payload {
    /// What is asked for, and all that can be said against it.
    pub(super) fn draft(&self, config: &Config) -> (Drawing, Vec<Violation>) {
        let named = self.preset.as_ref();
        let preset = named.and_then(|it| config.presets.get(it));
        let drawing = self.drawing(preset);
        let mut found = Vec::new();
        let mut wrong = |pointer: &str, message: String| {
            found.push(Violation::new(pointer, message));
        };
        if let (Some(name), None) = (named, preset) {
            let known = config.presets.keys().map(String::as_str);
            let near = did_you_mean(name, known);
            wrong("/preset", format!("[presets] has no `{name}`{near}"));
        }
        if self.prompt.trim().is_empty() {
            wrong("/prompt", "is empty; say what is to be seen".to_owned());
        }
        if drawing.model.trim().is_empty() {
            let message = "is missing; name a model, or a preset that has one";
            wrong("/model", message.to_owned());
        }
        self.check(&drawing, &mut wrong);
        self.check_images(config, &drawing, &mut wrong);
        (drawing, found)
    }

    fn drawing(&self, preset: Option<&Preset>) -> Drawing {
        let of =
            |own: &Option<String>, preset: Option<&String>| own.clone().or_else(|| preset.cloned());
        let negative = of(
            &self.negative_prompt,
            preset.and_then(|it| it.negative_prompt.as_ref()),
        );
        let parts = [
            preset.and_then(|it| it.prompt_prefix.clone()),
            Some(self.prompt.clone()),
            preset.and_then(|it| it.prompt_suffix.clone()),
            negative.map(|it| format!("Avoid: {it}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let model = of(&self.model, preset.and_then(|it| it.model.as_ref())).unwrap_or_default();
        let strength = preset.and_then(|it| it.strength_percent);
        let strength = self.strength_percent.or(strength);
        // two grades are all that OpenAI knows, and not of every model
        let knows = !self.images.is_empty()
            && !Family::of(&model).is_dalle()
            && !model.starts_with("gpt-image-1-mini");
        let fidelity = |percent: u32| if percent < 50 { "high" } else { "low" };
        Drawing {
            prompt: parts.join("\n"),
            n: self.n.unwrap_or(1),
            size: of(&self.size, preset.and_then(|it| it.size.as_ref())),
            quality: self.quality.clone(),
            background: self.background.clone(),
            output_format: self.output_format.clone(),
            input_fidelity: strength.filter(|_| knows).map(|it| fidelity(it).to_owned()),
            model,
        }
    }

    fn check(&self, drawing: &Drawing, wrong: &mut impl FnMut(&str, String)) {
        let (family, model) = (Family::of(&drawing.model), &drawing.model);
        let characters = drawing.prompt.chars().count();
        if family.prompt_max() < characters {
            let most = family.prompt_max();
            let message = format!(
                "has {characters} characters with what its preset and negative_prompt add; {model} takes {most}"
            );
            wrong("/prompt", message);
        }
        if !(1..=PICTURES).contains(&drawing.n) {
            wrong("/n", format!("must be from 1 to {PICTURES}"));
        } else if family == Family::Dalle3 && drawing.n != 1 {
            wrong("/n", format!("must be 1: {model} draws one at a time"));
        }
        if let Some(size) = &drawing.size
            && let Err(message) = fits(size, family)
        {
            wrong("/size", message);
        }
        let mut word = |pointer: &str, said: &Option<String>, of: &[&str]| {
            if let Some(it) = said.as_deref().filter(|it| !of.contains(it)) {
                let near = did_you_mean(it, of.iter().copied());
                let message = format!("`{it}` is none of {} (of {model}){near}", of.join(", "));
                wrong(pointer, message);
            }
        };
        word("/quality", &drawing.quality, family.qualities());
        word(
            "/background",
            &drawing.background,
            &["transparent", "opaque", "auto"],
        );
        word(
            "/output_format",
            &drawing.output_format,
            &["png", "jpeg", "webp"],
        );
        let only_gpt = [
            ("/background", &drawing.background),
            ("/output_format", &drawing.output_format),
        ];
        for (pointer, said) in only_gpt {
            if family.is_dalle() && said.is_some() {
                wrong(pointer, format!("isn't taken by {model}; leave it out"));
            }
        }
        let opaque = drawing.output_format.as_deref() == Some("jpeg");
        if opaque && drawing.background.as_deref() == Some("transparent") {
            let message = "a JPEG has no transparent parts; take png or webp";
            wrong("/output_format", message.to_owned());
        }
        if self.strength_percent.is_some_and(|it| 100 < it) {
            wrong("/strength_percent", "must be from 0 to 100".to_owned());
        }
        if self.strength_percent.is_some() && self.images.is_empty() {
            let message = "is for edits, and there are no `images`";
            wrong("/strength_percent", message.to_owned());
        }
    }

    fn check_images(
        &self,
        config: &Config,
        drawing: &Drawing,
        wrong: &mut impl FnMut(&str, String),
    ) {
        let is = self.images.len();
        let most = match Family::of(&drawing.model) {
            Family::Dalle2 => 1,
            Family::Dalle3 => 0,
            _ => ORIGINALS,
        };
        if most < is {
            let model = &drawing.model;
            wrong("/images", format!("has {is}; {model} edits at most {most}"));
        }
        let policy = Policy {
            http: config.media.fetch_http,
            allow: config.media.fetch_allow.clone(),
        };
        for (i, text) in self.images.iter().enumerate() {
            let checked = match Source::read(text) {
                Ok(Source::Url(url)) => policy.check(url).map(|_| ()),
                other => other.map(|_| ()),
            };
            if let Err(message) = checked {
                wrong(&format!("/images/{i}"), message);
            }
        }
    }
}

/// Whether a family draws pictures of a size.
fn fits(size: &str, family: Family) -> Result<(), String> {
    if let Some(sizes) = family.sizes() {
        return match sizes.contains(&size) {
            true => Ok(()),
            false => Err(format!("`{size}` is none of {}", sizes.join(", "))),
        };
    }
    if size == "auto" {
        return Ok(());
    }
    let number = |it: &str| {
        it.parse::<u64>()
            .ok()
            .filter(|it| (1..=100_000).contains(it))
    };
    let sides = size
        .split_once('x')
        .and_then(|(a, b)| Some((number(a)?, number(b)?)));
    let Some((width, height)) = sides else {
        return Err(format!("`{size}` is no size; write 1024x1024, or auto"));
    };
    if family == Family::Other {
        return Ok(());
    }
    if !width.is_multiple_of(16) || !height.is_multiple_of(16) {
        return Err("both sides must be multiples of 16".to_owned());
    }
    if width.max(height) > 3 * width.min(height) {
        return Err("one side must be at most three times the other".to_owned());
    }
    match width * height <= PIXELS {
        true => Ok(()),
        false => Err(format!("has more than {PIXELS} pixels (3840x2160)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Digest;
    use serde_json::{Value, json};

    fn config() -> Config {
        let mut config = Config::default_embedded(std::path::Path::new("/nowhere"));
        let preset = Preset {
            prompt_prefix: Some("Woodcut of".to_owned()),
            prompt_suffix: Some("Two colours.".to_owned()),
            negative_prompt: Some("text".to_owned()),
            model: Some("gpt-image-1".to_owned()),
            size: Some("1024x1536".to_owned()),
            strength_percent: Some(30),
        };
        config.presets.insert("cover".to_owned(), preset);
        config
    }

    fn draft(payload: Value) -> (Drawing, Vec<String>) {
        let payload: Payload = serde_json::from_value(payload).unwrap();
        let (drawing, found) = payload.draft(&config());
        (drawing, found.into_iter().map(|it| it.pointer).collect())
    }

    #[test]
    fn what_a_payload_says_holds_over_its_preset() {
        let name = Name(Digest::of_bytes(b"a")).to_string();
        let (it, found) = draft(json!({"prompt": "a fox", "preset": "cover", "images": [name]}));
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(it.prompt, "Woodcut of\na fox\nTwo colours.\nAvoid: text");
        assert_eq!(it.model, "gpt-image-1");
        assert_eq!(it.size.as_deref(), Some("1024x1536"));
        assert_eq!(it.input_fidelity.as_deref(), Some("high"));
        let (it, _) = draft(json!({
            "prompt": "a fox", "preset": "cover", "model": "gpt-image-2", "size": "1536x864",
            "negative_prompt": "frames", "images": [name], "strength_percent": 80,
        }));
        assert!(it.prompt.ends_with("Avoid: frames"), "{}", it.prompt);
        assert_eq!(it.size.as_deref(), Some("1536x864"));
        assert_eq!(it.input_fidelity.as_deref(), Some("low"));
        let (it, _) = draft(json!({"prompt": "a fox", "preset": "cover"}));
        assert_eq!(it.input_fidelity, None, "there is nothing to be kept");
    }

    #[test]
    fn all_violations_are_told_at_once() {
        let (_, found) = draft(json!({
            "prompt": " ", "preset": "covr", "n": 11, "size": "big", "quality": "best",
            "background": "blue", "output_format": "gif", "strength_percent": 101,
            "images": ["media:sha256:12", "http://example.com/a.png", "https://10.0.0.1/a.png"],
        }));
        let expected = [
            "/preset",
            "/prompt",
            "/model",
            "/n",
            "/size",
            "/quality",
            "/background",
            "/output_format",
            "/strength_percent",
            "/images/0",
            "/images/1",
            "/images/2",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn each_family_takes_its_own() {
        let wrong = |payload: Value| draft(payload).1;
        let dalle3 = json!({
            "model": "dall-e-3", "prompt": "x".repeat(4_001), "n": 2, "size": "auto",
            "quality": "high", "background": "opaque", "images": ["https://example.com/a.png"],
        });
        let expected = [
            "/prompt",
            "/n",
            "/size",
            "/quality",
            "/background",
            "/images",
        ];
        assert_eq!(wrong(dalle3), expected);
        for (size, good) in [
            ("auto", true),
            ("1536x864", true),
            ("3840x2160", true),
            ("3840x2176", false),
            ("1000x1000", false),
            ("3200x1024", false),
            ("0x16", false),
            ("16", false),
        ] {
            let found = wrong(json!({"model": "gpt-image-2", "prompt": "a", "size": size}));
            assert_eq!(found.is_empty(), good, "{size}");
        }
        let local = json!({"model": "sdxl", "prompt": "a", "size": "100x900", "quality": "hd"});
        assert_eq!(wrong(local), Vec::<String>::new());
        let clear = json!({
            "model": "gpt-image-1", "prompt": "a", "background": "transparent",
            "output_format": "jpeg",
        });
        assert_eq!(wrong(clear), ["/output_format"]);
    }
}
