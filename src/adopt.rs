//! Work that a platform goes on with after its answer: adopted by its handle, asked about after growing
//! waits while the lane's room is free, stopped there when its job is called off, and never begun twice.
//!
//! The handle is stored by the write that records the answer (a receipt with
//! [`UNDER_WAY`](crate::effect::UNDER_WAY), or a step), so any host goes on from there. A call-back of the
//! platform only makes the next question come sooner.

use std::future::{Future, Ready};
use std::time::Duration;

use crate::clock::{Time, stamp};
use crate::context::Context;
use crate::effect::chrono_of;
use crate::outcome::{Class, Failure, Outcome};
use crate::platform::{CallError, Progressed};

/// The waits between two questions about adopted work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    /// The shortest.
    pub first: Duration,
    /// The longest, unless the platform asks for more.
    pub longest: Duration,
}

/// A platform's own word on when to ask again is believed up to this.
const SUGGESTED_MAX: Duration = Duration::from_secs(600);

impl Asking {
    /// One second, then twice as long each time, up to half a minute.
    pub const USUAL: Self = Self {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(30),
    };

    /// The wait before work of this age is asked about again: as long again as it has taken so far, within
    /// bounds, and never less than the platform suggests. It hangs on the age alone, so that neither a
    /// kill nor a call-back that comes too early begins it anew.
    pub fn wait(&self, age: Duration, suggested: Option<Duration>) -> Duration {
        let own = age.max(self.first).min(self.longest);
        own.max(suggested.unwrap_or_default().min(SUGGESTED_MAX))
    }
}

/// Work that a platform goes on with.
pub struct Work<'a> {
    /// Who works: `OpenAI`.
    pub by: &'a str,
    /// What it calls the work.
    pub handle: &'a str,
    /// When it began.
    pub since: Time,
    /// Where a person finds it.
    pub place: &'a str,
    /// It was begun a moment ago, and isn't asked about yet.
    pub is_new: bool,
    /// The longest it may take, unless the kind's settings (`adopt_for_s`) say otherwise.
    pub most: Duration,
}

/// For work that no platform can be told to stop.
pub const NO_STOP: Option<Ready<Result<String, CallError>>> = None;

/// What became of adopted work, once it has ended. `ask` asks the platform, once; `stop` tells it to stop
/// and says in words what came of that.
///
/// # Errors
/// Snoozed while the work goes on, or its platform can't be asked now; permanent (`adopt_for`) when it
/// takes too long; what `ask` fails with for good; `Cancelled` when the job was called off, and the
/// platform told to stop as far as it can be; `Released` when the attempt has to stop.
pub async fn ended<T, A, S>(
    cx: &Context,
    work: &Work<'_>,
    ask: A,
    stop: Option<S>,
) -> Result<T, Outcome>
where
    A: Future<Output = Result<Progressed<T>, CallError>>,
    S: Future<Output = Result<String, CallError>>,
{
    let Work { by, handle, .. } = work;
    if let Some(stop) = stop.filter(|_| cx.called_off) {
        let seen = match stop.await {
            Ok(said) => format!("the job was called off, and {by} stops {handle}: {said}"),
            Err(e) => format!(
                "the job was called off, but {by} couldn't be told to stop {handle}, which may go on: {e}"
            ),
        };
        cx.let_go(handle, &seen).await?;
        return Err(Outcome::Cancelled);
    }
    cx.go_on()?;
    let mut is_at = None;
    let suggested = match work.is_new {
        true => None,
        false => match ask.await {
            Ok(Progressed::Ended(it)) => return Ok(it),
            Ok(Progressed::GoesOn(suggested)) => suggested,
            Ok(Progressed::IsAt(progress, suggested)) => {
                is_at = Some(progress);
                suggested
            }
            // a question that fails says nothing of the work
            Err(e) if is_passing(&e) => {
                tracing::warn!(job = %cx.job.id, "{by} can't be asked about {handle} now: {e}");
                e.harmless().retry_after().and_then(|it| it.to_std().ok())
            }
            Err(e) => return Err(e.harmless().into()),
        },
    };
    let now = cx.http.now();
    let age = (now - work.since).to_std().unwrap_or_default();
    let said = cx.config.kinds.get(&cx.job.kind);
    let most = said.and_then(|it| it.adopt_for).unwrap_or(work.most);
    if most <= age {
        return Err(too_long(work, most).into());
    }
    let wait = Asking::USUAL.wait(age, suggested).min(most - age);
    let since = stamp(work.since);
    let reason = format!("{by} works on {handle} since {since}, and is asked again then");
    let until = now + chrono_of(wait);
    Err(match is_at {
        None => cx.put_off(50, until, reason).await,
        Some(Some(it)) => cx.put_off(it.percent, until, it.message).await,
        // what a call-back said of it stays
        Some(None) => Outcome::Snoozed { until, reason },
    })
}

fn is_passing(e: &CallError) -> bool {
    match e {
        CallError::Unknown(_) => true,
        CallError::Refused(it) => matches!(it.class, Class::Transient | Class::Throttled),
    }
}

fn too_long(work: &Work<'_>, most: Duration) -> Failure {
    let message = format!(
        "{} has worked on {} since {}, longer than the {} s that adopt_for_s allows, and may go on: it is {}; once it has ended there, a revive brings its result without paying again",
        work.by,
        work.handle,
        stamp(work.since),
        most.as_secs(),
        work.place
    );
    Failure::permanent("adopt_for", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_double_within_bounds_whatever_came_between() {
        let (mut age, mut waits) = (0, vec![]);
        while waits.len() < 8 {
            let wait = Asking::USUAL.wait(Duration::from_secs(age), None).as_secs();
            waits.push(wait);
            age += wait;
        }
        assert_eq!(waits, [1, 1, 2, 4, 8, 16, 30, 30]);
        // woken in between, it doesn't begin anew
        let age = Duration::from_secs(17);
        assert_eq!(Asking::USUAL.wait(age, None), age);
    }

    #[test]
    fn a_platforms_word_is_never_undercut_and_not_believed_for_ever() {
        let wait = |age, said| {
            let said = Some(Duration::from_secs(said));
            let wait = Asking::USUAL.wait(Duration::from_secs(age), said);
            wait.as_secs()
        };
        assert_eq!(wait(1, 20), 20);
        assert_eq!(wait(100, 60), 60);
        assert_eq!(wait(100, 5), 30);
        assert_eq!(wait(1, 1 << 40), 600);
    }

    proptest! {
        #[test]
        fn a_wait_lies_within_its_bounds(age: u64, said: Option<u64>) {
            let said = said.map(Duration::from_secs);
            let wait = Asking::USUAL.wait(Duration::from_secs(age), said);
            prop_assert!(Asking::USUAL.first <= wait && wait <= SUGGESTED_MAX);
        }
    }
}
