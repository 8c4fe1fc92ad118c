//! Instagram by the Graph API: containers, the one call that publishes one, and what an error means.
//!
//! A container is made first, and nobody sees it. It can be published once only, and says afterwards
//! whether it was: so a lost answer is read from it, and so is an error, which proves nothing.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization;

use crate::clock::Time;
use crate::config::Account;
use crate::effect::Receipt;
use crate::outcome::{BLOCKED, Class, Failure, RESTRICTED, Scope};

use super::http::{Answer, Body, Call, Http, below};
use super::verdict::{CallError, Meaning, Rules, Said, UNKNOWN, refused, unreadable};

/// Pictures of a carousel.
pub const IMAGES_MAX: usize = 10;
/// Characters of a caption, its hashtags and its mentions.
pub const CAPTION_MAX: [usize; 3] = [2_200, 30, 20];
/// Characters of a picture's description.
pub const ALT_MAX: usize = 1_000;
/// A container that isn't published within this is gone.
pub const CONTAINER_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// The quota counts the last 24 hours, and doesn't tell when its oldest post leaves them.
pub const QUOTA_WAIT: TimeDelta = TimeDelta::hours(1);
/// What a look beside the one call may take.
const BESIDE: Duration = Duration::from_secs(8);
/// Posts that are looked through for the one that a container became.
const LISTED: &str = "50";

/// A picture of a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where Instagram fetches it: a JPEG behind a public address.
    pub url: String,
    /// What can be seen on it.
    pub alt: String,
}

/// Where a container stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its pictures are being fetched.
    InProgress,
    /// It can be published.
    Finished,
    /// It was published.
    Published,
    /// It can't be published any more; why.
    Dead(String),
}

/// An account of Instagram.
pub struct Instagram<'a> {
    /// The client.
    pub http: &'a Http,
    /// The account.
    pub account: &'a Account,
    /// What each call may take.
    pub deadline: Duration,
}

/// Who an account is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Its id, the same to every app; empty where that wasn't told.
    pub id: String,
    /// Its name, as in `@name`.
    pub username: String,
}

#[derive(Deserialize)]
struct Made {
    id: String,
}

#[derive(Deserialize)]
struct Listed {
    data: Vec<Media>,
}

#[derive(Deserialize)]
struct Media {
    id: String,
    caption: Option<String>,
    timestamp: String,
    permalink: Option<String>,
}

impl Instagram<'_> {
    /// Who the account is.
    ///
    /// # Errors
    /// What was refused or lost.
    pub async fn who(&self) -> Result<Who, CallError> {
        #[derive(Deserialize)]
        struct Told {
            username: String,
            #[serde(default)]
            user_id: Option<Value>,
        }
        // a number is where everything goes, whoever's the token is; the `id` of `me` is another to each app
        let own = self.own();
        let fields = match own {
            "me" => "user_id,username",
            _ => "username",
        };
        let call = self.get(own, &[("fields", fields)]);
        let (told, _) = ask::<Told>(self.http, &call).await?;
        let id = match (own, told.user_id) {
            ("me", Some(Value::String(it))) => it,
            ("me", Some(Value::Number(it))) => it.to_string(),
            ("me", _) => String::new(),
            (number, _) => number.to_owned(),
        };
        Ok(Who {
            id,
            username: told.username,
        })
    }

    /// The account's id; with a login by Instagram itself, `me` is one.
    fn own(&self) -> &str {
        self.account.identifier.as_deref().unwrap_or("me")
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> Call {
        let mut url = below(&self.account.base_url, &format!("/{}", encoded(path)));
        url.query_pairs_mut().extend_pairs(query);
        Call::get(url, self.deadline).bearer(&self.account.secret)
    }

    fn post(&self, edge: &str, body: &Value) -> Call {
        let path = format!("/{}/{edge}", encoded(self.own()));
        let url = below(&self.account.base_url, &path);
        Call::post(url, Body::Json(body.to_string()), self.deadline).bearer(&self.account.secret)
    }

    /// Whether the account may publish now: its quota of the last 24 hours isn't used up.
    ///
    /// # Errors
    /// What was refused or lost.
    pub async fn may_publish(&self) -> Result<bool, CallError> {
        #[derive(Deserialize)]
        struct Limits {
            data: Vec<Limit>,
        }
        #[derive(Deserialize)]
        struct Limit {
            quota_usage: Option<u64>,
            config: Option<Config>,
        }
        #[derive(Deserialize)]
        struct Config {
            quota_total: Option<u64>,
        }
        let path = format!("/{}/content_publishing_limit", encoded(self.own()));
        let mut url = below(&self.account.base_url, &path);
        let fields = ("fields", "config,quota_usage");
        url.query_pairs_mut().extend_pairs([fields]);
        let call = Call::get(url, self.deadline).bearer(&self.account.secret);
        let (limits, _) = ask::<Limits>(self.http, &call).await?;
        // what isn't told doesn't hold: publishing would say so
        let spent = limits.data.first().is_some_and(|it| {
            let total = it.config.as_ref().and_then(|it| it.quota_total);
            total
                .zip(it.quota_usage)
                .is_some_and(|(all, used)| all <= used)
        });
        Ok(!spent)
    }

    /// Makes the container of a post, with one for each picture of a carousel. Nobody sees one, and
    /// it is gone after a day.
    ///
    /// # Errors
    /// What was refused or lost; another one may be made.
    pub async fn container(&self, caption: &str, images: &[Image]) -> Result<String, CallError> {
        let mut children = Vec::new();
        let mut body = match images {
            [one] => picture(one),
            many => {
                for it in many {
                    let mut body = picture(it);
                    body["is_carousel_item"] = true.into();
                    children.push(self.made(&body).await?);
                }
                json!({"media_type": "CAROUSEL", "children": children})
            }
        };
        if !caption.is_empty() {
            body["caption"] = caption.into();
        }
        self.made(&body).await
    }

    async fn made(&self, body: &Value) -> Result<String, CallError> {
        // the answer comes when the picture was fetched
        let call = self.post("media", body).patient();
        let (made, _) = ask::<Made>(self.http, &call).await?;
        Ok(made.id)
    }

    /// Where a container stands.
    ///
    /// # Errors
    /// What was refused or lost.
    pub async fn state(&self, container: &str) -> Result<State, CallError> {
        #[derive(Deserialize)]
        struct Told {
            status_code: String,
            status: Option<String>,
        }
        let call = self.get(container, &[("fields", "status_code,status")]);
        let (told, answer) = ask::<Told>(self.http, &call).await?;
        let why = told.status.unwrap_or_default();
        match told.status_code.as_str() {
            "IN_PROGRESS" => Ok(State::InProgress),
            "FINISHED" => Ok(State::Finished),
            "PUBLISHED" => Ok(State::Published),
            word @ ("ERROR" | "EXPIRED") => Ok(State::Dead(format!("{word}: {why}"))),
            other => {
                let why = format!("`{other}` is no state of a container");
                Err(unreadable(&RULES, &call, &answer, &why))
            }
        }
    }

    /// Publishes a container, once. An error is believed only where the container agrees.
    ///
    /// # Errors
    /// What was refused; or unknown: then it may be published, and the container tells.
    pub async fn publish(
        &self,
        container: &str,
        caption: &str,
        since: Time,
    ) -> Result<Receipt, CallError> {
        let beside = Instagram {
            deadline: BESIDE.min(self.deadline),
            ..*self
        };
        let call = self.post("media_publish", &json!({"creation_id": container}));
        let refusal = match ask::<Made>(self.http, &call.fresh()).await {
            Ok((made, answer)) => {
                let url = beside.permalink(&made.id).await;
                return Ok(receipt(container, Some(made.id), url, answer.at));
            }
            Err(CallError::Refused(it)) => it,
            Err(lost) => return Err(lost),
        };
        match beside.state(container).await {
            Ok(State::Published) => Ok(beside.published(container, caption, since).await),
            Ok(State::Finished | State::InProgress) => Err(CallError::Refused(refusal)),
            // another container is made
            Ok(State::Dead(why)) => {
                let message = format!("{}; its container: {why}", refusal.message);
                Err(CallError::Refused(Failure::transient("container", message)))
            }
            Err(e) => {
                let message = format!(
                    "{}, and its container couldn't be read: {e}",
                    refusal.message
                );
                let failure = Failure::new(UNKNOWN.class, UNKNOWN.scope, &refusal.code, message);
                Err(CallError::Unknown(failure))
            }
        }
    }

    async fn permalink(&self, id: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Told {
            permalink: Option<String>,
        }
        // it is published, whatever comes of this
        let call = self.get(id, &[("fields", "permalink")]);
        let (told, _) = ask::<Told>(self.http, &call).await.ok()?;
        told.permalink
    }

    /// The receipt of a container that was published, with the post that it became where that is
    /// beyond doubt: nothing leads from one to the other but the same caption since then.
    pub async fn published(&self, container: &str, caption: &str, since: Time) -> Receipt {
        let became = self.became(caption, since).await;
        let (id, url) = became.map_or((None, None), |it| (Some(it.id), it.permalink));
        receipt(container, id, url, self.http.now())
    }

    async fn became(&self, caption: &str, since: Time) -> Option<Media> {
        let path = format!("/{}/media", encoded(self.own()));
        let mut url = below(&self.account.base_url, &path);
        url.query_pairs_mut()
            .append_pair("fields", "id,caption,timestamp,permalink")
            .append_pair("limit", LISTED)
            .append_pair("since", &since.timestamp().to_string());
        let call = Call::get(url, self.deadline).bearer(&self.account.secret);
        let (listed, _) = ask::<Listed>(self.http, &call).await.ok()?;
        let is_it = |it: &Media| {
            let at = moment(&it.timestamp);
            let text = it.caption.as_deref().unwrap_or_default();
            at.is_some_and(|at| since <= at) && plain(text) == plain(caption)
        };
        let mut equal = listed.data.into_iter().filter(is_it);
        match (equal.next(), equal.next()) {
            (Some(one), None) => Some(one),
            _ => None,
        }
    }
}

fn picture(it: &Image) -> Value {
    let mut body = json!({"image_url": it.url});
    if !it.alt.is_empty() {
        body["alt_text"] = it.alt.as_str().into();
    }
    body
}

fn receipt(container: &str, id: Option<String>, url: Option<String>, at: Time) -> Receipt {
    Receipt {
        remote_id: id,
        url,
        at,
        detail: json!({"container": container}),
    }
}

/// A caption as two of them are compared.
fn plain(text: &str) -> String {
    text.trim().replace("\r\n", "\n").nfc().collect()
}

/// `2026-01-01T00:00:00+0000`
fn moment(text: &str) -> Option<Time> {
    let at = DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%z");
    at.ok().map(|it| it.with_timezone(&Utc))
}

fn encoded(part: &str) -> String {
    url::form_urlencoded::byte_serialize(part.as_bytes()).collect()
}

/// Makes a call once, as [`super::verdict::ask`] does; of a day's quota nothing says when it is back.
async fn ask<T: DeserializeOwned>(http: &Http, call: &Call) -> Result<(T, Answer), CallError> {
    match super::verdict::ask(http, &RULES, call).await {
        Err(CallError::Refused(it)) if it.code.contains(QUOTA) => {
            Err(CallError::Refused(it.after(Some(QUOTA_WAIT))))
        }
        other => other,
    }
}

/// What Instagram's answers mean. Of publishing, a refusal is believed only where the container
/// agrees: see [`Instagram::publish`].
pub const RULES: Rules = Rules {
    platform: "Instagram",
    said,
    meaning,
};

/// The code of a day's quota that is used up.
const QUOTA: &str = "2207042";
/// Errors that another try, or another container, may not have.
const PASSING: [&str; 9] = [
    "2207001", "2207003", "2207006", "2207008", "2207020", "2207027", "2207032", "2207052",
    "2207053",
];
/// The account may do nothing, or this app nothing with it, until a person has been there.
const RESTRICTION: i64 = 2_207_050;
/// An action was blocked; posts were live under this answer.
const BLOCK: i64 = 2_207_051;

fn said(body: &[u8]) -> Said {
    #[derive(Deserialize)]
    struct Whole {
        error: Told,
    }
    #[derive(Deserialize)]
    struct Told {
        message: String,
        code: i64,
        error_subcode: Option<i64>,
        #[serde(default)]
        is_transient: bool,
    }
    let Ok(Whole { error }) = serde_json::from_slice(body) else {
        return Said::default();
    };
    let mut code = format!("graph_{}", error.code);
    if let Some(subcode) = error.error_subcode {
        code.push_str(&format!("_{subcode}"));
    }
    if error.is_transient {
        code.push_str("_transient");
    }
    let message = match error.error_subcode {
        Some(RESTRICTION | BLOCK) => format!("{} ({code})", error.message),
        _ => error.message,
    };
    let code = match error.error_subcode {
        Some(RESTRICTION) if !error.is_transient => RESTRICTED.to_owned(),
        Some(BLOCK) => BLOCKED.to_owned(),
        _ => code,
    };
    Said {
        code: Some(code),
        message: Some(message),
    }
}

/// The Graph API tells by its own numbers; its statuses say little (a throttled call is a 400).
fn meaning(status: u16, said: &Said) -> Option<Meaning> {
    if !(400..500).contains(&status) {
        return None;
    }
    match said.code.as_deref()? {
        RESTRICTED => return Some(refused(Class::Unauthorised, Scope::Account)),
        BLOCKED => {
            return Some(Meaning {
                scope: Scope::Account,
                ..UNKNOWN
            });
        }
        _ => {}
    }
    let mut parts = said.code.as_deref()?.strip_prefix("graph_")?.split('_');
    let code: i64 = parts.next()?.parse().ok()?;
    let rest: Vec<&str> = parts.collect();
    let is = |subcode: &str| rest.contains(&subcode);
    Some(match code {
        _ if is("transient") => UNKNOWN,
        _ if is(QUOTA) => refused(Class::Throttled, Scope::Account),
        _ if rest.iter().any(|it| PASSING.contains(it)) => {
            refused(Class::Transient, Scope::Content)
        }
        // "application request limit reached", where the others are of a user, a page, an account
        4 => refused(Class::Throttled, Scope::App),
        17 | 32 | 613 | 80_001 | 80_002 => refused(Class::Throttled, Scope::Account),
        10 | 102 | 190 | 200..300 => refused(Class::Unauthorised, Scope::Account),
        // of the service, unless a number says what is wrong with the media
        -1 | 1 | 2 if rest.is_empty() => UNKNOWN,
        _ => refused(Class::Permanent, Scope::Content),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(status: u16, code: i64, subcode: Option<i64>, is_transient: bool) -> (bool, Class) {
        let body = json!({"error": {
            "message": "m", "type": "OAuthException", "code": code, "error_subcode": subcode,
            "is_transient": is_transient,
        }});
        let it = meaning(status, &said(body.to_string().as_bytes()));
        let it = it.unwrap_or_else(|| crate::platform::verdict::usual(status));
        (it.acted, it.class)
    }

    #[test]
    fn numbers_have_their_meaning() {
        use Class::{Permanent, Throttled, Transient, Unauthorised, Unknown};
        for (code, subcode, expected) in [
            (190, Some(463), (false, Unauthorised)),
            (10, None, (false, Unauthorised)),
            (200, None, (false, Unauthorised)),
            (25, Some(2_207_050), (false, Unauthorised)),
            (9, Some(2_207_042), (false, Throttled)),
            (4, Some(2_207_051), (true, Unknown)),
            (4, None, (false, Throttled)),
            (80_002, None, (false, Throttled)),
            (9_007, Some(2_207_027), (false, Transient)),
            (-2, Some(2_207_003), (false, Transient)),
            (24, Some(2_207_008), (false, Transient)),
            (36_001, Some(2_207_005), (false, Permanent)),
            (1, Some(2_207_057), (false, Permanent)),
            (100, None, (false, Permanent)),
            (2, None, (true, Unknown)),
        ] {
            assert_eq!(
                of(400, code, subcode, false),
                expected,
                "{code} {subcode:?}"
            );
            assert_eq!(of(500, code, subcode, false), (true, Unknown), "{code}");
            assert_eq!(of(400, code, subcode, true), (true, Unknown), "{code}");
        }
    }

    #[test]
    fn moments_and_captions_are_read_as_they_are_written_there() {
        assert_eq!(moment("1970-01-01T00:00:00+0000"), Some(Time::UNIX_EPOCH));
        assert_eq!(moment("soon"), None);
        assert_eq!(plain(" he\u{301}llo\r\nyou "), "héllo\nyou");
    }

    proptest! {
        #[test]
        fn no_body_panics(status in 100u16..600, body: Vec<u8>, code: i64, subcode: Option<i64>) {
            let told = said(&body);
            meaning(status, &told);
            of(status, code, subcode, false);
        }
    }
}
