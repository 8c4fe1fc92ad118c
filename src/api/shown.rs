//! Jobs as they are shown: to operators with all that is known, to all others without hosts, evidence and
//! platforms' own words.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::guard::Caller;
use super::problem::seconds;
use crate::effect::{Effect, EffectId, EffectState, Evidence};
use crate::job::Job;
use crate::ledger::Attempt;
use crate::operate::receipt::Receipt;
use crate::outcome::Failure;

/// A job without its payload.
#[derive(Serialize)]
pub struct ShownJob<'a> {
    #[serde(flatten)]
    fields: Map<String, Value>,
    /// As the handler gave it: its numbers aren't rounded on the way.
    result: Option<&'a RawValue>,
}

impl<'a> ShownJob<'a> {
    /// The job, for whoever asks.
    pub fn of(job: &'a Job, caller: &Caller) -> Self {
        let bare = Job {
            result: None,
            ..job.clone()
        };
        let mut fields = object(&bare);
        fields.remove("result");
        fields.insert("failure".to_owned(), failure(job.failure.as_ref(), caller));
        if !caller.is_operator() {
            fields.remove("run");
        }
        let result = job.result.as_deref();
        Self {
            fields,
            result: result.and_then(|it| serde_json::from_str(it).ok()),
        }
    }
}

fn object(it: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(it) {
        Ok(Value::Object(it)) => it,
        _ => Map::new(),
    }
}

/// A failure with the four members of every error; in the handler's words for operators.
fn failure(failure: Option<&Failure>, caller: &Caller) -> Value {
    let Some(failure) = failure else {
        return Value::Null;
    };
    let mut fields = object(failure);
    let wait = failure.retry_after().and_then(|it| it.to_std().ok());
    for (name, value) in [
        ("message", failure.told().into()),
        ("recoverable", failure.is_recoverable().into()),
        ("retry_after", wait.map(seconds).into()),
    ] {
        fields.insert(name.to_owned(), value);
    }
    if caller.is_operator() {
        fields.insert("detail".to_owned(), failure.message.clone().into());
    }
    fields.into()
}

/// An attempt, for whoever asks.
pub fn attempt(it: &Attempt, caller: &Caller) -> Map<String, Value> {
    let mut fields = object(it);
    fields.insert("failure".to_owned(), failure(it.failure.as_ref(), caller));
    if !caller.is_operator() {
        fields.remove("host");
    }
    fields
}

/// An effect, without what it keeps for its repeats.
#[derive(Serialize)]
pub struct ShownEffect<'a> {
    id: EffectId,
    step: &'a str,
    op: &'a str,
    account: &'a str,
    state: EffectState,
    sends: u32,
    url: Option<&'a str>,
    remote_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<&'a [Evidence]>,
}

impl<'a> ShownEffect<'a> {
    /// The effect, for whoever asks.
    pub fn of(effect: &'a Effect, caller: &Caller) -> Self {
        let receipt = effect.receipt.as_ref();
        Self {
            id: effect.id,
            step: &effect.step,
            op: &effect.op,
            account: &effect.account,
            state: effect.state,
            sends: effect.sends,
            url: receipt.and_then(|it| it.url.as_deref()),
            remote_id: receipt.and_then(|it| it.remote_id.as_deref()),
            evidence: caller.is_operator().then_some(&effect.evidence),
        }
    }
}

/// A receipt, for whoever asks.
pub fn receipt(mut receipt: Receipt, caller: &Caller) -> Receipt {
    if !caller.is_operator() {
        for sent in &mut receipt.effects {
            sent.host = None;
            sent.resolved_by = None;
            sent.evidence.clear();
        }
    }
    receipt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Class, Scope};
    use crate::token::Grant;

    fn caller(scopes: &str) -> Caller {
        let grant = Grant::read(scopes, Some("acme".to_owned()));
        Caller::with(grant.expect("they are scopes"))
    }

    #[test]
    fn a_failure_tells_users_what_they_can_do_and_operators_what_happened() {
        let words = "https://social.example:8443 answered 503 from /srv/app";
        let wait = chrono::Duration::milliseconds(1_500);
        let failed = Failure::transient("http_503", words).after(Some(wait));
        let told = failure(Some(&failed), &caller("read"));
        assert_eq!(told["code"], "http_503");
        assert_eq!(told["recoverable"], true);
        assert_eq!(told["retry_after"], 2);
        assert_eq!(told["message"], failed.told());
        assert!(!told.to_string().contains("social.example"), "{told}");
        let told = failure(Some(&failed), &caller("operate"));
        assert_eq!(
            (&told["detail"], &told["message"]),
            (&words.into(), &failed.told().into())
        );
        assert_eq!(failure(None, &caller("read")), Value::Null);
        let lasting = Failure::permanent("too_long", words);
        let told = failure(Some(&lasting), &caller("read"));
        assert_eq!(told["recoverable"], false);
        assert_eq!(told["retry_after"], Value::Null);
    }

    #[test]
    fn every_failure_has_words_that_end_as_sentences_do() {
        for class in Class::ALL {
            for scope in Scope::ALL {
                let told = Failure::new(*class, *scope, "x", "y").told();
                assert!(told.ends_with('.') && !told.contains('`'), "{told}");
            }
        }
    }

    #[test]
    fn an_attempt_names_its_host_to_operators_only() {
        let at = crate::clock::Time::UNIX_EPOCH;
        let ended = Attempt {
            epoch: 1,
            number: 1,
            host: "press-7".to_owned(),
            began_at: at,
            ended_at: at,
            outcome: "failed".to_owned(),
            failure: Some(Failure::permanent("x", "of press-7")),
        };
        let told = |scopes: &str| Value::from(attempt(&ended, &caller(scopes))).to_string();
        assert!(!told("read").contains("press-7"), "{}", told("read"));
        assert!(told("operate").contains("press-7"));
    }
}
