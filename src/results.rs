//! Results that stand in for asking again: of jobs of the same tenant whose request was the same.

use std::time::Duration;

use serde_json::Value;

use crate::effect::Effect;
use crate::job::Job;
use crate::json::Digest;
use crate::ledger::{Fence, Ledger, Offered};
use crate::media::Media;
use crate::outcome::Outcome;
use crate::protocol::{away, lease_lost};
use crate::reference::{Name, named_in};

/// What a job may take from earlier ones, and leaves to later ones.
pub struct Results<'a> {
    /// The job that looks.
    pub job: &'a Job,
    /// Its lease.
    pub fence: Fence,
    /// Where results are.
    pub ledger: &'a dyn Ledger,
    /// Where what they name is.
    pub media: &'a Media,
}

/// The digest of a request: what would be sent, where to, and by which kind.
pub fn digest_of(request: &Value) -> Digest {
    let text = request.to_string();
    Digest::of_json(&text).unwrap_or_else(|_| Digest::of_bytes(text.as_bytes()))
}

impl Results<'_> {
    /// The newest result of the same request within `age`, if all media that it names are there, and
    /// its value. Nothing where this job has sent something already: its own answer is or may be paid
    /// for.
    ///
    /// # Errors
    /// `Released` when the ledger is away; transient when the media store is.
    pub async fn find(
        &self,
        request: Digest,
        age: Duration,
    ) -> Result<Option<(Offered, Value)>, Outcome> {
        let effects = self.ledger.effects(self.job.id).await;
        if effects.map_err(away)?.iter().any(may_have_been_sent) {
            return Ok(None);
        }
        let tenant = &self.job.tenant;
        let found = self.ledger.offered_result(tenant, request, age).await;
        let Some(found) = found.map_err(away)? else {
            return Ok(None);
        };
        for digest in named_in(&found.result) {
            if self.media.intact(Name(digest)).await?.is_none() {
                return Ok(None);
            }
        }
        let value = serde_json::from_str(&found.result).ok();
        Ok(value.map(|it| (found, it)))
    }

    /// Leaves the result that this job is about to have to later ones, for `age` from now.
    ///
    /// # Errors
    /// `Released` when the lease is lost, or the ledger is away.
    pub async fn offer(&self, request: Digest, age: Duration) -> Result<(), Outcome> {
        let offered = self.ledger.offer_result(&self.fence, request, age).await;
        match offered.map_err(away)? {
            true => Ok(()),
            false => Err(lease_lost()),
        }
    }
}

/// A send that was refused, and no other, certainly made nothing.
fn may_have_been_sent(effect: &Effect) -> bool {
    0 < effect.lost()
}
