//! What payloads name by URL, brought into the media store: each URL once for all that need it.
//!
//! Those that need the same URL at the same time share one request. What came is remembered in the
//! ledger: for `media.fetch_age_s` nothing is asked, after that only whether it changed.

mod flight;

use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;
use crate::config;
use crate::json::Digest;
use crate::ledger::{Fetched, Ledger, LedgerError};
use crate::media::{Limits, Media};
use crate::outcome::{Failure, Outcome};
use crate::platform::address::Policy;
use crate::platform::fetch::{Fetch, File, Got, Known, Names};
use crate::reference::{Name, Reference};
use flight::Flights;

/// Fetches URLs into the media store.
pub struct Fetcher {
    media: Media,
    ledger: Arc<dyn Ledger>,
    names: Arc<dyn Names>,
    clock: Clock,
    /// The client of the newest policy.
    client: Mutex<Option<Arc<Fetch>>>,
    flights: Flights<Digest, Result<Reference, Outcome>>,
}

impl Limits {
    /// What may come in by a configuration.
    pub fn of(config: &config::Media) -> Self {
        Self {
            bytes: config.bytes_max,
            pixels: config.pixels_max,
            ratio: config.ratio_max,
        }
    }
}

impl Fetcher {
    /// A fetcher into `media`, remembering in `ledger`.
    pub fn new(media: Media, ledger: Arc<dyn Ledger>, names: Arc<dyn Names>, clock: Clock) -> Self {
        Self {
            media,
            ledger,
            names,
            clock,
            client: Mutex::default(),
            flights: Flights::default(),
        }
    }

    /// The file behind a URL, stored. Its grace begins now: see [`crate::media::Draft::finish`].
    ///
    /// # Errors
    /// As [`Fetch::get`] and [`crate::media::Draft::finish`]; `Released` when the ledger is away.
    pub async fn get(&self, url: &str, config: &config::Media) -> Result<Reference, Outcome> {
        let client = self.client(config)?;
        let checked = client.policy().check(url);
        let url = checked.map_err(|e| Failure::permanent("url", e))?;
        let digest = Digest::of_bytes(url.as_str().as_bytes());
        let fetch = || self.fetch(&client, url.as_str(), digest, config);
        self.flights.get(digest, fetch).await
    }

    fn client(&self, config: &config::Media) -> Result<Arc<Fetch>, Failure> {
        let policy = Policy {
            http: config.fetch_http,
            allow: config.fetch_allow.clone(),
        };
        // what is in it is whole, whoever panicked
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        match &*client {
            Some(it) if *it.policy() == policy => Ok(it.clone()),
            _ => {
                let made = Fetch::new(policy, self.names.clone(), self.clock.clone());
                let made = made.map_err(|e| {
                    Failure::transient("client", format!("no HTTP client can be made: {e}"))
                })?;
                Ok(client.insert(Arc::new(made)).clone())
            }
        }
    }

    async fn fetch(
        &self,
        client: &Fetch,
        url: &str,
        digest: Digest,
        config: &config::Media,
    ) -> Result<Reference, Outcome> {
        let before = self.remembered(digest).await?;
        if let Some((it, reference)) = &before
            && (self.clock.now() - it.at).to_std().unwrap_or_default() < config.fetch_age
        {
            return Ok(reference.clone());
        }
        let known = before.as_ref().map(|(it, _)| Known {
            landed: it.landed,
            etag: it.etag.clone(),
            last_modified: it.last_modified.clone(),
        });
        let (most, time) = (config.bytes_max, config.fetch_timeout);
        let got = client.get(url, known.as_ref(), most, time).await?;
        let (known, reference) = match (got, before) {
            (Got::File(mut file), _) => {
                let reference = self.store(&mut file, Limits::of(config)).await?;
                (file.known, reference)
            }
            (Got::Same, Some((it, reference))) => {
                let known = Known {
                    landed: it.landed,
                    etag: it.etag,
                    last_modified: it.last_modified,
                };
                (known, reference)
            }
            (Got::Same, None) => {
                let message = "the server answers that nothing changed, and was asked for all";
                return Err(Failure::transient("http_304", message).into());
            }
        };
        let fetched = Fetched {
            url: digest,
            landed: known.landed,
            media: reference.media.0,
            etag: known.etag,
            last_modified: known.last_modified,
            at: self.clock.now(),
        };
        // forgotten already: then it is only not remembered
        let _kept = self.ledger.keep_fetched(&fetched).await.map_err(away)?;
        Ok(reference)
    }

    /// What the ledger remembers of a URL, while what came is still stored.
    async fn remembered(&self, url: Digest) -> Result<Option<(Fetched, Reference)>, Outcome> {
        let Some(it) = self.ledger.fetched(url).await.map_err(away)? else {
            return Ok(None);
        };
        let reference = self.media.intact(Name(it.media)).await?;
        Ok(reference.map(|reference| (it, reference)))
    }

    async fn store(&self, file: &mut File, limits: Limits) -> Result<Reference, Outcome> {
        let mut draft = self.media.draft(limits, file.mime.as_deref());
        while let Some(bytes) = file.next().await? {
            draft.write(&bytes).await?;
        }
        Ok(draft.finish().await?)
    }
}

/// A ledger that is away charges no attempt: stopping is not failing.
fn away(error: LedgerError) -> Outcome {
    Outcome::Released {
        reason: error.to_string(),
    }
}
