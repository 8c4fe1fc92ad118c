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

/// What producers were told.
#[derive(Debug, Default)]
pub struct Notes(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    by_key: BTreeMap<String, Told>,
    /// How many were acknowledged, by door.
    accepted: BTreeMap<Door, usize>,
}

impl Notes {
    fn held(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, jobs: &[Job]) {
        let at = now();
        let mut notes = self.held();
        for it in jobs {
            notes.by_key.entry(it.key.clone()).or_insert_with(|| Told {
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
        let mut notes = self.held();
        let Some(told) = notes.by_key.get_mut(key) else {
            return;
        };
        if told.accepted.is_none() {
            told.accepted = Some(now());
            let door = told.door;
            *notes.accepted.entry(door).or_default() += 1;
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Told> {
        self.held().by_key.values().cloned().collect()
    }

    /// How many were asked for.
    pub fn brought(&self) -> usize {
        self.held().by_key.len()
    }

    /// Jobs that were acknowledged: by a door, or by any.
    pub fn accepted_by(&self, door: Option<Door>) -> usize {
        let notes = self.held();
        let by = notes.accepted.iter();
        by.filter(|it| door.is_none_or(|door| *it.0 == door))
            .map(|it| it.1)
            .sum()
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
    let mut mine = (0..wishes.jobs)
        .map(|n| (n, job(wishes, n)))
        .filter(|(_, it)| it.door == door)
        .peekable();
    while mine.peek().is_some() {
        let most = *released.borrow_and_update();
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            let Some((_, it)) = mine.next_if(|it| it.0 < most) else {
                break;
            };
            chunk.push(it);
        }
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
    }
    Ok(())
}

/// Brings jobs to any daemon that answers, until all are acknowledged.
///
/// # Errors
/// When they are refused for good.
pub async fn by_http(world: &World, notes: &Notes, jobs: &[Job]) -> anyhow::Result<()> {
    let mut rest: Vec<&Job> = jobs.iter().collect();
    notes.sent(jobs);
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

async fn by_inbox(world: &World, notes: &Notes, jobs: &[Job]) -> anyhow::Result<()> {
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
