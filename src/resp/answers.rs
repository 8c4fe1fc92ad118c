//! What came of jobs, as RESP says it: a number, ids, or an error that tells what was wrong.

use super::reply::Reply;
use super::session::{Push, Queued};
use crate::engine::doors::{Busy, Doors};
use crate::engine::group::Grouped;
use crate::intake::{Answer, Within};
use crate::ledger::Reason;
use crate::telemetry::metrics;
use crate::together::Culprit;

/// This door's name in metrics.
const DOOR: &str = "resp";

/// Takes what a command brings; the answer, and whether there is no use in asking on.
pub async fn take(doors: &Doors, push: &Push) -> (Reply, bool) {
    let within = within(push);
    let answered = match push.envelopes.as_slice() {
        [one] => match doors.submit_within(one, within).await {
            Ok(answer) if answer.id().is_none() || is_conflict(&answer) => {
                Ok(Err(Culprit { at: None, answer }))
            }
            answer => answer.map(|it| Ok(vec![it])),
        },
        many => {
            let many: Vec<_> = many.iter().map(|it| (it.as_slice(), within)).collect();
            doors.submit_together(&many).await
        }
    };
    match counted(answered) {
        Ok(Ok(answers)) => (taken(push, &answers), false),
        Ok(Err(culprit)) => {
            let of = push.envelopes.len();
            (Reply::Error(refused(&culprit, culprit.at, of)), false)
        }
        Err(busy) => (away(&busy), busy == Busy::Stopping),
    }
}

/// What alone is taken of it.
fn within(push: &Push) -> Within<'_> {
    Within {
        tenant: push.tenant.as_deref(),
        grant: push.by.as_ref().map(|it| &it.grant),
    }
}

/// Takes what a transaction brings, all or none.
pub async fn together(doors: &Doors, queued: &[Queued]) -> (Reply, bool) {
    let pushes = || {
        queued.iter().enumerate().filter_map(|(at, it)| match it {
            Queued::Take(push) => Some((at, push)),
            Queued::Say(_) => None,
        })
    };
    let all: Vec<_> = pushes()
        .flat_map(|(_, push)| {
            let within = within(push);
            push.envelopes.iter().map(move |it| (it.as_slice(), within))
        })
        .collect();
    let answered = match all.is_empty() {
        true => Ok(Ok(Vec::new())),
        false => doors.submit_together(&all).await,
    };
    let answers = match counted(answered) {
        Ok(Ok(answers)) => answers,
        Ok(Err(culprit)) => {
            let mut place = culprit.at;
            let found = pushes().find_map(|(at, push)| {
                let of = push.envelopes.len();
                let within = place.filter(|it| *it < of);
                place = place.and_then(|it| it.checked_sub(of));
                Some((at, within?, of))
            });
            let told = match found {
                Some((at, within, of)) => {
                    format!("command [{at}]: {}", refused(&culprit, Some(within), of))
                }
                None => refused(&culprit, None, all.len()),
            };
            let told = format!("EXECABORT Transaction discarded because of {told}");
            return (Reply::Error(told), false);
        }
        Err(busy) => return (away(&busy), busy == Busy::Stopping),
    };
    let mut rest = answers.as_slice();
    let replies = queued.iter().map(|it| match it {
        Queued::Say(reply) => reply.clone(),
        Queued::Take(push) => {
            let (own, more) = rest.split_at(push.envelopes.len().min(rest.len()));
            rest = more;
            taken(push, own)
        }
    });
    (Reply::Array(replies.collect()), false)
}

/// What is said where no answer came in time.
pub fn late(seconds: f32) -> Reply {
    Reply::Error(format!(
        "LOADING no answer within {seconds} s; it may have been done: send the same again, with the same key"
    ))
}

fn is_conflict(answer: &Answer) -> bool {
    matches!(answer, Answer::Conflict { .. })
}

fn taken(push: &Push, answers: &[Answer]) -> Reply {
    match push.ids {
        true => {
            let ids = answers.iter().filter_map(Answer::id);
            Reply::Array(ids.map(|it| Reply::text(it.to_string())).collect())
        }
        // as if the list had been empty
        false => Reply::Number(i64::try_from(answers.len()).unwrap_or(i64::MAX)),
    }
}

/// Clients try again by themselves what is `LOADING`, or know it as what goes by.
fn away(busy: &Busy) -> Reply {
    let word = match busy {
        Busy::Full(_) | Busy::Memory => "TRYAGAIN",
        Busy::Away | Busy::Stopping => "LOADING",
    };
    Reply::Error(format!("{word} {busy}"))
}

fn counted(answered: Result<Grouped, Busy>) -> Result<Grouped, Busy> {
    match &answered {
        Ok(Ok(answers)) => {
            let new = answers.iter().filter(|it| matches!(it, Answer::New { .. }));
            metrics::accepted(DOOR, new.count() as u64);
        }
        Ok(Err(culprit)) => {
            let reason = culprit.answer.refusal().map_or(Reason::Refused, |it| it.0);
            metrics::refused(DOOR, reason.as_str());
        }
        Err(_) => {}
    }
    answered
}

/// Why it was refused: a word, which one of how many, and all that is wrong with it.
fn refused(culprit: &Culprit, at: Option<usize>, of: usize) -> String {
    let refusal = culprit.answer.refusal();
    let (reason, why) = refusal.unwrap_or_else(|| {
        let defect = "the ledger gave another answer: a defect";
        (Reason::Refused, defect.to_owned())
    });
    let word = match reason {
        Reason::Malformed => "MALFORMED",
        Reason::UnknownKind => "UNKNOWNKIND",
        Reason::Invalid => "INVALID",
        Reason::TooLarge => "TOOLARGE",
        Reason::Conflict => "CONFLICT",
        Reason::Repeats => "REPEATS",
        Reason::Forbidden => "NOPERM",
        Reason::Refused => "REFUSED",
    };
    let which = match (at, of) {
        (_, 1) => String::new(),
        (Some(at), of) => format!("[{at}] of {of}, so that none was taken: "),
        (None, of) => format!("one of {of}, so that none was taken: "),
    };
    format!("{word} {which}{}", why.replace('\n', "; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;

    #[test]
    fn an_error_says_which_and_why() {
        let id = JobId::mint();
        let culprit = Culprit {
            at: Some(1),
            answer: Answer::Conflict {
                id,
                differs: vec!["/text".to_owned(), "/n".to_owned()],
            },
        };
        assert_eq!(
            refused(&culprit, culprit.at, 3),
            format!(
                "CONFLICT [1] of 3, so that none was taken: its key is taken by job {id} with another payload (differs at: /text, /n)"
            )
        );
        assert!(refused(&culprit, None, 1).starts_with("CONFLICT its key"));
        assert!(refused(&culprit, None, 2).starts_with("CONFLICT one of 2"));
    }

    #[test]
    fn what_goes_by_is_told_apart_from_what_is_wrong() {
        for (busy, word) in [
            (Busy::Full(7), "TRYAGAIN "),
            (Busy::Memory, "TRYAGAIN "),
            (Busy::Away, "LOADING "),
            (Busy::Stopping, "LOADING "),
        ] {
            let told = away(&busy);
            assert!(
                matches!(&told, Reply::Error(it) if it.starts_with(word)),
                "{told:?}"
            );
        }
    }
}
