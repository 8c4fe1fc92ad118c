//! Posts: made, shown, listed, deleted.

use std::{ops::Bound, sync::Arc};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::super::{
    acts::{Act, Draft, held},
    exchange::Answer,
};
use super::{
    input::{NewPost, is_id},
    problem::{duplicate, invalid, missing, plain},
    side::{NAME, Side, X, texts, user_id},
    words::{MAX_WEIGHT, shown, weight},
};

/// The fields of a post that may be asked for by `post.fields`, or by its older name `tweet.fields`.
const FIELDS: &[&str] = &[
    "article",
    "article_title",
    "attachments",
    "author_id",
    "card_uri",
    "community_id",
    "context_annotations",
    "conversation_id",
    "created_at",
    "display_text_range",
    "edit_controls",
    "edit_history_post_ids",
    "entities",
    "geo",
    "id",
    "in_reply_to_user_id",
    "lang",
    "matched_media_notes",
    "media_metadata",
    "non_public_metrics",
    "note_post",
    "note_request_suggestions",
    "organic_metrics",
    "paid_partnership",
    "possibly_sensitive",
    "promoted_metrics",
    "public_metrics",
    "referenced_posts",
    "reply_settings",
    "scopes",
    "source",
    "suggested_source_links",
    "suggested_source_links_with_counts",
    "text",
    "username",
    "withheld",
];

/// What is asked for of posts.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Wanted {
    fields: Vec<String>,
    media: bool,
    author: bool,
}

/// Which posts of an account are asked for.
#[derive(Debug)]
pub(in super::super) struct Page {
    most: usize,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    above: u64,
    below: u64,
    no_replies: bool,
    wanted: Wanted,
}

impl Wanted {
    /// Reads one query parameter; whether it was one of these.
    fn read(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let values = || value.split(',').filter(|it| !it.is_empty());
        match name {
            "post.fields" | "tweet.fields" => {
                for field in values() {
                    if !FIELDS.contains(&field) {
                        return Err(format!(
                            "The `{name}` query parameter value [{field}] is not one of [{}]",
                            FIELDS.join(",")
                        ));
                    }
                    self.fields.push(field.to_owned());
                }
            }
            "expansions" => {
                for field in values() {
                    self.media |= field == "attachments.media_keys";
                    self.author |= field == "author_id";
                }
            }
            "user.fields" | "media.fields" | "poll.fields" | "place.fields" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads a query that holds nothing else.
    pub(super) fn only(query: &[(String, String)]) -> Result<Wanted, String> {
        let mut wanted = Wanted::default();
        for (name, value) in query {
            if name != "ids" && !wanted.read(name, value)? {
                return Err(unknown(name));
            }
        }
        Ok(wanted)
    }

    fn has(&self, field: &str) -> bool {
        self.fields.iter().any(|it| it == field)
    }
}

fn unknown(name: &str) -> String {
    format!("The query parameter [{name}] is not one of the known ones")
}

impl Page {
    /// Reads the query of a timeline.
    pub(super) fn read(query: &[(String, String)]) -> Result<Page, String> {
        let mut page = Page {
            most: 10,
            from: DateTime::<Utc>::MIN_UTC,
            until: DateTime::<Utc>::MAX_UTC,
            above: 0,
            below: u64::MAX,
            no_replies: false,
            wanted: Wanted::default(),
        };
        for (name, value) in query {
            let wrong = || format!("The `{name}` query parameter value [{value}] is not valid");
            let time = || {
                let at = DateTime::parse_from_rfc3339(value).map_err(|_| wrong())?;
                Ok::<_, String>(at.with_timezone(&Utc))
            };
            let id = || {
                let id = value.parse::<u64>().ok().filter(|_| is_id(value));
                id.ok_or_else(wrong)
            };
            match name.as_str() {
                "max_results" => match value.parse() {
                    Ok(most @ 5..=100) => page.most = most,
                    _ => {
                        return Err(format!(
                            "The `max_results` query parameter value [{value}] is not between 5 and 100"
                        ));
                    }
                },
                "start_time" => page.from = time()?,
                "end_time" => page.until = time()?,
                "since_id" => page.above = id()?,
                "until_id" => page.below = page.below.min(id()?),
                "pagination_token" => {
                    let id = u64::from_str_radix(value, 16).map_err(|_| wrong())?;
                    page.below = page.below.min(id);
                }
                "exclude" => page.no_replies = value.split(',').any(|it| it == "replies"),
                _ if page.wanted.read(name, value)? => {}
                _ => return Err(unknown(name)),
            }
        }
        // An empty range must not be turned around: BTreeMap panics on it.
        page.above = page.above.min(page.below.saturating_sub(1));
        Ok(page)
    }
}

impl X {
    /// Publishes, unless the account has just published the very same.
    pub(super) fn post(&self, account: String, new: NewPost) -> Answer {
        if weight(&new.text) > MAX_WEIGHT {
            return invalid(&format!(
                "Your post is too long: it weighs {} of {MAX_WEIGHT}.",
                weight(&new.text)
            ));
        }
        let files = match self.attach(&account, &new.media_ids) {
            Ok(files) => files,
            Err(refusal) => return refusal,
        };
        let mut side = held(&self.side);
        let now = self.clock.now();
        let named = [&new.reply_to, &new.quoted].into_iter().flatten();
        for id in named {
            if !side.posts.contains_key(&id.parse().unwrap_or(0)) {
                return plain(
                    403,
                    "Forbidden",
                    "You attempted to reply to or quote a Tweet that is deleted or not visible to you.",
                );
            }
        }
        let window = i64::from(self.settings.now().x_duplicate_window_s);
        let since = now - TimeDelta::seconds(window);
        if window > 0 && side.same(&account, (&new.text, &new.media_ids), since) {
            return duplicate();
        }
        let id = side.new_id(now).to_string();
        let (keys, media): (Vec<_>, Vec<_>) = files.into_iter().unzip();
        let draft = Draft {
            platform: NAME,
            op: "post.create",
            url: Some(self.page(&account, &id)),
            account,
            key: None,
            id: id.clone(),
            text: new.text,
            media,
            detail: json!({
                "media_ids": new.media_ids, "media_keys": keys, "reply_to": new.reply_to,
                "quoted": new.quoted, "poll": new.poll, "lag_ms": new.lag_ms,
            }),
        };
        let act = self.acts.record(now, draft);
        side.apply(&act);
        let text = self.text(&act).text;
        let data = json!({"id": id, "text": text, "edit_history_post_ids": [id]});
        Answer::json(201, &json!({"data": data}))
    }

    fn page(&self, account: &str, id: &str) -> String {
        format!("{}/x/{account}/status/{id}", self.base)
    }

    fn text(&self, act: &Act) -> super::words::Shown {
        let keys: Vec<&str> = texts(&act.detail["media_keys"]).collect();
        shown(&act.text, &act.id, &self.page(&act.account, &act.id), &keys)
    }

    /// A post with the fields that were asked for.
    fn show(&self, side: &Side, act: &Act, wanted: &Wanted) -> Value {
        let made = self.text(act);
        let author = user_id(&act.account);
        let mut post = json!({
            "id": act.id, "text": made.text, "edit_history_post_ids": [act.id],
        });
        let mut put = |field: &str, asked: bool, value: Value| {
            if (asked || wanted.has(field)) && !value.is_null() && value != json!({}) {
                post[field] = value;
            }
        };
        let keys = &act.detail["media_keys"];
        let files = texts(keys).next().is_some();
        let attached = if files {
            json!({"media_keys": keys})
        } else {
            Value::Null
        };
        put("attachments", wanted.media, attached);
        put("author_id", wanted.author, json!(author));
        let at = act.at.to_rfc3339_opts(SecondsFormat::Millis, true);
        put("created_at", false, json!(at));
        put("entities", false, made.entities);
        put("lang", false, json!("und"));
        put("possibly_sensitive", false, json!(false));
        put("reply_settings", false, json!("everyone"));
        put("username", false, json!(act.account));
        let reply = act.detail["reply_to"].as_str();
        put("conversation_id", false, json!(reply.unwrap_or(&act.id)));
        let parent = reply.and_then(|id| side.posts.get(&id.parse().ok()?));
        put(
            "in_reply_to_user_id",
            false,
            json!(parent.map(|act| user_id(&act.account))),
        );
        let mut others = Vec::new();
        for (kind, name) in [("replied_to", "reply_to"), ("quoted", "quoted")] {
            if let Some(id) = act.detail[name].as_str() {
                others.push(json!({"type": kind, "id": id}));
            }
        }
        let others = if others.is_empty() {
            Value::Null
        } else {
            others.into()
        };
        put("referenced_posts", false, others);
        let none = json!({"retweet_count": 0, "reply_count": 0, "like_count": 0, "quote_count": 0, "bookmark_count": 0, "impression_count": 0});
        put("public_metrics", false, none);
        post
    }

    /// What the posts name besides, as it was asked for.
    fn includes(&self, posts: &[&Arc<Act>], wanted: &Wanted) -> Value {
        let mut includes = Map::new();
        if wanted.media {
            let file = |(key, media): (&str, &super::super::acts::Media)| {
                let family = media.mime.split('/').next().unwrap_or_default();
                let kind = match (family, media.mime.as_str()) {
                    (_, "image/gif") => "animated_gif",
                    ("image", _) => "photo",
                    _ => "video",
                };
                let mut file = json!({
                    "media_key": key, "type": kind,
                    "url": format!("{}/media/{}", self.base, media.digest),
                });
                if !media.alt.is_empty() {
                    file["alt_text"] = media.alt.as_str().into();
                }
                file
            };
            let files: Vec<Value> = posts
                .iter()
                .flat_map(|act| texts(&act.detail["media_keys"]).zip(&act.media))
                .map(file)
                .collect();
            if !files.is_empty() {
                includes.insert("media".into(), files.into());
            }
        }
        if wanted.author {
            let mut names: Vec<_> = posts.iter().map(|act| act.account.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            let users = names.into_iter().map(user).collect();
            includes.insert("users".into(), Value::Array(users));
        }
        includes.into()
    }

    /// One post.
    pub(super) fn one(&self, id: &str, wanted: &Wanted) -> Answer {
        let side = held(&self.side);
        match side.posts.get(&id.parse().unwrap_or(0)) {
            Some(act) => {
                let mut body = json!({"data": self.show(&side, act, wanted)});
                self.include(&mut body, &[act], wanted);
                Answer::json(200, &body)
            }
            None => missing("tweet", "id", id),
        }
    }

    fn include(&self, body: &mut Value, posts: &[&Arc<Act>], wanted: &Wanted) {
        let includes = self.includes(posts, wanted);
        if includes != json!({}) {
            body["includes"] = includes;
        }
    }

    /// Some posts by id; those that aren't there are told as errors beside the data.
    pub(super) fn some(&self, ids: &[String], wanted: &Wanted) -> Answer {
        let side = held(&self.side);
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for id in ids {
            match side.posts.get(&id.parse().unwrap_or(0)) {
                Some(act) => found.push(act),
                None => {
                    let told = missing("tweet", "ids", id).body;
                    errors.push(serde_json::from_slice::<Value>(&told).unwrap_or_default());
                }
            }
        }
        let mut body = json!({});
        let list: Vec<_> = found
            .iter()
            .map(|act| self.show(&side, act, wanted))
            .collect();
        if !list.is_empty() {
            body["data"] = list.into();
        }
        if !errors.is_empty() {
            body["errors"] = errors.into();
        }
        self.include(&mut body, &found, wanted);
        Answer::json(200, &body)
    }

    /// The timeline of an account, newest first, without what still lags.
    pub(super) fn timeline(&self, id: &str, page: &Page) -> Answer {
        let side = held(&self.side);
        let now = self.clock.now();
        let Some(account) = side.accounts.get(id) else {
            return missing("user", "id", id);
        };
        let settled = |act: &Act| {
            let lag = act.detail["lag_ms"].as_i64().unwrap_or(0);
            act.at + TimeDelta::milliseconds(lag) <= now
        };
        let range = (Bound::Excluded(page.above), Bound::Excluded(page.below));
        let mut found: Vec<&Arc<Act>> = side
            .posts
            .range(range)
            .rev()
            .map(|(_, act)| act)
            .filter(|act| act.account == *account && settled(act))
            .filter(|act| act.at >= page.from && act.at < page.until)
            .filter(|act| !page.no_replies || act.detail["reply_to"].is_null())
            .take(page.most + 1)
            .collect();
        let more = found.len() > page.most;
        found.truncate(page.most);
        let mut meta = json!({"result_count": found.len()});
        let mut body = json!({});
        if let (Some(first), Some(last)) = (found.first(), found.last()) {
            meta["newest_id"] = first.id.as_str().into();
            meta["oldest_id"] = last.id.as_str().into();
            if more {
                let last: u64 = last.id.parse().unwrap_or(0);
                meta["next_token"] = format!("{last:x}").into();
            }
            let list = found.iter().map(|act| self.show(&side, act, &page.wanted));
            body["data"] = list.collect();
        }
        self.include(&mut body, &found, &page.wanted);
        body["meta"] = meta;
        Answer::json(200, &body)
    }

    /// Deletes a post of one's own.
    pub(super) fn delete(&self, account: String, id: String) -> Answer {
        let mut side = held(&self.side);
        let found = side.posts.get(&id.parse().unwrap_or(0));
        match found {
            Some(act) if act.account != account => plain(
                403,
                "Forbidden",
                "You are not authorized to delete this Tweet.",
            ),
            None => Answer::json(200, &json!({"data": {"deleted": false}})),
            Some(_) => {
                let draft = Draft {
                    platform: NAME,
                    op: "post.delete",
                    account,
                    key: None,
                    id,
                    url: None,
                    text: String::new(),
                    media: vec![],
                    detail: json!({}),
                };
                let act = self.acts.record(self.clock.now(), draft);
                side.apply(&act);
                Answer::json(200, &json!({"data": {"deleted": true}}))
            }
        }
    }
}

/// An account as it's shown.
pub(super) fn user(account: &str) -> Value {
    json!({"id": user_id(account), "name": account, "username": account})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_knows_every_field() {
        let Some(text) = super::super::super::text::specification("x/openapi.json") else {
            return;
        };
        let spec: Value = serde_json::from_str(&text).expect("JSON");
        let schemas = &spec["components"]["schemas"];
        let known = |schema: &str| -> Vec<String> {
            let known = schemas[schema]["properties"].as_object();
            known.expect("properties").keys().cloned().collect()
        };
        assert_eq!(known("Post"), FIELDS);
        for name in user("a").as_object().expect("fields").keys() {
            assert!(known("User").contains(name), "{name}");
        }
    }

    #[test]
    fn a_page_is_read_and_mistakes_are_named() {
        let read = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            Page::read(&pairs.collect::<Vec<_>>())
        };
        let page = read(&[
            ("max_results", "5"),
            ("tweet.fields", "created_at,entities"),
        ]);
        assert!(page.expect("a page").wanted.has("entities"));
        for wrong in [
            ("max_results", "4"),
            ("start_time", "yesterday"),
            ("post.fields", "texts"),
            ("colour", "red"),
        ] {
            assert!(read(&[wrong]).is_err(), "{wrong:?}");
        }
    }
}
