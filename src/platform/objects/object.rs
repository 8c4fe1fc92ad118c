//! What is uploaded, and how it is found again: by the mark of the effect that uploaded it, or by its
//! digest.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{StreamExt as _, TryStreamExt as _, once};
use url::Url;

use crate::config::Account;
use crate::effect::EffectId;
use crate::media::Media;
use crate::platform::body::{Body, Source};
use crate::reference::Reference;

use super::sign::encoded;

/// An object that is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// Its bytes, in the media store.
    pub source: Reference,
    /// Its media type.
    pub mime: String,
    /// Its `Cache-Control`.
    pub cache_control: Option<String>,
    /// What else is kept with it; names in small letters.
    pub metadata: BTreeMap<String, String>,
    /// What is under the key already is replaced.
    pub overwrite: bool,
    /// The effect that uploads it, which is kept with it.
    pub effect: EffectId,
}

/// The name in an object's metadata of the effect that uploaded it.
pub const EFFECT: &str = "presswork-effect";
/// The name in an object's metadata of its SHA-256, in hexadecimal.
pub const SHA256: &str = "presswork-sha256";

impl Object {
    /// The metadata that is sent: its own, and its two marks.
    pub fn marked(&self) -> BTreeMap<String, String> {
        let mut all = self.metadata.clone();
        all.insert(EFFECT.to_owned(), self.effect.to_string());
        all.insert(SHA256.to_owned(), self.source.media.0.hex());
        all
    }

    /// Its SHA-256 as S3 writes it.
    pub fn checksum(&self) -> String {
        STANDARD.encode(self.source.media.0.0)
    }

    /// A part of its bytes, as the body of a request: read anew for each.
    pub fn body(&self, media: &Media, range: Range<u64>) -> Body {
        let (media, name) = (media.clone(), self.source.media);
        let size = range.end.saturating_sub(range.start);
        let source: Source = Arc::new(move || {
            let (media, range) = (media.clone(), range.clone());
            let open = async move {
                let read = media.range(name, range).await;
                read.map_err(std::io::Error::other)
            };
            once(open).try_flatten().boxed()
        });
        Body::Stream(size, source)
    }

    /// Where people find it, without a signature.
    pub fn url(&self, account: &Account) -> Url {
        match &account.public_url {
            Some(it) => below(it, &self.key),
            None => below(&place(account), &self.key),
        }
    }
}

/// The address of an account's bucket or folder.
pub fn place(account: &Account) -> Url {
    let mut url = account.base_url.clone();
    let Some(bucket) = &account.bucket else {
        return url;
    };
    let host = url.host_str().map(|it| format!("{}.{it}", bucket.name));
    match !bucket.path_style && url.set_host(host.as_deref()).is_ok() {
        true => url,
        false => below(&account.base_url, &bucket.name),
    }
}

/// An address with a key behind its path, spelt as it is signed.
pub fn below(base: &Url, key: &str) -> Url {
    let own = base.path().trim_end_matches('/');
    let mut url = base.clone();
    url.set_path(&format!("{own}/{}", encoded(key, "/")));
    url
}

/// What is under a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its size.
    pub bytes: u64,
    /// The store's own word for its content.
    pub etag: Option<String>,
    /// The effect that uploaded it, if one of ours did.
    pub effect: Option<String>,
    /// Its SHA-256 in hexadecimal, as its uploader said.
    pub sha256: Option<String>,
    /// Its SHA-256 in base64, as the store has computed it.
    pub checksum: Option<String>,
}

impl Found {
    /// Whether it is the object that was to be: uploaded by the same effect, or, where nothing is to be
    /// replaced, the same bytes.
    pub fn is(&self, object: &Object) -> bool {
        let same = self.sha256.as_deref() == Some(object.source.media.0.hex().as_str())
            || self.checksum.as_deref() == Some(object.checksum().as_str());
        let ours = self.effect.as_deref() == Some(object.effect.to_string().as_str());
        self.bytes == object.source.bytes && (ours || (same && !object.overwrite))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Digest;
    use crate::reference::Name;
    use uuid::Uuid;

    fn object() -> Object {
        Object {
            key: "a b/ü.png".to_owned(),
            source: Reference {
                media: Name(Digest::of_bytes(b"x")),
                mime: "image/png".to_owned(),
                bytes: 1,
                pixels: None,
            },
            mime: "image/png".to_owned(),
            cache_control: None,
            metadata: BTreeMap::new(),
            overwrite: false,
            effect: EffectId(Uuid::nil()),
        }
    }

    #[test]
    fn what_is_there_is_ours_by_its_mark_or_its_bytes() {
        let it = object();
        let found = |effect: Option<&str>, sha256: Option<String>, bytes| Found {
            bytes,
            effect: effect.map(str::to_owned),
            sha256,
            ..Found::default()
        };
        let nil = Uuid::nil().to_string();
        let digest = Some(Digest::of_bytes(b"x").hex());
        assert!(found(Some(&nil), None, 1).is(&it));
        assert!(found(None, digest.clone(), 1).is(&it));
        assert!(!found(None, digest.clone(), 2).is(&it));
        assert!(!found(Some("other"), None, 1).is(&it));
        let replacing = Object {
            overwrite: true,
            ..it.clone()
        };
        assert!(!found(None, digest, 1).is(&replacing));
        assert!(found(Some(&nil), None, 1).is(&replacing));
        let checksum = Found {
            bytes: 1,
            checksum: Some(it.checksum()),
            ..Found::default()
        };
        assert!(checksum.is(&it));
    }

    #[test]
    fn an_address_has_the_bucket_in_its_path_or_its_host() {
        let account = |path_style, public: Option<&str>| Account {
            secret: "secret".into(),
            bucket: Some(crate::config::Bucket {
                name: "films".to_owned(),
                region: "us-east-1".to_owned(),
                access_key_id: "id".into(),
                path_style,
            }),
            public_url: public.map(|it| Url::parse(it).unwrap()),
            ..Account::at("s3", Url::parse("https://s3.example:9000/").unwrap())
        };
        let url = |it: Account| object().url(&it).to_string();
        let key = "a%20b/%C3%BC.png";
        assert_eq!(
            url(account(true, None)),
            format!("https://s3.example:9000/films/{key}")
        );
        assert_eq!(
            url(account(false, None)),
            format!("https://films.s3.example:9000/{key}")
        );
        assert_eq!(
            url(account(true, Some("https://cdn.example/x"))),
            format!("https://cdn.example/x/{key}")
        );
    }
}
