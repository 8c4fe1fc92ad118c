//! The samples of `presswork dev`: what they are, and how each should end.

use serde_json::{Value, json};

use super::super::follow::stands;
use super::super::out::{Cell, CliError, Tone, cut, span};
use super::home::Home;
use super::show::Show;
use crate::engine::doors::{Doors, receipt};
use crate::intake::Answer;
use crate::job::{Job, JobId};
use crate::ledger::{Attempt, Ledger};
use crate::lifecycle::State;

/// How a sample should end.
#[derive(Clone, Copy)]
enum Expected {
    /// Completed at the first attempt.
    Completed,
    /// Completed after at least so many attempts.
    Recovered(usize),
    /// Completed after its answer was lost so often: asked again with the same key.
    Asked(usize),
    /// Completed, and not before this many seconds.
    Throttled(i64),
    /// A dead letter.
    Dead,
    /// Sent twice under one key: one job, completed.
    Once,
}

impl Expected {
    fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Recovered(_) => "completed at the third attempt",
            Self::Asked(_) => "completed, published once",
            Self::Throttled(_) => "completed after the wait it was told",
            Self::Dead => "dead",
            Self::Once => "one job, completed once",
        }
    }

    fn fits(self, job: &Job, attempts: &[Attempt], sent_as: usize) -> bool {
        let completed = job.state == State::Completed;
        // one that was given back, since its account is to be quiet, did nothing
        let ran = attempts
            .iter()
            .filter(|it| it.outcome != "released")
            .count();
        match self {
            Self::Completed => completed && ran == 1,
            Self::Recovered(least) | Self::Asked(least) => completed && least <= attempts.len(),
            Self::Throttled(seconds) => {
                let took = job
                    .ended_at
                    .map_or(0, |it| (it - job.created_at).num_seconds());
                completed && seconds <= took
            }
            Self::Dead => job.state == State::Dead,
            Self::Once => completed && ran == 1 && sent_as == 1,
        }
    }
}

struct Sample {
    name: &'static str,
    envelope: Value,
    expected: Expected,
    /// How often it is sent.
    times: usize,
    /// What is sent once it has completed, made of its result.
    then: Option<Then>,
}

/// From a result to the sample that goes on with it.
type Then = fn(&Value) -> Option<Sample>;

impl Sample {
    fn new(name: &'static str, envelope: Value, expected: Expected) -> Self {
        Self {
            name,
            envelope,
            expected,
            times: 1,
            then: None,
        }
    }
}

/// A picture of the text that was written.
fn drawn(written: &Value) -> Option<Sample> {
    let envelope = json!({"kind": "illustrate.image", "account": "studio", "payload": {
        "model": "gpt-image-1", "size": "1024x1024", "prompt": written["text"].as_str()?,
    }});
    let sample = Sample::new("a picture of that text", envelope, Expected::Completed);
    Some(Sample {
        then: Some(shelved),
        ..sample
    })
}

/// The picture that was drawn, put onto a shelf: the media store has it.
fn shelved(drawn: &Value) -> Option<Sample> {
    let media = drawn["images"][0]["media"].as_str()?;
    let key = format!("pictures/{}.png", media.rsplit(':').next()?);
    let envelope = json!({"kind": "upload.object", "account": "shelf", "payload": {
        "media": media, "key": key, "overwrite": true,
    }});
    let name = "an upload of that picture";
    let sample = Sample::new(name, envelope, Expected::Completed);
    Some(Sample {
        then: Some(shown),
        ..sample
    })
}

/// A post with the picture that was put there.
fn shown(shelved: &Value) -> Option<Sample> {
    let media = format!("media:sha256:{}", shelved["sha256"].as_str()?);
    let picture = json!({"media": media, "alt": "A fox in a print shop"});
    let envelope = json!({"kind": "post.mastodon", "account": "alice", "payload": {
        "text": "Written, drawn and posted.", "media": [picture],
    }});
    let name = "a post with that picture";
    Some(Sample::new(name, envelope, Expected::Completed))
}

/// Their texts differ from run to run: the sandbox counts its faults by text.
fn all(run: &str) -> Vec<Sample> {
    let post = |kind: &str, account: &str, text: &str| json!({"kind": kind, "account": account, "payload": {"text": text}});
    let toot = |text: &str| post("post.mastodon", "alice", &format!("{text} (run {run})"));
    let sample = Sample::new;
    let text = json!({"kind": "generate.text", "account": "studio",
        "payload": {"model": "gpt-4.1-mini", "prompt": "One sentence about a fox in a print shop."}});
    let stubborn = json!({"kind": "test.job", "payload": {"fail_times": 2, "sleep_ms": 150}});
    let link = "Read how nothing is published twice: https://example.com/once";
    vec![
        Sample {
            then: Some(drawn),
            ..sample("a text", text, Expected::Completed)
        },
        sample(
            "a post on Mastodon",
            toot("Hello from Presswork!"),
            Expected::Completed,
        ),
        sample(
            "a post with a link on Bluesky",
            post("post.bluesky", "bella", link),
            Expected::Completed,
        ),
        sample(
            "fails twice, then recovers",
            stubborn,
            Expected::Recovered(3),
        ),
        sample(
            "answer lost twice, asked again",
            toot("Are you there? [[fault:503 times=2]]"),
            Expected::Asked(3),
        ),
        sample(
            "a picture on Instagram",
            json!({"kind": "post.instagram", "account": "iris", "payload": {
                "caption": format!("Printed today (run {run})"),
                "images": [{"url": "https://example.com/fox.jpg", "alt": "A fox in a print shop"}],
            }}),
            Expected::Completed,
        ),
        sample(
            "answer lost on X, found there",
            post(
                "post.x",
                "xenia",
                &format!("Sent, unheard [[fault:act_reset]] (run {run})"),
            ),
            Expected::Asked(2),
        ),
        sample(
            "throttled, told to wait 2 s",
            toot("Patience [[fault:429 times=1 retry_after=2]]"),
            Expected::Throttled(2),
        ),
        sample(
            "refused for good",
            toot("Not like this [[fault:refuse times=1]]"),
            Expected::Dead,
        ),
        Sample {
            times: 2,
            ..sample(
                "sent twice under one key",
                toot("Only once"),
                Expected::Once,
            )
        },
    ]
}

/// The samples of one run.
pub(super) struct Samples {
    run: String,
    sent: Vec<(Sample, Vec<JobId>)>,
}

impl Samples {
    /// Sends them through the same door as everybody.
    pub(super) async fn enqueue(doors: &Doors, show: &Show) -> Result<Self, CliError> {
        let run = JobId::mint().to_string();
        // the end of an id is random, its beginning is the time
        let run = &run[run.len() - 8..];
        let mut samples = Self {
            run: run.to_owned(),
            sent: Vec::new(),
        };
        for sample in all(run) {
            samples.send(doors, show, sample).await?;
        }
        Ok(samples)
    }

    async fn send(
        &mut self,
        doors: &Doors,
        show: &Show,
        mut sample: Sample,
    ) -> Result<(), CliError> {
        let key = format!("dev-{}-{}", self.run, self.sent.len());
        sample.envelope["key"] = json!(key);
        let bytes = sample.envelope.to_string();
        let mut ids = Vec::new();
        for _ in 0..sample.times {
            let answer = doors.submit(bytes.as_bytes()).await;
            let answer = answer
                .map_err(|e| CliError::failed(format!("the sample \"{}\": {e}", sample.name)))?;
            let (Answer::New { id, .. } | Answer::Same { id, .. }) = answer else {
                return Err(CliError::failed(format!(
                    "the sample \"{}\" wasn't accepted: {}",
                    sample.name,
                    receipt(&answer)
                )));
            };
            show.enqueued(sample.name, id, matches!(answer, Answer::Same { .. }))?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        self.sent.push((sample, ids));
        Ok(())
    }

    /// Sends what goes on with the results of those that have completed.
    pub(super) async fn go_on(
        &mut self,
        doors: &Doors,
        ledger: &dyn Ledger,
        show: &Show,
    ) -> Result<(), CliError> {
        let mut follow = Vec::new();
        for (sample, ids) in self.sent.iter_mut().filter(|(it, _)| it.then.is_some()) {
            let Some(job) = ledger.job(ids[0]).await? else {
                continue;
            };
            if let Some(result) = result(&job) {
                follow.extend(sample.then.take().and_then(|it| it(&result)));
            }
        }
        for sample in follow {
            self.send(doors, show, sample).await?;
        }
        Ok(())
    }

    fn ids(&self) -> impl Iterator<Item = JobId> {
        self.sent.iter().flat_map(|(_, ids)| ids).copied()
    }

    /// Whether all have ended, or wait for a person.
    pub(super) async fn ended(&self, ledger: &dyn Ledger) -> Result<bool, CliError> {
        for id in self.ids() {
            let job = ledger.job(id).await?;
            if !job.is_some_and(|it| stands(it.state)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Shows what happened, and what to try next; whether each ended as it should.
    pub(super) async fn table(
        &self,
        ledger: &dyn Ledger,
        show: &Show,
        home: &Home<'_>,
    ) -> Result<bool, CliError> {
        let mut rows = Vec::new();
        let mut told = Vec::new();
        let mut all_good = true;
        let mut dead = None;
        for (sample, ids) in &self.sent {
            for id in ids {
                let Some(job) = ledger.job(*id).await? else {
                    return Err(CliError::failed(format!("job {id} is lost")));
                };
                let attempts = ledger.attempts(*id).await?;
                let good = sample.expected.fits(&job, &attempts, ids.len());
                let url = ledger
                    .effects(*id)
                    .await?
                    .into_iter()
                    .find_map(|it| it.receipt?.url);
                // an adapter names the platform's own site, where this post isn't
                let url = url.map(|it| {
                    if it.starts_with(home.sandbox) || it.starts_with("file:") {
                        it
                    } else {
                        format!("{}/", home.sandbox)
                    }
                });
                all_good &= good;
                if job.state == State::Dead {
                    dead.get_or_insert(*id);
                }
                let took = job.ended_at.map(|it| it - job.created_at);
                told.push(json!({"sample": sample.name, "id": id, "expected": sample.expected.word(), "state": job.state,
                    "good": good, "attempts": attempts.len(), "seconds": took.map(|it| it.num_milliseconds() as f64 / 1e3), "url": url}));
                rows.push([
                    Cell::from(sample.name),
                    sample.expected.word().into(),
                    Cell::toned(
                        if good { Tone::Good } else { Tone::Bad },
                        happened(&job, good),
                    ),
                    Cell::number(attempts.len()),
                    Cell::number(took.map_or("-".to_owned(), span)),
                    Cell::toned(Tone::Faint, url.unwrap_or_else(|| said(&job))),
                ]);
            }
        }
        show.table(rows, &told, all_good)?;
        show.next(&home.jobs_toml(), dead)?;
        Ok(all_good)
    }
}

fn happened(job: &Job, good: bool) -> String {
    match &job.failure {
        Some(failure) if job.state != State::Completed => {
            format!("{}: {}", job.state, failure.code)
        }
        _ if good => job.state.to_string(),
        _ => format!("{}, but otherwise", job.state),
    }
}

fn result(job: &Job) -> Option<Value> {
    serde_json::from_str(job.result.as_deref()?).ok()
}

/// What a job without a place to look at has to say: what was generated.
fn said(job: &Job) -> String {
    let result = result(job).unwrap_or_default();
    let told = [&result["text"], &result["images"][0]["media"]];
    let told = told.into_iter().find_map(Value::as_str);
    told.map_or_else(|| "-".to_owned(), |it| cut(it, 48))
}
