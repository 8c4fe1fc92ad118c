//! Mastodon's wire format: media, statuses with Idempotency-Key, accounts, the instance.

mod status;
mod entities;
mod side;
mod media;

use std::sync::Arc;

use axum::http::Method;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

pub(super) use self::side::Mastodon;
use self::{
    media::{About, NewMedia},
    side::{NAME, Side, refuse},
    status::NewStatus,
};
use super::{
    acts::{Act, Draft, held},
    exchange::{Answer, Peek, Platform, Request, Token},
    form::{self, Form},
    rate::{Rate, Rates},
};

/// A request that was understood.
pub(super) enum Op {
    Upload(String, NewMedia),
    Look(String, String),
    Describe(String, String, About),
    Post(String, Option<String>, NewStatus),
    Status(Option<String>, String),
    Scheduled(String, Option<String>),
    Verify(String),
    Statuses(Option<String>, String, Vec<(String, String)>),
    Instance,
}

impl Mastodon {
    fn post(&self, account: String, key: Option<String>, new: NewStatus) -> Answer {
        let mut side = held(&self.side);
        let now = self.clock.now();
        if let Some(made) = key
            .as_deref()
            .and_then(|key| side.by_key(&account, key, now))
        {
            return self.shown(&side, made);
        }
        let files = match self.attach(&account, &new.media_ids, &side) {
            Ok(files) => files,
            Err(why) => return refuse(422, &why),
        };
        let find = |id: &Option<String>| match id {
            Some(id) => id
                .parse::<u64>()
                .ok()
                .and_then(|id| side.statuses.get(&id))
                .map(Some)
                .ok_or(()),
            None => Ok(None),
        };
        let (Ok(parent), Ok(_)) = (find(&new.in_reply_to), find(&new.quoted)) else {
            return refuse(404, "Record not found");
        };
        let parent_account = parent.map(|act| entities::account_id(&act.account));
        let id = side.new_id(now).to_string();
        let scheduled = new.scheduled_at.is_some();
        let page = (!scheduled).then(|| format!("{}/mastodon/@{account}/{id}", self.base));
        let act = self.acts.record(now, Draft {
            platform: NAME,
            op: if scheduled { "status.schedule" } else { "status.create" },
            account,
            key,
            id,
            url: page,
            text: new.text,
            media: files,
            detail: json!({
                "visibility": new.visibility, "sensitive": new.sensitive, "spoiler_text": new.spoiler,
                "language": new.language, "media_ids": new.media_ids,
                "in_reply_to_id": new.in_reply_to, "in_reply_to_account_id": parent_account,
                "quoted_status_id": new.quoted, "scheduled_at": new.scheduled_at.map(entities::time),
                "poll": new.poll.map(|poll| json!({
                    "options": poll.options, "expires_in": poll.expires_in_s, "multiple": poll.multiple,
                })),
            }),
        });
        side.apply(&act);
        self.shown(&side, &act)
    }

    /// Publishes every scheduled status whose time has come.
    pub(super) fn publish_due(&self) {
        let mut side = held(&self.side);
        let now = self.clock.now();
        let due = |act: &Act| {
            let at = act.detail["scheduled_at"]
                .as_str()
                .and_then(|at| DateTime::parse_from_rfc3339(at).ok());
            at.is_some_and(|at| at <= now)
        };
        let ready: Vec<_> = side
            .waiting
            .iter()
            .filter_map(|id| side.scheduled.get(id))
            .filter(|a| due(a))
            .cloned()
            .collect();
        for planned in ready {
            let id = side.new_id(now).to_string();
            let mut detail = planned.detail.clone();
            detail["schedule"] = Value::String(planned.id.clone());
            let act = self.acts.record(
                now,
                Draft {
                    platform: NAME,
                    op: "status.create",
                    account: planned.account.clone(),
                    key: planned.key.clone(),
                    url: Some(format!("{}/mastodon/@{}/{id}", self.base, planned.account)),
                    id,
                    text: planned.text.clone(),
                    media: planned.media.clone(),
                    detail,
                },
            );
            side.apply(&act);
        }
    }

    fn shown(&self, side: &Side, act: &Act) -> Answer {
        let shown = if act.op == "status.schedule" {
            entities::scheduled(act, &self.base)
        } else {
            entities::status(act, &self.base, side.count(&act.account), self.clock.now())
        };
        Answer::json(200, &shown)
    }

    fn status(&self, viewer: Option<&str>, id: &str) -> Answer {
        let side = held(&self.side);
        let found = id.parse::<u64>().ok().and_then(|id| side.statuses.get(&id));
        match found.filter(|act| visible(act, viewer)) {
            Some(act) => self.shown(&side, act),
            None => refuse(404, "Record not found"),
        }
    }

    fn planned(&self, account: &str, id: Option<&str>) -> Answer {
        let side = held(&self.side);
        let mine = |id: &u64| side.scheduled.get(id).filter(|act| act.account == account);
        let Some(id) = id else {
            let list: Vec<_> = side
                .waiting
                .iter()
                .rev()
                .filter_map(mine)
                .map(|act| entities::scheduled(act, &self.base))
                .collect();
            return Answer::json(200, &Value::Array(list));
        };
        let found = id
            .parse::<u64>()
            .ok()
            .filter(|id| side.waiting.contains(id));
        match found.as_ref().and_then(mine) {
            Some(act) => self.shown(&side, act),
            None => refuse(404, "Record not found"),
        }
    }

    fn statuses(&self, viewer: Option<&str>, id: &str, query: &[(String, String)]) -> Answer {
        let side = held(&self.side);
        let Some(account) = side.accounts.get(id) else {
            return refuse(404, "Record not found");
        };
        let page = match Page::read(query) {
            Ok(page) => page,
            Err(why) => return refuse(422, &why),
        };
        let range = side.statuses.range((
            std::ops::Bound::Excluded(page.above),
            std::ops::Bound::Excluded(page.below),
        ));
        let fits = |act: &&Arc<Act>| {
            act.account == *account
                && visible(act, viewer)
                && (!page.only_media || !act.media.is_empty())
                && (!page.exclude_replies || act.detail["in_reply_to_id"].is_null())
                && page
                    .tagged
                    .as_ref()
                    .is_none_or(|tag| status::hashtags(&act.text).contains(tag))
        };
        let mut found: Vec<_> = if page.oldest_first {
            range
                .map(|(_, act)| act)
                .filter(fits)
                .take(page.limit)
                .collect()
        } else {
            range
                .rev()
                .map(|(_, act)| act)
                .filter(fits)
                .take(page.limit)
                .collect()
        };
        if page.oldest_first {
            found.reverse();
        }
        let (count, now) = (side.count(account), self.clock.now());
        let list: Vec<_> = found
            .iter()
            .map(|act| entities::status(act, &self.base, count, now))
            .collect();
        let answer = Answer::json(200, &Value::Array(list));
        match (found.first(), found.last()) {
            (Some(first), Some(last)) => {
                let path = format!("{}/mastodon/api/v1/accounts/{id}/statuses", self.base);
                let (older, newer) = (&last.id, &first.id);
                answer.with("link", format!("<{path}?max_id={older}>; rel=\"next\", <{path}?min_id={newer}>; rel=\"prev\""))
            }
            _ => answer,
        }
    }
}

/// Private and direct statuses are for their author only: nobody follows anybody here.
fn visible(act: &Act, viewer: Option<&str>) -> bool {
    viewer == Some(&act.account)
        || matches!(
            act.detail["visibility"].as_str(),
            Some("public" | "unlisted")
        )
}

/// Which statuses of an account are asked for.
struct Page {
    limit: usize,
    above: u64,
    below: u64,
    oldest_first: bool,
    only_media: bool,
    exclude_replies: bool,
    tagged: Option<String>,
}

impl Page {
    fn read(query: &[(String, String)]) -> Result<Page, String> {
        let mut page = Page {
            limit: 20,
            above: 0,
            below: u64::MAX,
            oldest_first: false,
            only_media: false,
            exclude_replies: false,
            tagged: None,
        };
        for (name, value) in query {
            let wrong = || format!("Validation failed: {name} is invalid");
            let id = || value.parse::<u64>().map_err(|_| wrong());
            let yes = matches!(value.as_str(), "true" | "1");
            match name.as_str() {
                "limit" => page.limit = value.parse::<usize>().map_err(|_| wrong())?.clamp(1, 40),
                "max_id" => page.below = id()?,
                "since_id" => page.above = id()?,
                "min_id" => (page.above, page.oldest_first) = (id()?, true),
                "only_media" => page.only_media = yes,
                "exclude_replies" => page.exclude_replies = yes,
                "tagged" => page.tagged = Some(value.to_lowercase()),
                // There are no boosts here, and nothing is pinned.
                "exclude_reblogs" => {}
                "pinned" if yes => page.limit = 0,
                "pinned" => {}
                _ => return Err(format!("Validation failed: unknown parameter {name}")),
            }
        }
        // An empty range must not be turned around: BTreeMap panics on it.
        page.above = page.above.min(page.below.saturating_sub(1));
        Ok(page)
    }
}

impl Platform for Mastodon {
    type Op = Op;
    const NAME: &'static str = NAME;
    const PREFIX: &'static str = "/mastodon";
    const REFUSAL: u16 = 422;

    async fn read(&self, request: &Request) -> (Peek, Result<Op, Answer>) {
        let mut peek = Peek {
            op: "unknown",
            key: request.header("idempotency-key").map(str::to_owned),
            ..Peek::default()
        };
        let who = match self.grants.who(request.bearer(), self.clock.now()) {
            Token::Account(account) => {
                held(&self.side).meet(&account);
                peek.account = Some(account.clone());
                Ok(Some(account))
            }
            Token::Missing => Ok(None),
            Token::Expired | Token::Unknown => Err(self.error(401, None)),
        };
        let parts = request.parts();
        let form = if request.method == Method::GET {
            Ok(Form::default())
        } else {
            form::read(request).await
        };
        let text_field = if parts.contains(&"statuses") {
            "status"
        } else {
            "description"
        };
        peek.text = form
            .as_ref()
            .ok()
            .and_then(|form| form.fields.get(text_field)?.as_str().map(str::to_owned));
        let viewer = match who {
            Ok(viewer) => viewer,
            Err(refusal) => {
                route(
                    request,
                    None,
                    Ok(Form::default()),
                    &mut peek,
                    self.clock.now(),
                )
                .ok();
                return (peek, Err(refusal));
            }
        };
        let op = route(request, viewer, form, &mut peek, self.clock.now());
        (peek, op)
    }

    async fn perform(&self, op: Op) -> Answer {
        match op {
            Op::Upload(account, new) => self.upload(account, new).await,
            Op::Look(account, id) => self.look(&account, &id),
            Op::Describe(account, id, about) => self.describe(&account, &id, about),
            Op::Post(account, key, new) => self.post(account, key, new),
            Op::Status(viewer, id) => self.status(viewer.as_deref(), &id),
            Op::Scheduled(account, id) => self.planned(&account, id.as_deref()),
            Op::Verify(account) => {
                let count = held(&self.side).count(&account);
                Answer::json(200, &entities::own_account(&account, &self.base, count))
            }
            Op::Statuses(viewer, id, query) => self.statuses(viewer.as_deref(), &id, &query),
            Op::Instance => Answer::json(200, &entities::instance(&self.base)),
        }
    }

    fn error(&self, status: u16, message: Option<&str>) -> Answer {
        let usual = match status {
            401 => "The access token is invalid",
            403 => "This action is not allowed",
            404 => "Record not found",
            413 => "The request body is too large",
            429 => "Too many requests",
            503 => "There was a temporary problem serving your request, please try again",
            504 => "Gateway Timeout",
            400..=499 => "Validation failed: refused by the sandbox on request",
            _ => "We're sorry, but something went wrong on our end.",
        };
        refuse(status, message.unwrap_or(usual))
    }

    fn rates(&self) -> &Rates {
        &self.rates
    }

    fn rate_headers(&self, rate: &Rate, _now: DateTime<Utc>) -> Vec<(&'static str, String)> {
        vec![
            ("x-ratelimit-limit", rate.limit.to_string()),
            ("x-ratelimit-remaining", rate.remaining.to_string()),
            (
                "x-ratelimit-reset",
                rate.reset.to_rfc3339_opts(SecondsFormat::Micros, true),
            ),
        ]
    }

    fn replay(&self, act: &Act) {
        held(&self.side).apply(&Arc::new(act.clone()));
    }

    fn forget(&self) {
        *held(&self.side) = Side::default();
        self.rates.forget();
    }
}

/// Finds the operation of a request and checks what it says.
fn route(
    request: &Request,
    viewer: Option<String>,
    form: Result<Form, String>,
    peek: &mut Peek,
    now: DateTime<Utc>,
) -> Result<Op, Answer> {
    let own = viewer
        .clone()
        .ok_or_else(|| refuse(401, "This method requires an authenticated user"));
    let unprocessable = |why: String| refuse(422, &why);
    let parts = request.parts();
    match (&request.method, &parts[..]) {
        (&Method::POST, ["api", "v2", "media"]) => {
            (peek.op, peek.writes) = ("media.create", true);
            let own = own?;
            if request.content_type() != "multipart/form-data" {
                return Err(refuse(
                    422,
                    "Validation failed: a file is sent as multipart/form-data",
                ));
            }
            let new = form.and_then(NewMedia::read).map_err(unprocessable)?;
            Ok(Op::Upload(own, new))
        }
        (&Method::GET, ["api", "v1", "media", id]) => {
            peek.op = "media.get";
            Ok(Op::Look(own?, (*id).to_owned()))
        }
        (&Method::PUT, ["api", "v1", "media", id]) => {
            (peek.op, peek.writes) = ("media.update", true);
            let about = form
                .and_then(|form| About::read(&form.fields))
                .map_err(unprocessable);
            Ok(Op::Describe(own?, (*id).to_owned(), about?))
        }
        (&Method::POST, ["api", "v1", "statuses"]) => {
            (peek.op, peek.writes) = ("status.create", true);
            let own = own?;
            let new = form.and_then(|form| match form.files.first() {
                Some(file) => Err(format!(
                    "Validation failed: {} must not be a file",
                    file.field
                )),
                None => NewStatus::read(&form.fields, now),
            });
            Ok(Op::Post(own, peek.key.clone(), new.map_err(unprocessable)?))
        }
        (&Method::GET, ["api", "v1", "statuses", id]) => {
            peek.op = "status.get";
            Ok(Op::Status(viewer, (*id).to_owned()))
        }
        (&Method::GET, ["api", "v1", "scheduled_statuses", rest @ ..]) if rest.len() < 2 => {
            peek.op = "scheduled.get";
            Ok(Op::Scheduled(own?, rest.first().map(|id| (*id).to_owned())))
        }
        (&Method::GET, ["api", "v1", "accounts", "verify_credentials"]) => {
            peek.op = "account.verify";
            Ok(Op::Verify(own?))
        }
        (&Method::GET, ["api", "v1", "accounts", id, "statuses"]) => {
            peek.op = "account.statuses";
            Ok(Op::Statuses(
                viewer,
                (*id).to_owned(),
                request.query.clone(),
            ))
        }
        (&Method::GET, ["api", "v2", "instance"]) => {
            peek.op = "instance.get";
            Ok(Op::Instance)
        }
        _ => Err(refuse(404, "Not Found")),
    }
}
