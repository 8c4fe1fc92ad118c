//! Responses: texts that are asked for, read by their id, stopped, and told of by signed call-backs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::Method;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::super::{
    acts::{Act, ActLog, Draft, held},
    clock::Clock,
    exchange::{Answer, Peek, Request},
    hook::{Letter, Sent},
    settings::{Ends, Hook, Settings, Values},
};
use super::ask::{self, Ask};
use super::said::{COMPLETION_USD, NAME, PROMPT_USD, refusal, refuse, tokens, write};

/// A response, by what was recorded of it.
#[derive(Debug)]
struct Work {
    act: Arc<Act>,
    /// When it was stopped.
    stopped: Option<DateTime<Utc>>,
}

/// The responses, and the call-backs about them.
#[derive(Debug)]
pub(super) struct Responses {
    acts: Arc<ActLog>,
    clock: Arc<Clock>,
    settings: Arc<Settings>,
    works: Arc<Mutex<HashMap<String, Work>>>,
    /// Call-backs that are still to be sent; they end with the sandbox.
    letters: Mutex<JoinSet<()>>,
    /// Those that were sent, and how they were answered.
    sent: Arc<Mutex<Vec<Sent>>>,
}

/// A request about responses that was understood.
pub(in super::super) enum About {
    Begin(String, Box<Ask>, Option<String>),
    Look(String, String),
    Stop(String, String),
}

impl Responses {
    pub(super) fn new(acts: Arc<ActLog>, clock: Arc<Clock>, settings: Arc<Settings>) -> Responses {
        Responses {
            acts,
            clock,
            settings,
            works: Arc::default(),
            letters: Mutex::default(),
            sent: Arc::default(),
        }
    }

    /// The call-backs that were sent so far.
    pub(super) fn sent(&self) -> Vec<Sent> {
        held(&self.sent).clone()
    }

    pub(super) fn replay(&self, act: &Act) {
        let mut works = held(&self.works);
        match act.op.as_str() {
            "response.create" => {
                let act = Arc::new(act.clone());
                let stopped = None;
                works.insert(act.id.clone(), Work { act, stopped });
            }
            "response.cancel" => {
                if let Some(it) = works.get_mut(&act.id) {
                    it.stopped.get_or_insert(act.at);
                }
            }
            _ => {}
        }
    }

    pub(super) fn forget(&self) {
        held(&self.works).clear();
        held(&self.letters).abort_all();
        held(&self.sent).clear();
    }
}

/// Understands a request below `/v1/responses`.
///
/// # Errors
/// The refusal.
pub(super) fn read(request: &Request, account: String, peek: &mut Peek) -> Result<About, Answer> {
    let parts = request.parts();
    Ok(match (&request.method, &parts[2..]) {
        (&Method::POST, []) => {
            (peek.op, peek.writes) = ("response.create", true);
            peek.text = ask::text_of(&request.body);
            if request.content_type() != "application/json" {
                let said = "Content-Type must be application/json.";
                return Err(refuse(415, said, None, Some("unsupported_content_type")));
            }
            let ask = ask::read(&request.body).map_err(refusal)?;
            About::Begin(account, Box::new(ask), peek.key.clone())
        }
        (&Method::GET, [id]) => {
            (peek.op, peek.key) = ("response.get", Some((*id).to_owned()));
            About::Look(account, (*id).to_owned())
        }
        (&Method::POST, [id, "cancel"]) => {
            (peek.op, peek.writes) = ("response.cancel", true);
            peek.key = Some((*id).to_owned());
            About::Stop(account, (*id).to_owned())
        }
        (method, _) => {
            let said = format!("Invalid URL ({method} {})", request.path);
            return Err(refuse(404, &said, None, None));
        }
    })
}

impl Work {
    /// When it ends by itself.
    fn ends_at(&self) -> DateTime<Utc> {
        let ms = self.act.detail["work_ms"].as_i64().unwrap_or(0);
        self.act.at + TimeDelta::milliseconds(ms)
    }

    fn status(&self, now: DateTime<Utc>) -> &str {
        let ends = self.ends_at();
        match self.stopped {
            Some(at) if at < ends => "cancelled",
            _ if now < self.act.at + (ends - self.act.at) / 4 => "queued",
            _ if now < ends => "in_progress",
            _ => self.act.detail["ends"].as_str().unwrap_or("completed"),
        }
    }

    /// As the platform tells it.
    fn told(&self, now: DateTime<Utc>) -> Value {
        self.as_it_stands(self.status(now))
    }

    fn as_it_stands(&self, status: &str) -> Value {
        let detail = &self.act.detail;
        let ended = !matches!(status, "queued" | "in_progress");
        let written = matches!(status, "completed" | "incomplete");
        let mut it = detail["asked"].clone();
        it["id"] = self.act.id.as_str().into();
        it["object"] = "response".into();
        it["created_at"] = self.act.at.timestamp().into();
        it["status"] = status.into();
        it["output"] = json!([]);
        for absent in ["error", "incomplete_details", "usage", "completed_at"] {
            it[absent] = Value::Null;
        }
        if status == "completed" {
            it["completed_at"] = self.ends_at().timestamp().into();
        }
        if status == "failed" {
            it["error"] = json!({"code": "server_error", "message": "The model gave up, as it was asked to."});
        }
        if status == "incomplete" {
            it["incomplete_details"] = json!({"reason": "max_output_tokens"});
        }
        if written {
            it["output"] = detail["output"].clone();
        }
        if ended && status != "cancelled" {
            it["usage"] = detail["usage"].clone();
        }
        it
    }
}

impl Responses {
    pub(super) async fn response(&self, about: About) -> Answer {
        match about {
            About::Begin(account, ask, key) => self.begin(account, &ask, key).await,
            About::Look(account, id) => self.of(&account, &id, |work| {
                Answer::json(200, &work.told(self.clock.now()))
            }),
            About::Stop(account, id) => self.stop(&account, &id),
        }
    }

    fn of(&self, account: &str, id: &str, then: impl FnOnce(&Work) -> Answer) -> Answer {
        match held(&self.works).get(id) {
            Some(work) if work.act.account == account => then(work),
            _ => {
                let said = format!("Response with id '{id}' not found.");
                refuse(404, &said, None, None)
            }
        }
    }

    async fn begin(&self, account: String, ask: &Ask, key: Option<String>) -> Answer {
        let (now, values) = (self.clock.now(), self.settings.now());
        let id = format!("resp_{}", uuid::Uuid::new_v4().simple());
        let (text, whole) = write(&ask.chat, 0);
        let (input, output) = (tokens(&ask.chat.prompt), tokens(&text));
        let ends = match values.openai_work_ends {
            Ends::Completed if !whole => "incomplete",
            it => it.word(),
        };
        let work_ms = if ask.background {
            values.openai_work_ms
        } else {
            0
        };
        let message = json!({
            "id": format!("msg_{}", uuid::Uuid::new_v4().simple()), "type": "message",
            "status": if whole { "completed" } else { "incomplete" }, "role": "assistant",
            "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
        });
        let act = self.acts.record(now, Draft {
            platform: NAME,
            op: "response.create",
            account,
            key,
            id,
            url: None,
            text,
            media: Vec::new(),
            detail: json!({
                "prompt": ask.chat.prompt, "asked": ask.echo(), "work_ms": work_ms, "ends": ends,
                "cost_usd": input as f64 * PROMPT_USD + output as f64 * COMPLETION_USD,
                "output": [
                    {"id": "rs_1", "type": "reasoning", "summary": []},
                    message,
                ],
                "usage": {
                    "input_tokens": input, "output_tokens": output, "total_tokens": input + output,
                    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                    "output_tokens_details": {"reasoning_tokens": 0},
                },
            }),
        });
        self.replay(&act);
        if ask.background {
            self.call_back(&act.id, &values, Duration::from_millis(work_ms.into()))
                .await;
        }
        self.of(&act.account, &act.id, |work| {
            let told = match ask.background {
                // however soon it is done
                true => work.as_it_stands("queued"),
                false => work.told(self.clock.now()),
            };
            Answer::json(200, &told)
        })
    }

    fn stop(&self, account: &str, id: &str) -> Answer {
        let now = self.clock.now();
        let mut news = false;
        let answer = self.of(account, id, |work| {
            if work.act.detail["asked"]["background"] != true {
                let said = "Only responses created with background=true can be cancelled.";
                return refuse(400, said, None, None);
            }
            news = work.stopped.is_none() && now < work.ends_at();
            Answer::json(200, &work.told(now))
        });
        if !news {
            return answer;
        }
        let act = self.acts.record(
            now,
            Draft {
                platform: NAME,
                op: "response.cancel",
                account: account.to_owned(),
                key: None,
                id: id.to_owned(),
                url: None,
                text: String::new(),
                media: Vec::new(),
                detail: Value::Null,
            },
        );
        self.replay(&act);
        self.of(account, id, |work| Answer::json(200, &work.told(now)))
    }

    /// Sends what the settings ask for about a response, when it has ended.
    async fn call_back(&self, id: &str, values: &Values, work: Duration) {
        let (url, secret) = (&values.openai_hook_url, &values.openai_hook_secret);
        let letter = Letter::of(url.as_deref(), secret.as_ref(), values.openai_hook);
        let Some(letter) = letter else { return };
        let (works, clock) = (Arc::clone(&self.works), Arc::clone(&self.clock));
        let (id, sent) = (id.to_owned(), Arc::clone(&self.sent));
        let plan = values.openai_hook;
        let late = Duration::from_millis(values.openai_hook_late_ms.into());
        let wait = match plan {
            Hook::Late => work + late,
            _ => work,
        };
        let post = async move {
            tokio::time::sleep(wait).await;
            let status = {
                let works = held(&works);
                let work = works.get(&id);
                work.map(|it| it.status(clock.now()).to_owned())
            };
            let Some(status) = status else { return };
            let event = format!("response.{status}");
            let body = json!({
                "id": format!("evt_{}", uuid::Uuid::new_v4().simple()), "object": "event",
                "created_at": Utc::now().timestamp(), "type": event, "data": {"id": id},
            });
            let about = (event.as_str(), id.as_str());
            letter.post(about, &body.to_string(), plan, &sent).await;
        };
        match plan {
            Hook::Early => post.await,
            _ => {
                let mut letters = held(&self.letters);
                while letters.try_join_next().is_some() {}
                letters.spawn(post);
            }
        }
    }
}
