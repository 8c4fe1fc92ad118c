//! The producers: they bring jobs by two doors, insist until they are acknowledged, as good ones do, and
//! note what they were told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use tokio::sync::watch;

use super::evidence::{Door, Told};
use super::plan::{Job, Wishes, job};
use super::talk;
use super::world::{World, now};

/// Jobs that are brought at once.
const CHUNK: usize = 10;
/// The wait before something is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// What producers were told, by key.
#[derive(Debug, Default)]
pub struct Notes(Mutex<BTreeMap<String, Told>>);

impl Notes {
    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, jobs: &[&Job]) {
        let at = now();
        let mut notes = self.held();
        for it in jobs {
            notes.entry(it.key.clone()).or_insert_with(|| Told {
                key: it.key.clone(),
                kind: it.kind.clone(),
                door: it.door,
                sent: Some(at),
                accepted: None,
                meant: it.meant.map(str::to_owned),
            });
        }
    }

    fn accepted(&self, key: &str) {
        if let Some(told) = self.held().get_mut(key) {
            told.accepted.get_or_insert_with(now);
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Told> {
        self.held().values().cloned().collect()
    }

    /// Jobs that were acknowledged: by a door, or by any.
    pub fn accepted_by(&self, door: Option<Door>) -> usize {
        let notes = self.held();
        let by = notes
            .values()
            .filter(|it| door.is_none_or(|door| it.door == door));
        by.filter(|it| it.accepted.is_some()).count()
    }
}

/// Brings the jobs of the plan that come in by `door`, as far as they are released. Ends when all of
/// `wishes.jobs` were acknowledged.
///
/// # Errors
/// When a door refuses a job for good.
pub async fn bring(
    world: &World,
    wishes: &Wishes,
    notes: &Notes,
    door: Door,
    mut released: watch::Receiver<usize>,
) -> anyhow::Result<()> {
    let jobs: Vec<(usize, Job)> = (0..wishes.jobs)
        .map(|n| (n, job(wishes, n)))
        .filter(|(_, it)| it.door == door)
        .collect();
    let mut at = 0;
    while at < jobs.len() {
        let most = *released.borrow_and_update();
        let rest = jobs[at..].iter().take(CHUNK);
        let chunk: Vec<&Job> = rest.take_while(|it| it.0 < most).map(|it| &it.1).collect();
        if chunk.is_empty() {
            // an error is the end of the proof
            if released.changed().await.is_err() {
                return Ok(());
            }
            continue;
        }
        match door {
            Door::Http => by_http(world, notes, &chunk).await?,
            Door::Inbox => by_inbox(world, notes, &chunk).await?,
        }
        at += chunk.len();
    }
    Ok(())
}

/// Brings jobs to any daemon that answers, until all are acknowledged.
///
/// # Errors
/// When they are refused for good.
pub async fn by_http(world: &World, notes: &Notes, jobs: &[&Job]) -> anyhow::Result<()> {
    let mut rest: Vec<&Job> = jobs.to_vec();
    notes.sent(&rest);
    let apis: Vec<SocketAddr> = world.hosts.iter().map(|it| it.api).collect();
    for api in apis.iter().cycle() {
        let body: Vec<Value> = rest.iter().map(|it| it.envelope.clone()).collect();
        let body = Value::Array(body);
        if let Ok((status, said)) = talk::http(*api, "POST", "/v1/jobs", Some(&body)).await {
            if (400..500).contains(&status) && !matches!(status, 408 | 429) {
                bail!("a job of the proof is refused: {status} {said}");
            }
            let answers: Vec<Value> = serde_json::from_str(&said).unwrap_or_default();
            let mut left = Vec::new();
            for (n, it) in rest.into_iter().enumerate() {
                let answer = answers.get(n).unwrap_or(&Value::Null);
                match answer["status"].as_u64() {
                    Some(200..300) => notes.accepted(&it.key),
                    Some(400..500) if answer["status"] != 429 => {
                        bail!("a job of the proof is refused: {answer}")
                    }
                    _ => left.push(it),
                }
            }
            rest = left;
        }
        if rest.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}

async fn by_inbox(world: &World, notes: &Notes, jobs: &[&Job]) -> anyhow::Result<()> {
    let Some(port) = world.redis_port else {
        bail!("there is no Redis, and a job of the plan comes in by its inbox");
    };
    notes.sent(jobs);
    let envelopes: Vec<String> = jobs.iter().map(|it| it.envelope.to_string()).collect();
    let mut words: Vec<&[u8]> = vec![b"RPUSH", b"presswork:inbox"];
    words.extend(envelopes.iter().map(String::as_bytes));
    loop {
        if talk::redis(port, &words).await.is_ok() {
            break;
        }
        tokio::time::sleep(AGAIN).await;
    }
    for it in jobs {
        notes.accepted(&it.key);
    }
    Ok(())
}
