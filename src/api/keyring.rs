//! The tokens that people show: asked of the ledger, and remembered for a moment.
//!
//! A token that was shown within the last [`FRESH`] is not asked about again, so that thousands of
//! requests a second cost the ledger next to nothing, and a revocation counts within that time
//! everywhere. So is what is no token, apart from those that are: whoever guesses pushes out no token,
//! and at most `GUESSES_AT_ONCE` guesses are with the ledger at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::ledger::{Ledger, LedgerError};
use crate::token::{Shown, Standing, Token, TokenId};

/// What was asked about a token counts for so long; so long a revoked one may still open.
pub const FRESH: Duration = Duration::from_secs(2);
/// Tokens that are remembered, and as many ids that are none.
const KEPT_MAX: usize = 4_096;
/// Tokens known before that are asked about at once.
const KNOWN_AT_ONCE: usize = 4;
/// Ids that nobody has seen yet that are asked about at once.
const GUESSES_AT_ONCE: usize = 2;
/// A use is told to the ledger this long after the last one that it knows of.
const USED_EVERY: chrono::Duration = chrono::Duration::minutes(1);

/// Why somebody isn't let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// This is no token, or not its secret.
    Wrong,
    /// It was one: its secret is right, and its time is over.
    Expired,
    /// It was one: its secret is right, and it was taken back.
    Revoked,
    /// Nobody can say: the ledger's words, for operators.
    Away(String),
}

/// What the ledger said of an id, and when.
#[derive(Clone)]
struct Kept {
    at: Instant,
    found: Option<(Arc<Token>, Standing)>,
}

impl Kept {
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < FRESH
    }
}

#[derive(Default)]
struct Memory {
    tokens: HashMap<TokenId, Kept>,
    guesses: HashMap<TokenId, Kept>,
}

impl Memory {
    fn get(&self, id: TokenId) -> Option<&Kept> {
        self.tokens.get(&id).or_else(|| self.guesses.get(&id))
    }

    fn keep(&mut self, id: TokenId, kept: Kept) {
        let shelf = match kept.found.is_some() {
            true => {
                self.guesses.remove(&id);
                &mut self.tokens
            }
            false => {
                self.tokens.remove(&id);
                &mut self.guesses
            }
        };
        if KEPT_MAX <= shelf.len() {
            shelf.retain(|_, it| it.is_fresh());
        }
        if KEPT_MAX <= shelf.len() {
            // more in two seconds than anybody has: they are asked about anew
            shelf.clear();
        }
        shelf.insert(id, kept);
    }
}

/// The tokens of a ledger.
pub struct Keyring {
    ledger: Arc<dyn Ledger>,
    memory: Mutex<Memory>,
    known: Semaphore,
    guesses: Semaphore,
}

impl Keyring {
    /// The tokens of this ledger.
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self {
            ledger,
            memory: Mutex::default(),
            known: Semaphore::new(KNOWN_AT_ONCE),
            guesses: Semaphore::new(GUESSES_AT_ONCE),
        }
    }

    /// The token that is shown, if it counts.
    ///
    /// # Errors
    /// Why it doesn't.
    pub async fn open(&self, shown: &Shown) -> Result<Arc<Token>, Denied> {
        let found = match self.remembered(shown.id) {
            Some(kept) if kept.is_fresh() => kept.found,
            kept => {
                self.ask(shown, kept.is_some_and(|it| it.found.is_some()))
                    .await?
            }
        };
        match found.filter(|(token, _)| shown.is(token)) {
            None => Err(Denied::Wrong),
            Some((_, Standing::Expired)) => Err(Denied::Expired),
            Some((_, Standing::Revoked)) => Err(Denied::Revoked),
            Some((token, Standing::Good)) => Ok(token),
        }
    }

    fn remembered(&self, id: TokenId) -> Option<Kept> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.get(id).cloned()
    }

    async fn ask(
        &self,
        shown: &Shown,
        known: bool,
    ) -> Result<Option<(Arc<Token>, Standing)>, Denied> {
        let places = if known { &self.known } else { &self.guesses };
        let _place = places.acquire().await;
        // who waited for a place may find that another one has asked
        if let Some(kept) = self.remembered(shown.id).filter(Kept::is_fresh) {
            return Ok(kept.found);
        }
        let at = Instant::now();
        let asked = self.ledger.token(shown.id).await;
        let found = asked.map_err(|e| away(&e))?.map(|(token, now)| {
            let standing = token.standing(now);
            let used = token.last_used_at.is_some_and(|it| now < it + USED_EVERY);
            if standing == Standing::Good && !used && shown.is(&token) {
                self.tell(token.id);
            }
            (Arc::new(token), standing)
        });
        let kept = Kept {
            at,
            found: found.clone(),
        };
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.keep(shown.id, kept);
        Ok(found)
    }

    /// Tells the ledger that a token was used; nobody waits for it.
    fn tell(&self, id: TokenId) {
        let ledger = self.ledger.clone();
        tokio::spawn(async move {
            if let Err(e) = ledger.token_used(id).await {
                // the next use tells it
                tracing::debug!("api: the use of token {id} wasn't noted: {e}");
            }
        });
    }
}

fn away(e: &LedgerError) -> Denied {
    tracing::warn!("api: a token can't be looked up: {e}");
    Denied::Away(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;
    use crate::json::Digest;
    use crate::token::Grant;

    fn kept(token: Option<u64>, at: Instant) -> (TokenId, Kept) {
        let token = token.map(|n| Token {
            id: TokenId(n),
            name: String::new(),
            digest: Digest::of_bytes(b""),
            grant: Grant::all(),
            created_at: Time::UNIX_EPOCH,
            created_by: String::new(),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        });
        let found = token.map(|it| (Arc::new(it), Standing::Good));
        (TokenId(0), Kept { at, found })
    }

    #[test]
    fn guesses_push_out_no_token_and_hold_a_bounded_memory() {
        let mut memory = Memory::default();
        let now = Instant::now();
        memory.keep(TokenId(7), kept(Some(7), now).1);
        for n in 100..100 + 3 * KEPT_MAX as u64 {
            memory.keep(TokenId(n), kept(None, now).1);
            assert!(memory.guesses.len() <= KEPT_MAX);
        }
        assert!(memory.get(TokenId(7)).is_some_and(|it| it.found.is_some()));
        for n in 1_000_000..1_000_000 + 2 * KEPT_MAX as u64 {
            memory.keep(TokenId(n), kept(Some(n), now).1);
            assert!(memory.tokens.len() <= KEPT_MAX);
        }
    }

    #[test]
    fn an_id_is_on_one_shelf() {
        let mut memory = Memory::default();
        let now = Instant::now();
        for token in [None, Some(7), None] {
            memory.keep(TokenId(7), kept(token, now).1);
            assert_eq!(memory.tokens.len() + memory.guesses.len(), 1);
            let found = memory.get(TokenId(7)).map(|it| it.found.is_some());
            assert_eq!(found, Some(token.is_some()));
        }
    }
}
