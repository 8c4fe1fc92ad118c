//! Envelopes that go together: all of a group are written down, or none; groups that wait for the same
//! disk share a commit as long as none of them is refused.

use std::future::Future;
use std::sync::Arc;

use super::batcher::Batcher;
use super::shared::Shared;
use crate::crashpoint;
use crate::intake::Answer;
use crate::job::NewJob;
use crate::ledger::LedgerError;
use crate::together::{Culprit, accept_together};

/// The answers to a group's envelopes, in order, or the one for which none was taken.
pub type Grouped = Result<Vec<Answer>, Culprit>;
/// What writes groups down.
pub type Grouping = Batcher<Vec<NewJob>, Result<Grouped, Arc<LedgerError>>>;

/// Groups that are gathered at once.
const GROUPS: usize = 64;
/// Batches of them that are written at once.
const IN_FLIGHT: usize = 2;
/// Jobs of several groups that share a commit, at most.
const JOBS: usize = 1_000;

/// Starts gathering groups.
pub fn start(shared: Arc<Shared>) -> Grouping {
    Batcher::start(GROUPS, IN_FLIGHT, move |groups: Vec<Vec<NewJob>>| {
        let shared = shared.clone();
        async move {
            let mut answers = Vec::with_capacity(groups.len());
            while let Some(group) = groups.get(answers.len()) {
                let rest = &groups[answers.len()..];
                let mut jobs = group.len();
                let fits = |it: &&Vec<NewJob>| {
                    jobs += it.len();
                    jobs <= JOBS
                };
                let more = rest[1..].iter().take_while(fits).count();
                answers.extend(write(&shared, &rest[..=more]).await);
            }
            answers
        }
    })
}

/// Writes groups down: in one commit, or, where one is refused, each in its own.
async fn write(shared: &Shared, groups: &[Vec<NewJob>]) -> Vec<Result<Grouped, Arc<LedgerError>>> {
    if let [_, _, ..] = groups {
        match commit(shared, &groups.concat()).await {
            Ok(Ok(answers)) => {
                let mut answers = answers.into_iter();
                let of = |group: &Vec<NewJob>| Ok(Ok(answers.by_ref().take(group.len()).collect()));
                return groups.iter().map(of).collect();
            }
            Ok(Err(_)) => {}
            Err(e) => return groups.iter().map(|_| Err(e.clone())).collect(),
        }
    }
    let mut answers = Vec::with_capacity(groups.len());
    for group in groups {
        answers.push(commit(shared, group).await);
    }
    answers
}

async fn commit(shared: &Shared, jobs: &[NewJob]) -> Result<Grouped, Arc<LedgerError>> {
    let grouped = answered(accept_together(&*shared.ledger, jobs)).await?;
    if let Ok(answers) = &grouped {
        shared.hint(jobs, answers);
    }
    Ok(grouped)
}

/// Work at the ledger after which somebody is told that jobs are there.
///
/// # Errors
/// Those of the work.
pub async fn answered<T>(
    work: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, LedgerError> {
    crashpoint!("intake.before_commit", LedgerError::Away)?;
    let done = work.await?;
    crashpoint!("intake.after_commit", LedgerError::Away)?;
    Ok(done)
}
