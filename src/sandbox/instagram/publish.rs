//! The point of no return, and everything that can be read.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::super::{
    acts::{Act, Draft, held},
    exchange::Answer,
    text::fingerprint,
};
use super::{
    graph::{self, error, fields, parameter, pick, unknown},
    side::{Container, Instagram, LIFE, NAME, Side, State, user_id},
    transfer::video_status,
};

/// The fields of a container, of published media and of an account.
const CONTAINER: &[&str] = &[
    "copyright_check_status",
    "id",
    "status",
    "status_code",
    "video_status",
];
const MEDIA: &[&str] = &[
    "alt_text",
    "boost_eligibility_info",
    "caption",
    "comments_count",
    "copyright_check_information",
    "current_live_viewer_count",
    "has_poll",
    "has_slider",
    "id",
    "ig_id",
    "is_comment_enabled",
    "is_shared_to_feed",
    "legacy_instagram_media_id",
    "like_count",
    "media_product_type",
    "media_type",
    "media_url",
    "owner",
    "permalink",
    "shortcode",
    "thumbnail_url",
    "timestamp",
    "username",
    "video_title",
    "view_count",
];
const USER: &[&str] = &[
    "account_type",
    "biography",
    "followers_count",
    "follows_count",
    "id",
    "media_count",
    "name",
    "profile_picture_url",
    "user_id",
    "username",
    "website",
];
const LIMIT: &[&str] = &["config", "quota_usage"];
/// Seconds in which the quota counts.
const DAY_S: i64 = 86_400;

/// What a node is.
pub(super) fn kind_of(side: &Side, id: &str) -> &'static str {
    if side.containers.contains_key(id) {
        "container.get"
    } else if id == "me" || side.accounts.contains_key(id) {
        "user.get"
    } else {
        "media.get"
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%S+0000").to_string()
}

/// The short name in a permalink.
fn shortcode(id: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut rest = fingerprint(&["shortcode", id]);
    let mut code = String::new();
    for _ in 0..10 {
        let digit = usize::try_from(rest % 64).expect("smaller than the alphabet");
        code.push(char::from(ALPHABET[digit]));
        rest /= 64;
    }
    format!("D{code}")
}

impl Instagram {
    /// Publishes a container that is ready, once.
    pub(super) fn publish(&self, account: String, creation: String, lag_ms: u32) -> Answer {
        let mut side = held(&self.side);
        let now = self.clock.now();
        let found = side.containers.get(&creation);
        let Some(container) = found.filter(|it| it.act.account == account).cloned() else {
            return error(
                400,
                24,
                Some(2_207_006),
                "The requested resource does not exist: the media was not found.",
            );
        };
        match side.state(&container, now) {
            State::Finished => {}
            State::Expired => {
                return error(
                    400,
                    24,
                    Some(2_207_008),
                    "The media builder has expired. Create it again.",
                );
            }
            State::InProgress | State::Published | State::Error => {
                return error(
                    400,
                    9007,
                    Some(2_207_027),
                    "Media ID is not available: the media is not ready for publishing.",
                );
            }
        }
        if container.act.detail["is_carousel_item"] == true {
            return parameter("An item of a carousel can't be published alone");
        }
        if side.used(&account, now) >= self.settings.now().instagram_quota as usize {
            return error(
                403,
                9,
                Some(2_207_042),
                "You reached the maximum number of posts that may be published by the Content Publishing API.",
            );
        }
        let id = side.new_id(now).to_string();
        let code = shortcode(&id);
        let draft = Draft {
            platform: NAME,
            op: "media.publish",
            account,
            key: Some(creation),
            id: id.clone(),
            url: Some(format!("{}/instagram/p/{code}/", self.base)),
            text: container.act.text.clone(),
            media: files(&side, &container),
            detail: json!({
                "shortcode": code, "lag_ms": lag_ms,
                "media_type": container.detail("media_type"),
                "product_type": container.detail("product_type"),
                "video": container.act.detail["video"], "alt_text": container.detail("alt_text"),
                "url": container.act.detail["url"],
            }),
        };
        let act = self.acts.record(now, draft);
        side.apply(&act);
        Answer::json(200, &json!({"id": id}))
    }

    /// How much may still be published.
    pub(super) fn limit(&self, account: &str, all: &Map<String, Value>) -> Answer {
        let since = graph::text(all, "since");
        let now = self.clock.now();
        let side = held(&self.side);
        let used = match since.as_deref().map(moment) {
            None => side.used(account, now),
            Some(Some(since)) if now - since <= LIFE => {
                let mine = side.media.values().filter(|act| act.account == account);
                mine.filter(|act| act.at >= since).count()
            }
            Some(_) => return parameter("Param since must be a time within the last 24 hours"),
        };
        let node = json!({
            "quota_usage": used,
            "config": {"quota_total": self.settings.now().instagram_quota, "quota_duration": DAY_S},
        });
        let mut asked = fields(graph::text(all, "fields").as_deref());
        if asked.is_empty() {
            asked = vec!["quota_usage".into()];
        }
        match pick(&node, ("ContentPublishingLimitResponse", LIMIT), &asked) {
            Ok(shown) => Answer::json(200, &json!({"data": [shown]})),
            Err(refusal) => refusal,
        }
    }

    /// One look at a container, a published one or an account.
    pub(super) fn look(&self, account: &str, id: &str, asked: Option<&str>) -> Answer {
        let mut side = held(&self.side);
        let now = self.clock.now();
        let asked = fields(asked);
        let picked = match kind_of(&side, id) {
            "container.get" => {
                let found = side.containers.get(id);
                let Some(container) = found.filter(|it| it.act.account == account) else {
                    return unknown(id, "GET");
                };
                let node = container_node(&side, container, now);
                // the next look is a look later
                side.containers.entry(id.to_owned()).and_modify(|it| {
                    it.looks -= u32::from(!it.waiting && it.looks > 0);
                });
                pick(&node, ("ShadowIGMediaBuilder", CONTAINER), &asked)
            }
            "user.get" => {
                if id != "me" && user_id(account) != id {
                    return unknown(id, "GET");
                }
                let count = side.media.values().filter(|act| act.account == account);
                let own = user_id(account);
                let node = json!({
                    "id": own, "user_id": own, "username": account, "name": account,
                    "account_type": "BUSINESS", "media_count": count.count(),
                });
                pick(&node, ("IGUser", USER), &asked)
            }
            _ => {
                let found = side.media.get(&id.parse().unwrap_or(0));
                let Some(act) = found.filter(|act| act.account == account) else {
                    return unknown(id, "GET");
                };
                pick(&self.node(act), ("IGMedia", MEDIA), &asked)
            }
        };
        match picked {
            Ok(shown) => Answer::json(200, &shown),
            Err(refusal) => refusal,
        }
    }

    /// What an account published, newest first, without what still lags.
    pub(super) fn list(&self, account: &str, all: &Map<String, Value>) -> Answer {
        let given = |name: &str| graph::text(all, name);
        let bound = |name: &str, usual: DateTime<Utc>| match given(name) {
            None => Ok(usual),
            Some(text) => {
                moment(&text).ok_or_else(|| parameter(&format!("Param {name} is no time")))
            }
        };
        let (since, until) = match (
            bound("since", DateTime::<Utc>::MIN_UTC),
            bound("until", DateTime::<Utc>::MAX_UTC),
        ) {
            (Ok(since), Ok(until)) => (since, until),
            (Err(refusal), _) | (_, Err(refusal)) => return refusal,
        };
        let most = match given("limit").map(|it| it.parse::<usize>()) {
            None => 25,
            Some(Ok(most @ 1..=100)) => most,
            Some(_) => return parameter("Param limit must lie between 1 and 100"),
        };
        let below = match given("after").map(|it| u64::from_str_radix(&it, 16)) {
            None => u64::MAX,
            Some(Ok(below)) => below,
            Some(Err(_)) => return parameter("Invalid cursors values"),
        };
        let side = held(&self.side);
        let now = self.clock.now();
        let settled = |act: &Act| {
            let lag = act.detail["lag_ms"].as_i64().unwrap_or(0);
            act.at + TimeDelta::milliseconds(lag) <= now
        };
        let mut found: Vec<(&u64, &Arc<Act>)> = side
            .media
            .range(..below)
            .rev()
            .filter(|(_, act)| act.account == account && settled(act))
            .filter(|(_, act)| act.at >= since && act.at <= until)
            .take(most + 1)
            .collect();
        let more = found.len() > most;
        found.truncate(most);
        let asked = fields(given("fields").as_deref());
        let mut data = Vec::new();
        for (_, act) in &found {
            match pick(&self.node(act), ("IGMedia", MEDIA), &asked) {
                Ok(shown) => data.push(shown),
                Err(refusal) => return refusal,
            }
        }
        let mut body = json!({"data": data});
        if let (Some((first, _)), Some((last, _))) = (found.first(), found.last()) {
            let cursor = |id: &u64| format!("{id:x}");
            body["paging"] = json!({"cursors": {"before": cursor(first), "after": cursor(last)}});
            if more {
                let own = user_id(account);
                let after = cursor(last);
                let base = &self.base;
                let next = format!(
                    "{base}/instagram/{}/{own}/media?limit={most}&after={after}",
                    super::container::VERSION
                );
                body["paging"]["next"] = next.into();
            }
        }
        Answer::json(200, &body)
    }

    /// What was published, with all its fields.
    fn node(&self, act: &Act) -> Value {
        let detail = |name: &str| act.detail[name].as_str().unwrap_or_default();
        let media_type = match detail("media_type") {
            "CAROUSEL" => "CAROUSEL_ALBUM",
            _ if act.detail["video"] == true => "VIDEO",
            _ => "IMAGE",
        };
        // the port of an earlier life may be another one
        let page = format!("{}/instagram/p/{}/", self.base, detail("shortcode"));
        let mut node = json!({
            "id": act.id, "ig_id": act.id, "media_type": media_type,
            "media_product_type": detail("product_type"), "permalink": page,
            "shortcode": detail("shortcode"), "timestamp": time(act.at), "username": act.account,
            "owner": {"id": user_id(&act.account)}, "is_comment_enabled": true,
            "comments_count": 0, "like_count": 0,
        });
        if !act.text.is_empty() {
            node["caption"] = act.text.as_str().into();
        }
        if !detail("alt_text").is_empty() {
            node["alt_text"] = detail("alt_text").into();
        }
        if let Some(file) = act.media.first() {
            node["media_url"] = format!("{}/media/{}", self.base, file.digest).into();
        }
        node
    }
}

/// The files of a container, or of its children.
fn files(side: &Side, container: &Container) -> Vec<super::super::acts::Media> {
    let children = container.act.detail["children"].as_array();
    let children = children.into_iter().flatten().filter_map(Value::as_str);
    let mut all: Vec<_> = children
        .filter_map(|id| side.containers.get(id))
        .flat_map(|child| child.media.clone())
        .collect();
    if all.is_empty() {
        all.clone_from(&container.media);
    }
    all
}

fn container_node(side: &Side, container: &Container, now: DateTime<Utc>) -> Value {
    let state = side.state(container, now);
    let status = match state {
        State::InProgress => "In Progress: Media is still being processed.".to_owned(),
        State::Finished => {
            "Finished: Media has been uploaded and it is ready to be published.".to_owned()
        }
        State::Published => "Published: Media has been published.".to_owned(),
        State::Expired => "Expired: The container was not published within 24 hours.".to_owned(),
        State::Error => format!(
            "Error: Media upload has failed with error code {}",
            container.failed.as_deref().unwrap_or("2207001")
        ),
    };
    let mut node = json!({
        "id": container.act.id, "status_code": state.code(), "status": status,
        "copyright_check_status": {"status": "completed", "matches_found": false},
    });
    if container.act.detail["resumable"] == true {
        node["video_status"] = video_status(container);
    }
    node
}

/// A moment as Unix seconds or a date.
fn moment(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(seconds) = text.parse::<i64>() {
        return DateTime::from_timestamp(seconds, 0);
    }
    let strict = DateTime::parse_from_rfc3339(text);
    let at = strict.or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%z"));
    at.ok().map(|at| at.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_come_in_many_forms() {
        let wanted = moment("1767225600");
        assert!(wanted.is_some());
        assert_eq!(moment("2026-01-01T00:00:00Z"), wanted);
        assert_eq!(moment("2026-01-01T00:00:00+0000"), wanted);
        assert_eq!(moment("soon"), None);
        let text = time(wanted.expect("a moment"));
        assert_eq!(moment(&text), wanted);
        let whole = wanted.expect("a moment");
        let rfc = whole.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        assert_eq!(moment(&rfc), wanted);
    }

    #[test]
    fn the_descriptions_know_every_field() {
        for (node, names) in [
            ("ShadowIGMediaBuilder", CONTAINER),
            ("IGMedia", MEDIA),
            ("IGUserForIGOnlyAPI", USER),
        ] {
            let path = format!("meta/graph-specs/{node}.json");
            let Some(text) = super::super::super::text::specification(&path) else {
                return;
            };
            let spec: Value = serde_json::from_str(&text).expect("JSON");
            let fields = spec["fields"].as_array().expect("fields");
            let known: Vec<_> = fields.iter().filter_map(|it| it["name"].as_str()).collect();
            assert_eq!(known, names, "{node}");
        }
    }
}
