//! An account's session: opened or renewed by one at a time, since a refresh token is good for one use, and
//! shared by all that need it.

use std::future::Future;

use chrono::TimeDelta;

use super::verdict::CallError;
use crate::clock::Time;
use crate::outcome::{Class, Failure};
use crate::sync::AsyncMutex;

/// A refused login is not tried again within this: 30 logins in 5 minutes lock a Bluesky account out.
pub const REFUSED_FOR: TimeDelta = TimeDelta::seconds(60);

/// The place of an account's session.
pub struct Sessions<S> {
    slot: AsyncMutex<Slot<S>>,
}

struct Slot<S> {
    session: Option<S>,
    refused: Option<(Time, Failure)>,
}

impl<S> Default for Sessions<S> {
    fn default() -> Self {
        let slot = Slot {
            session: None,
            refused: None,
        };
        Self {
            slot: AsyncMutex::new(slot),
        }
    }
}

impl<S: Clone> Sessions<S> {
    /// The session that is kept, unless `is_dead` says so of it by now: then it is renewed; where that is
    /// refused, or there is none, a new one is opened.
    ///
    /// # Errors
    /// Unauthorised when the credentials are refused, without asking for [`REFUSED_FOR`]; what `renew` and
    /// `open` fail with else, which isn't kept.
    pub async fn get<R, O>(
        &self,
        now: impl Fn() -> Time,
        is_dead: impl Fn(&S, Time) -> bool,
        renew: impl FnOnce(S) -> R,
        open: impl FnOnce() -> O,
    ) -> Result<S, CallError>
    where
        R: Future<Output = Result<S, CallError>>,
        O: Future<Output = Result<S, CallError>>,
    {
        let mut slot = self.slot.lock().await;
        let now = now();
        if let Some(session) = &slot.session {
            if !is_dead(session, now) {
                return Ok(session.clone());
            }
            match renew(session.clone()).await {
                Ok(it) => {
                    slot.session = Some(it.clone());
                    return Ok(it);
                }
                // the refresh token is too old, too: log in
                Err(CallError::Refused(it)) if it.class == Class::Unauthorised => {
                    slot.session = None;
                }
                Err(e) => return Err(e),
            }
        }
        if let Some((at, failure)) = &slot.refused
            && now - at < REFUSED_FOR
        {
            return Err(CallError::Refused(failure.clone()));
        }
        slot.refused = None;
        let opened = open().await;
        match &opened {
            Ok(it) => slot.session = Some(it.clone()),
            Err(CallError::Refused(it)) if it.class == Class::Unauthorised => {
                slot.refused = Some((now, it.clone()));
            }
            Err(_) => {}
        }
        opened
    }
}
