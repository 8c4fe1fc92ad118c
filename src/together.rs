//! Several envelopes that go together: all of them are written down, or none.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::content::Reaction;
use crate::intake::{Answer, Refusal, answer, differs, repeats};
use crate::job::NewJob;
use crate::json::Violation;
use crate::ledger::{Ledger, LedgerError, Reason, Together};

/// The one for which none of several was accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Culprit {
    /// Its place among them, from 0; `None` where the ledger didn't say.
    pub at: Option<usize>,
    /// Why: never `New` or `Same`.
    pub answer: Answer,
}

/// Writes several down, all or none. One answer each, in order, or the first that stood against it.
/// Two of them may share a key, or say the same, as two that come one after the other.
///
/// # Errors
/// When the ledger is away: then none was written, or all were and the same call again says `Same`.
pub async fn accept_together(
    ledger: &dyn Ledger,
    jobs: &[NewJob],
) -> Result<Result<Vec<Answer>, Culprit>, LedgerError> {
    let twins = match twins(jobs) {
        Ok(it) => it,
        Err(culprit) => return Ok(Err(culprit)),
    };
    let places: Vec<usize> = (0..jobs.len())
        .filter(|it| twins[*it].key.is_none())
        .collect();
    let fresh: Cow<'_, [NewJob]> = match places.len() == jobs.len() {
        true => jobs.into(),
        false => places.iter().map(|it| jobs[*it].clone()).collect(),
    };
    let found = match ledger.accept_together(&fresh).await {
        Ok(Together::Written(found)) => found,
        Ok(Together::Refused { at, why }) => {
            let answer = answer(ledger, &fresh[at], why).await?;
            let at = Some(places[at]);
            return Ok(Err(Culprit { at, answer }));
        }
        Err(LedgerError::Row(message)) => {
            let violations = vec![Violation::new("", message)];
            let answer = Answer::Refused(Refusal::new(Reason::Refused, None, violations));
            let at = (jobs.len() == 1).then_some(0);
            return Ok(Err(Culprit { at, answer }));
        }
        Err(e) => return Err(e),
    };
    let mut found = found.into_iter();
    let mut answers: Vec<Answer> = Vec::with_capacity(jobs.len());
    for (job, twin) in jobs.iter().zip(twins) {
        let mut told = match twin.key {
            Some(first) => Answer::Same {
                id: answers[first].id().unwrap_or(jobs[first].id),
                differs: differs(&jobs[first].options, &job.options),
            },
            None => match found.next() {
                Some(acceptance) => answer(ledger, job, acceptance).await?,
                None => return Err(LedgerError::Other("it left out an answer".to_owned())),
            },
        };
        if let (Answer::New { repeats, .. }, Some(first)) = (&mut told, twin.words) {
            *repeats = repeats.or_else(|| answers[first].id());
        }
        answers.push(told);
    }
    Ok(Ok(answers))
}

/// The places of earlier ones of several that go together.
#[derive(Clone, Copy, Debug, Default)]
struct Twins {
    /// One with the same key.
    key: Option<usize>,
    /// One that says the same for the same account, of which this one's guard wants to know.
    words: Option<usize>,
}

fn twins(jobs: &[NewJob]) -> Result<Vec<Twins>, Culprit> {
    let (mut keys, mut words) = (HashMap::new(), HashMap::new());
    let refused = |at: usize, reason, violation| Culprit {
        at: Some(at),
        answer: Answer::Refused(Refusal::new(reason, Some(&jobs[at].kind), vec![violation])),
    };
    let mut all = Vec::with_capacity(jobs.len());
    for (at, job) in jobs.iter().enumerate() {
        let key = job.key.as_deref();
        let key = key.and_then(|key| match keys.entry((&*job.tenant, &*job.kind, key)) {
            Entry::Occupied(first) => Some(*first.get()),
            Entry::Vacant(place) => {
                place.insert(at);
                None
            }
        });
        if let Some(first) = key.filter(|it: &usize| jobs[*it].digest != job.digest) {
            let message = format!("is that of [{first}] beside it, with another payload");
            return Err(refused(
                at,
                Reason::Conflict,
                Violation::new("/key", message),
            ));
        }
        let said = job.said.as_ref().filter(|_| key.is_none());
        let said = said.map(|it| (it, *words.entry((&job.account, it.digest)).or_insert(at)));
        let first = said.filter(|(it, first)| *first != at && !it.again);
        if let Some((_, first)) = first.filter(|it| it.0.guard.reaction == Reaction::Refuse) {
            let message = repeats(&format!("[{first}] beside it"));
            return Err(refused(at, Reason::Repeats, Violation::new("", message)));
        }
        let words = first.map(|it| it.1);
        all.push(Twins { key, words });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Guard, Said};
    use crate::job::{DEFAULT_TENANT, JobId, Priority};
    use crate::json::Digest;

    fn job(key: Option<&str>, payload: &str) -> NewJob {
        NewJob {
            id: JobId::mint(),
            kind: "test.job".to_owned(),
            lane: "default".to_owned(),
            tenant: DEFAULT_TENANT.to_owned(),
            account: Some("news".to_owned()),
            priority: Priority::Normal,
            key: key.map(str::to_owned),
            payload: payload.into(),
            digest: Digest::of_bytes(payload.as_bytes()),
            run_at: None,
            not_after: None,
            late: None,
            late_after_s: None,
            attempts_max: 1,
            timeout_s: 1,
            age_max_s: 1,
            labels: [].into(),
            traceparent: None,
            reply_to: None,
            options: "{}".to_owned(),
            said: None,
        }
    }

    fn says(text: &str, reaction: Reaction, again: bool) -> NewJob {
        let guard = Guard {
            reaction,
            ..Guard::default()
        };
        let digest = Digest::of_bytes(text.as_bytes());
        let said = Some(Said {
            digest,
            guard,
            again,
        });
        NewJob {
            said,
            ..job(None, text)
        }
    }

    #[test]
    fn one_that_stands_against_another_beside_it_is_told() {
        let keyed = |payload| job(Some("k"), payload);
        let same = twins(&[keyed("1"), job(None, "1"), keyed("1")]).unwrap();
        assert_eq!(
            same.iter().map(|it| it.key).collect::<Vec<_>>(),
            [None, None, Some(0)]
        );
        let culprit = twins(&[job(None, "1"), keyed("1"), keyed("2")])
            .err()
            .unwrap();
        assert_eq!(culprit.at, Some(2));
        assert!(matches!(&culprit.answer, Answer::Refused(it) if it.reason == Reason::Conflict));
        let other = NewJob {
            tenant: "acme".to_owned(),
            ..keyed("2")
        };
        assert!(twins(&[keyed("1"), other]).is_ok());
    }

    #[test]
    fn two_that_say_the_same_are_two_that_come_one_after_the_other() {
        let first = says("a", Reaction::Allow, false);
        let refused = |it: NewJob| twins(&[first.clone(), it]).err();
        let culprit = refused(says("a", Reaction::Refuse, false)).unwrap();
        assert_eq!(culprit.at, Some(1));
        assert!(matches!(&culprit.answer, Answer::Refused(it) if it.reason == Reason::Repeats));
        assert!(refused(says("b", Reaction::Refuse, false)).is_none());
        assert!(refused(says("a", Reaction::Refuse, true)).is_none());
        let warned = twins(&[first.clone(), says("a", Reaction::Warn, false)]).unwrap();
        assert_eq!(warned[1].words, Some(0));
    }
}
