//! Pictures of a post: in the payload itself, in the media store, or a file of the media folder; what
//! can be said against them; and uploads that a re-run finds again.

use std::fmt::Display;
use std::future::Future;
use std::io::Cursor;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

use crate::clock::Time;
use crate::content;
use crate::context::Context;
use crate::json::{Digest, Violation};
use crate::media::sniff::{mime, pixels};
use crate::outcome::{Failure, Outcome};
use crate::platform::text::graphemes;
use crate::reference::Name;

/// A picture: `media`, `data` or `file`, exactly one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Media {
    /// A name in the media store, as results of other jobs tell it: `media:sha256:...`.
    pub media: Option<Name>,
    /// Its bytes in base64, for small pictures: an envelope has at most 256 KiB.
    pub data: Option<String>,
    /// A path within the folder `media` of the daemon's state directory.
    pub file: Option<String>,
    /// Its media type: `image/png`. With `media` it may be left out: the store knows it.
    #[serde(rename = "type")]
    pub mime: Option<String>,
    /// What can be seen on it, for those who don't see it.
    #[serde(default)]
    pub alt: String,
    /// What stays visible when it is cropped: x and y from -1 to 1. Mastodon only.
    pub focus: Option<(f64, f64)>,
}

/// What a platform takes.
pub(super) struct Takes<'a> {
    /// Pictures of a post.
    pub count: usize,
    /// Media types.
    pub types: &'a [&'a str],
    /// Bytes of a picture.
    pub bytes: u64,
    /// Characters of a description.
    pub alt: usize,
}

/// What can be said against the pictures of a post without opening files.
pub(super) fn check(media: &[Media], takes: &Takes<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    if takes.count < media.len() {
        let (is, most) = (media.len(), takes.count);
        let message = format!("has {is} pictures; a post takes at most {most}");
        found.push(Violation::new("/media", message));
    }
    for (i, it) in media.iter().enumerate() {
        it.check(&format!("/media/{i}"), takes, &mut found);
    }
    found
}

impl Media {
    /// What it is known by before it is read: its digest, or the file's path.
    pub fn known(&self) -> String {
        match (&self.media, &self.data, &self.file) {
            (Some(name), _, _) => content::medium(&name.0.hex()),
            (None, Some(data), _) => {
                let bytes = STANDARD.decode(data).unwrap_or_default();
                content::medium(&Digest::of_bytes(&bytes).hex())
            }
            (None, None, file) => file.clone().unwrap_or_default(),
        }
    }

    fn check(&self, at: &str, takes: &Takes<'_>, found: &mut Vec<Violation>) {
        let mut wrong = |member: &str, message: String| {
            found.push(Violation::new(format!("{at}{member}"), message));
        };
        match &self.mime {
            Some(is) => {
                if let Err(message) = taken(is, takes.types) {
                    wrong("/type", message);
                }
            }
            None if self.media.is_none() => {
                let message = format!("is missing; one of {}", takes.types.join(", "));
                wrong("/type", message);
            }
            None => {}
        }
        let characters = graphemes(&self.alt);
        if takes.alt < characters {
            let message = format!("has {characters} characters; at most {} fit", takes.alt);
            wrong("/alt", message);
        }
        if let Some((x, y)) = self.focus
            && ![x, y].iter().all(|it| (-1.0..=1.0).contains(it))
        {
            wrong("/focus", "lies outside of -1 to 1".to_owned());
        }
        match (&self.media, &self.data, &self.file) {
            (Some(_), None, None) => {}
            (None, Some(data), None) => match STANDARD.decode(data) {
                Ok(bytes) => self.sound(&bytes, takes.bytes, |it| wrong("/data", it)),
                Err(e) => wrong("/data", format!("is no base64 (RFC 4648, section 4): {e}")),
            },
            (None, None, Some(file)) => {
                if let Err(message) = relative(file) {
                    wrong("/file", message);
                }
            }
            _ => wrong("", "needs one of `media`, `data` and `file`".to_owned()),
        }
    }

    fn sound(&self, bytes: &[u8], most: u64, mut wrong: impl FnMut(String)) {
        if bytes.is_empty() {
            wrong("is empty".to_owned());
        }
        if most < bytes.len() as u64 {
            wrong(too_large(bytes.len(), most));
        }
        if let (Some(is), Some(said)) = (mime(bytes), &self.mime)
            && is != said
            // one container, of which the brands that name it overlap
            && ![is, said].iter().all(|it| it.starts_with("image/hei"))
        {
            wrong(format!("holds {is}, not {said}"));
        }
    }

    /// Its bytes and its type, as the platform takes them.
    ///
    /// # Errors
    /// Permanent when there are none, too many, or not those of its type; transient when they can't be
    /// read now; `Released` when the ledger is away.
    pub async fn load(&self, cx: &Context, takes: &Takes<'_>) -> Result<Loaded, Outcome> {
        let (mime, bytes) = match (self.media, &self.mime) {
            (Some(name), _) => {
                let (about, bytes) = cx.media().whole(name, takes.bytes).await?;
                (about.mime, bytes)
            }
            (None, Some(mime)) => {
                let bytes = self.given(&cx.config.state_dir, takes.bytes).await?;
                (mime.clone(), bytes)
            }
            (None, None) => (String::new(), Bytes::new()),
        };
        let unfit = |message: String| Failure::permanent("media", message);
        taken(&mime, takes.types).map_err(|it| unfit(format!("a picture's type {it}")))?;
        if let Some(said) = self.mime.as_ref().filter(|it| **it != mime) {
            let message = format!("a picture is {mime}, and the payload says {said}");
            return Err(unfit(message).into());
        }
        Ok(Loaded { mime, bytes })
    }

    /// The bytes that came with the payload, or lie in the media folder: at most `most`.
    async fn given(&self, state_dir: &Path, most: u64) -> Result<Bytes, Failure> {
        let bytes = match (&self.data, &self.file) {
            (Some(data), _) => STANDARD
                .decode(data)
                .map_err(|e| Failure::permanent("media", format!("`data` is no base64: {e}")))?,
            (None, Some(file)) => read(&state_dir.join("media"), file, most).await?,
            (None, None) => vec![],
        };
        let mut wrong = None;
        self.sound(&bytes, most, |it| wrong = Some(it));
        match wrong {
            Some(message) => {
                let which = self.file.as_deref().unwrap_or("a picture");
                Err(Failure::permanent("media", format!("{which} {message}")))
            }
            None => Ok(bytes.into()),
        }
    }
}

/// A picture as it is uploaded.
pub(super) struct Loaded {
    /// Its media type.
    pub mime: String,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Loaded {
    /// A file's name for a form: the platform looks at its ending.
    pub fn name(&self, i: usize) -> String {
        let ending = self.mime.rsplit('/').next().unwrap_or("bin");
        format!("media-{i}.{ending}")
    }
}

fn taken(mime: &str, types: &[&str]) -> Result<(), String> {
    match types.contains(&mime) {
        true => Ok(()),
        false => Err(format!(
            "`{mime}` isn't taken; one of {} is",
            types.join(", ")
        )),
    }
}

fn too_large(is: impl Display, most: u64) -> String {
    format!("has {is} bytes; at most {most} are taken")
}

/// A path that stays within its folder, by its spelling.
fn relative(file: &str) -> Result<&Path, String> {
    let path = Path::new(file);
    let plain = |it: Component<'_>| matches!(it, Component::Normal(_));
    if file.is_empty() || file.contains(['\0', '\\']) || !path.components().all(plain) {
        return Err(
            "must be a path within the media folder: no `..`, no `/` at its start".to_owned(),
        );
    }
    Ok(path)
}

async fn read(folder: &Path, file: &str, most: u64) -> Result<Vec<u8>, Failure> {
    let refused = |message: String| Failure::permanent("media", format!("`{file}` {message}"));
    let path = folder.join(relative(file).map_err(refused)?);
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => {
            let folder = folder.display();
            refused(format!(
                "isn't in {folder}; put it there and revive the job"
            ))
        }
        _ => Failure::transient("media", format!("`{file}` can't be read: {e}")),
    };
    let real = |path: PathBuf| async { tokio::fs::canonicalize(path).await.map_err(failed) };
    let (folder, path) = (real(folder.to_owned()).await?, real(path).await?);
    if !path.starts_with(&folder) {
        return Err(refused("leads out of the media folder".to_owned()));
    }
    let open = tokio::fs::File::open(path).await.map_err(failed)?;
    let about = open.metadata().await.map_err(failed)?;
    if !about.is_file() {
        return Err(refused("is no file".to_owned()));
    }
    if most < about.len() {
        return Err(refused(too_large(about.len(), most)));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0));
    // it may grow while it is read
    let mut bounded = open.take(most.saturating_add(1));
    bounded.read_to_end(&mut bytes).await.map_err(failed)?;
    Ok(bytes)
}

/// Width and height of a picture, read from its head.
pub(super) fn dimensions(bytes: &[u8]) -> Option<(u32, u32)> {
    let found = pixels(mime(bytes)?, &mut Cursor::new(bytes)).ok()??;
    Some((found.width, found.height))
}

/// An upload that was recorded.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Uploaded<T> {
    /// When it was there.
    pub at: Time,
    /// The digest of its bytes.
    pub digest: String,
    /// What the platform calls it.
    pub value: T,
}

/// The recorded upload of picture `i` (from 0) in step `media-I`; made anew when the platform will have
/// forgotten one that nothing refers to, after `life`.
///
/// # Errors
/// What the upload fails with; `Released` when the attempt has to stop.
pub(super) async fn uploaded<T, W, F>(
    cx: &Context,
    i: usize,
    life: Duration,
    upload: W,
) -> Result<Uploaded<T>, Outcome>
where
    T: Serialize + DeserializeOwned,
    W: Fn() -> F,
    F: Future<Output = Result<(Bytes, T), Outcome>>,
{
    let percent = 10 + u8::try_from(i * 20).unwrap_or(80).min(80);
    cx.progress(percent, format!("picture {}", i + 1));
    let life = chrono::Duration::from_std(life).unwrap_or(chrono::Duration::MAX);
    for round in 0.. {
        cx.go_on()?;
        let name = match round {
            0 => format!("media-{i}"),
            round => format!("media-{i}-again-{round}"),
        };
        let work = async {
            let (bytes, value) = upload().await?;
            let digest = Digest::of_bytes(&bytes).hex();
            let at = cx.http.now();
            Ok(Uploaded { at, digest, value })
        };
        let it: Uploaded<T> = cx.step(&name, work).await?;
        if cx.http.now() - it.at < life {
            return Ok(it);
        }
    }
    unreachable!("a new upload is younger than its life")
}

/// The waits while a platform works on a picture: the first, the longest, and all together.
const POLLS: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_secs(8),
    Duration::from_secs(60),
];
/// A picture that takes longer is looked at again after this; the room is free meanwhile.
const LATER: TimeDelta = TimeDelta::seconds(30);

/// What a platform says of something that it works on.
pub(super) enum Polled<T> {
    /// It is done.
    Done(T),
    /// Not yet: it is asked again after this at least.
    Later(Duration),
}

/// Asks, in growing steps, until a platform has worked on something.
///
/// # Errors
/// What `ask` fails with; snoozed for `reason` when it takes long; `Released` when the attempt has to
/// stop.
pub(super) async fn awaited<T, A, F>(cx: &Context, reason: &str, ask: A) -> Result<T, Outcome>
where
    A: Fn() -> F,
    F: Future<Output = Result<Polled<T>, Outcome>>,
{
    let [mut wait, longest, all] = POLLS;
    let mut waited = Duration::ZERO;
    loop {
        cx.go_on()?;
        let least = match ask().await? {
            Polled::Done(it) => return Ok(it),
            Polled::Later(least) => least,
        };
        if all <= waited {
            return Err(Outcome::Snoozed {
                until: cx.http.now() + LATER,
                reason: reason.to_owned(),
            });
        }
        let pause = wait.max(least).min(longest);
        cx.wait(pause).await?;
        waited += pause;
        wait = (wait * 2).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: [u8; 24] = [
        0x89, b'P', b'N', b'G', 13, 10, 26, 10, 0, 0, 0, 13, b'I', b'H', b'D', b'R', 0, 0, 1, 0, 0,
        0, 0, 128,
    ];

    fn takes() -> Takes<'static> {
        Takes {
            count: 2,
            types: &["image/png"],
            bytes: 30,
            alt: 5,
        }
    }

    fn media(json: serde_json::Value) -> Media {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn every_violation_is_told_at_once() {
        let data = STANDARD.encode([7; 40]);
        let wrong = media(
            serde_json::json!({"data": data, "type": "image/bmp", "alt": "too long", "focus": [0, 2]}),
        );
        let both = media(serde_json::json!({"data": "?", "file": "x", "type": "image/png"}));
        let away = media(serde_json::json!({"file": "../x", "type": "image/png"}));
        let untyped = media(serde_json::json!({"file": "x"}));
        let found = check(&[wrong, both, away, untyped], &takes());
        let pointers: Vec<&str> = found.iter().map(|it| it.pointer.as_str()).collect();
        let expected = [
            "/media",
            "/media/0/type",
            "/media/0/alt",
            "/media/0/focus",
            "/media/0/data",
            "/media/1",
            "/media/2/file",
            "/media/3/type",
        ];
        assert_eq!(pointers, expected);
    }

    #[test]
    fn what_is_stored_needs_no_type() {
        let name = Name(Digest::of_bytes(b"a"));
        let it = media(serde_json::json!({"media": name, "alt": "a"}));
        assert_eq!(check(&[it], &takes()), []);
        let both = media(serde_json::json!({"media": name, "file": "x", "type": "image/png"}));
        assert_eq!(check(&[both], &takes())[0].pointer, "/media/0");
        let wrong = serde_json::json!({"media": "media:sha256:12"});
        assert!(serde_json::from_value::<Media>(wrong).is_err());
    }

    #[test]
    fn bytes_must_be_of_the_type() {
        let gif = STANDARD.encode(b"GIF89a");
        let found = check(
            &[media(serde_json::json!({"data": gif, "type": "image/png"}))],
            &takes(),
        );
        assert!(found[0].message.contains("holds image/gif"), "{found:?}");
    }

    #[test]
    fn paths_stay_within_the_folder() {
        for path in [
            "/etc/passwd",
            "../a",
            "a/../../b",
            "",
            "./a",
            "a\\b",
            "a\0b",
        ] {
            assert!(relative(path).is_err(), "{path}");
        }
        assert!(relative("a/b.png").is_ok());
    }

    #[tokio::test]
    async fn a_file_is_read_within_its_bounds_and_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("media");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a.png"), PNG).unwrap();
        std::fs::write(folder.join("big.png"), [0; 31]).unwrap();
        std::fs::write(dir.path().join("secret"), PNG).unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("out.png")).unwrap();
        let load = async |file: &str| {
            let it = media(serde_json::json!({"file": file, "type": "image/png"}));
            it.given(dir.path(), 30).await
        };
        assert_eq!(load("a.png").await.unwrap(), &PNG[..]);
        for (file, why) in [
            ("big.png", "at most 30"),
            ("out.png", "leads out"),
            ("gone.png", "isn't in"),
            ("../secret", "no `..`"),
        ] {
            let e = load(file).await.unwrap_err();
            assert!(e.message.contains(why), "{e}");
        }
    }
}
