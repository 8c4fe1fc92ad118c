//! The renewal of one account's token.
//!
//! Everything that is decided is in [`oauth::refresh`](crate::oauth::refresh). Each step is a compare-and-set
//! of the account's record, so that of all hosts one asks; a try is written down before the request, and what
//! was granted before anybody uses it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{SubsecRound as _, TimeDelta};

use super::accounts;
use super::shared::Shared;
use crate::account::{Credentials, Granted, Kept, Renewed, Sealed, State, Turn};
use crate::clock::Time;
use crate::config::{Config, kept};
use crate::json::Digest;
use crate::ledger::Audit;
use crate::oauth::answer::Told;
use crate::oauth::issuer::Renewal;
use crate::oauth::refresh::{self, DEADLINE, HOLD, Next, Phase, Seen, Step, TRIES};
use crate::oauth::{Client, Grant, What};
use crate::operate::stops::shell;
use crate::platform;
use crate::sabotage;
use crate::telemetry::{metrics, redact};
use crate::vault::Place;

/// A ledger that is away, or a record that another one changes, is asked again after this.
const AGAIN: Duration = Duration::from_millis(250);
/// A write of what isn't the only copy of anything is tried so long.
const WRITE: Duration = Duration::from_secs(10);
/// Who held it may only wait for its ledger, with new tokens in its hands: it gets so long to write them down
/// before somebody stands in for it.
const STAND_IN: Duration = Duration::from_secs(2);
/// A token that is refused although it was just renewed is renewed again after this: it is no storm then.
const BREATH: TimeDelta = TimeDelta::seconds(60);

/// What renews an account, if anything but a person does: its client, its credentials, and how. `None`: nothing
/// does, or not here.
pub fn means(config: &Config, it: &Kept) -> Option<(Client, Credentials, Renewal)> {
    let client = config.oauth.get(&it.granted.as_ref()?.client)?;
    // where they can't be opened, or sealed again, another host does it
    let credentials = kept::opened(&config.vault, it).ok()?;
    config.vault.first()?;
    let renewal = match (client.facts().renewal, &credentials.refresh_token) {
        (Renewal::Rotating | Renewal::Lasting, None) => Renewal::Person,
        (it, _) => it,
    };
    Some((client.clone(), credentials, renewal))
}

/// Whether an account whose credentials were refused gets others without a person.
pub fn is_renewable(config: &Config, it: &Kept) -> bool {
    let tries = it.granted.as_ref().map_or(0, |it| it.tries);
    match means(config, it) {
        Some((_, _, Renewal::Rotating)) => tries < TRIES,
        Some((_, _, Renewal::Person)) | None => false,
        Some(_) => true,
    }
}

/// What a person does where nothing else helps.
fn advice(name: &str, client: &str) -> String {
    let (name, client) = (shell(name), shell(client));
    format!("log in again: `presswork accounts login {name} --client {client}`")
}

/// What the protocol sees of an account.
pub fn seen(it: &Kept, granted: &Granted) -> Seen {
    Seen {
        phase: match it.state {
            State::Ok => Phase::Ok,
            State::Refreshing => Phase::Refreshing,
            State::Attention => Phase::Attention,
            State::Paused => Phase::Paused,
        },
        tries: granted.tries,
        held_by: it.turn.map(|it| it.by),
        held_until: it.turn.map(|it| it.until).max(granted.not_before),
        since: granted.at,
        expires_at: it.expires_at,
        refused: granted.refused,
    }
}

/// The same for an account on all hosts, and spread over all accounts.
pub fn jitter(name: &str) -> u8 {
    Digest::of_bytes(name.as_bytes()).0[0]
}

/// How far a renewal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing would be lost.
    Asking,
    /// The new tokens are here, and nowhere else.
    Holding,
}

/// The accounts that are being renewed here.
pub type UnderWay = Arc<Mutex<BTreeMap<String, Stage>>>;

/// They, while nobody else changes them.
pub fn held(under_way: &UnderWay) -> MutexGuard<'_, BTreeMap<String, Stage>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The entry of an account that is being renewed here, for as long as it is.
pub struct Entry {
    under_way: UnderWay,
    name: String,
}

impl Entry {
    /// Enters an account. `None`: it is there.
    pub fn of(under_way: &UnderWay, name: &str) -> Option<Self> {
        let mut all = held(under_way);
        if all.contains_key(name) {
            return None;
        }
        all.insert(name.to_owned(), Stage::Asking);
        Some(Self {
            under_way: under_way.clone(),
            name: name.to_owned(),
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        held(&self.under_way).remove(&self.name);
    }
}

/// What was taken hold of.
struct Held {
    record: Kept,
    granted: Granted,
    client: Client,
    credentials: Credentials,
    renewal: Renewal,
    config: Arc<Config>,
}

impl Held {
    fn turn(&self) -> Option<Turn> {
        self.record.turn
    }

    /// Whether a record is still that of these credentials, and held by nobody else.
    fn is_mine(&self, now: &Kept) -> bool {
        now.version == self.record.version && now.turn == self.turn()
    }
}

/// One account's renewal.
pub struct Renewing {
    shared: Arc<Shared>,
    entry: Entry,
}

impl Renewing {
    /// Of the account that was entered.
    pub fn new(shared: Arc<Shared>, entry: Entry) -> Self {
        Self { shared, entry }
    }

    fn name(&self) -> &str {
        &self.entry.name
    }

    fn now(&self) -> Time {
        // as precise as the ledgers are
        self.shared.now().trunc_subsecs(6)
    }

    /// Renews it, if it is due and nobody else does.
    pub async fn run(&self) {
        let Some(mut held) = self.take().await else {
            return;
        };
        loop {
            match self.ask(&held).await {
                Next::Store(grant) => {
                    self::held(&self.entry.under_way)
                        .insert(self.name().to_owned(), Stage::Holding);
                    return self.store(&held, grant).await;
                }
                Next::Repeat => {
                    metrics::refreshed("lost");
                    tracing::warn!(
                        account = self.name(),
                        "the answer to a token's renewal was lost: the old one is sent once more"
                    );
                    match self.once_more(held).await {
                        Some(it) => held = it,
                        None => return,
                    }
                }
                Next::Release { tries, wait, told } => {
                    return self.release(&held, (tries, wait), &told).await;
                }
                Next::Attention(told) => return self.give_up(&held, &told.to_string()).await,
            }
        }
    }

    /// Takes hold of it, and counts a try. `None`: there is nothing to ask for, or somebody else does.
    async fn take(&self) -> Option<Held> {
        let config = self.shared.config.load_full();
        let was = self.read().await?;
        let granted = was.granted.clone()?;
        let (client, credentials, renewal) = means(&config, &was)?;
        let mut held = Held {
            record: was.clone(),
            granted: granted.clone(),
            client,
            credentials,
            renewal,
            config,
        };
        let is_due = |it: &Kept| seen(it, &granted).step(renewal, jitter(self.name()), self.now());
        match is_due(&was) {
            Step::Rest(_) => return None,
            Step::GiveUp => {
                let why = "nobody knows what became of the last two requests to renew its token";
                self.give_up(&held, why).await;
                return None;
            }
            Step::Over => {
                let why = match granted.refused {
                    true => "its token is refused, and only a person gives another",
                    false => "its token is past, and only a person gives another",
                };
                self.give_up(&held, why).await;
                return None;
            }
            Step::Begin => {}
        }
        if was.turn.is_some() {
            tokio::time::sleep(STAND_IN).await;
            let now = self.read().await?;
            if now.edition != was.edition {
                return None;
            }
            tracing::warn!(
                account = self.name(),
                "who renewed its token didn't end in time; this host stands in for it"
            );
        }
        let edition = was.edition;
        let turn = self.turn();
        let begun = |it: Kept| Kept {
            why: it.why.clone().filter(|_| granted.refused),
            state: State::Refreshing,
            turn: Some(turn),
            granted: it.granted.clone().map(|it| Granted {
                tries: it.tries + 1,
                not_before: None,
                ..it
            }),
            ..it
        };
        let still = |it: &Kept| it.edition == edition;
        held.record = self.amend(was, still, begun, None).await?;
        held.granted = held.record.granted.clone()?;
        Some(held)
    }

    fn turn(&self) -> Turn {
        Turn {
            by: self.shared.run_id(),
            until: self.now() + HOLD,
        }
    }

    async fn read(&self) -> Option<Kept> {
        match self.shared.ledger.account(self.name()).await {
            Ok(it) => it,
            Err(e) => {
                tracing::debug!(account = self.name(), "can't be renewed now: {e}");
                None
            }
        }
    }

    async fn ask(&self, held: &Held) -> Next {
        let (token, none) = (&held.credentials.secret, Told::new("nothing", ""));
        let token = match held.renewal {
            Renewal::Rotating | Renewal::Lasting => held.credentials.refresh_token.as_ref(),
            Renewal::Itself(_) | Renewal::Person => Some(token),
        };
        let ask = token.and_then(|it| held.client.ask(What::Refresh(it)));
        let Some(ask) = ask else {
            return Next::Attention(none);
        };
        let http = &self.shared.tools.http;
        let verdict = platform::oauth::ask(http, &ask, DEADLINE).await;
        let seen = seen(&held.record, &held.granted);
        let alive = seen.is_alive(self.now());
        refresh::next(verdict, held.renewal, held.granted.tries, alive)
    }

    /// Counts another try.
    async fn once_more(&self, held: Held) -> Option<Held> {
        let turn = self.turn();
        let counted = |it: Kept| Kept {
            turn: Some(turn),
            granted: it.granted.clone().map(|it| Granted {
                tries: it.tries + 1,
                ..it
            }),
            ..it
        };
        let is_mine = |it: &Kept| held.is_mine(it);
        let record = self
            .amend(held.record.clone(), is_mine, counted, None)
            .await?;
        let granted = record.granted.clone()?;
        Some(Held {
            record,
            granted,
            ..held
        })
    }

    /// Writes what was granted down: before anybody uses it, and for as long as it takes, since there is no
    /// other copy of it.
    async fn store(&self, held: &Held, grant: Grant) {
        let facts = held.client.facts();
        let credentials = Credentials {
            secret: grant.access,
            refresh_token: grant
                .refresh
                .or_else(|| held.credentials.refresh_token.clone()),
            ..held.credentials.clone()
        };
        let life_s = grant.expires_in_s.or(facts.lifetime_s);
        let now = self.now();
        let end = life_s.and_then(|it| TimeDelta::try_seconds(i64::try_from(it).ok()?));
        let expires_at = end.and_then(|it| now.checked_add_signed(it));
        let Some(sealed) = self.sealed(held, &credentials).await else {
            return;
        };
        let mut told = false;
        loop {
            match self
                .stored(held, &sealed, expires_at, grant.scopes.as_ref())
                .await
            {
                Ok(true) => break,
                Ok(false) => return,
                Err(why) => {
                    if !told {
                        tracing::error!(
                            account = self.name(),
                            "its new tokens can't be written down yet, and are held until they are: {why}"
                        );
                    }
                    told = true;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        metrics::refreshed("granted");
        tracing::info!(account = self.name(), "its token was renewed");
        // whoever can't now does within a second
        if accounts::learn(&self.shared).await.is_ok() {
            let _ = self.shared.look_at_closures().await;
        }
    }

    async fn sealed(&self, held: &Held, credentials: &Credentials) -> Option<Sealed> {
        let json = credentials.to_json();
        for _ in 0..40 {
            let place = Place::credentials(self.name());
            match held.config.vault.seal(place, &json) {
                Ok(it) => return Some(it),
                Err(e) => {
                    tracing::error!(account = self.name(), "its new tokens: {e}");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        None
    }

    /// One try to write them down: whether they are there, or others by now.
    async fn stored(
        &self,
        held: &Held,
        sealed: &Sealed,
        expires_at: Option<Time>,
        scopes: Option<&Vec<String>>,
    ) -> Result<bool, String> {
        let ledger = &self.shared.ledger;
        let found = ledger.account(self.name()).await;
        let Some(was) = found.map_err(|e| e.to_string())? else {
            tracing::warn!(account = self.name(), "it was removed while it was renewed");
            return Ok(false);
        };
        if was.sealed == *sealed {
            return Ok(true);
        }
        if was.version != held.record.version {
            tracing::info!(
                account = self.name(),
                "it was given other credentials while its token was renewed; those hold"
            );
            return Ok(false);
        }
        if was.turn.is_some() && was.turn != held.turn() {
            return Err("another host stands in for this one".to_owned());
        }
        let granted = Granted {
            // what a person is asked for comes at once
            not_before: Some(self.now() + BREATH),
            ..Granted::new(held.granted.client.clone(), self.now())
        };
        let scopes = scopes.cloned().unwrap_or_else(|| was.scopes.clone());
        let is = was.clone().renewed(Renewed {
            sealed: sealed.clone(),
            scopes,
            expires_at,
            granted: Some(granted),
        });
        match ledger.put_account(&was, &is, None).await {
            Ok(Some(_)) => Ok(true),
            Ok(None) => Err("others are changing the account".to_owned()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Lets go of it for a while.
    async fn release(&self, held: &Held, (tries, wait): (u32, TimeDelta), told: &Told) {
        metrics::refreshed("later");
        let told = redact::text(&told.to_string()).into_owned();
        let seconds = wait.num_seconds();
        tracing::warn!(
            account = self.name(),
            "its token wasn't renewed, and is asked for again in {seconds} s: {told}"
        );
        let not_before = Some(self.now() + wait);
        let let_go = |it: Kept| Kept {
            // what was refused stays closed until it is renewed
            state: match it.waits_for_others() {
                true => State::Refreshing,
                false => State::Ok,
            },
            turn: None,
            granted: it.granted.clone().map(|it| Granted {
                tries,
                not_before,
                ..it
            }),
            ..it
        };
        let is_mine = |it: &Kept| held.is_mine(it);
        self.amend(held.record.clone(), is_mine, let_go, None).await;
    }

    /// A person must come.
    async fn give_up(&self, held: &Held, why: &str) {
        metrics::refreshed("refused");
        let why = redact::text(why).into_owned();
        let why = format!("{why}; {}", advice(self.name(), &held.granted.client));
        tracing::error!(account = self.name(), "its jobs wait for a person: {why}");
        let audit = accounts::audit("account.refused", self.name(), &why, &self.shared);
        let given_up = |it: Kept| it.standing(State::Attention, Some(why.clone()));
        let is_mine = |it: &Kept| held.is_mine(it);
        let record = held.record.clone();
        self.amend(record, is_mine, given_up, Some(&audit)).await;
    }

    /// Writes what `change` makes of a record, for as long as `still` holds of it: what it is then. An answer
    /// that is lost is looked for.
    async fn amend(
        &self,
        mut was: Kept,
        still: impl Fn(&Kept) -> bool,
        change: impl Fn(Kept) -> Kept,
        audit: Option<&Audit>,
    ) -> Option<Kept> {
        let began = Instant::now();
        loop {
            let is = change(was.clone());
            let put = self.shared.ledger.put_account(&was, &is, audit).await;
            if let Ok(Some(edition)) = put {
                return Some(Kept { edition, ..is });
            }
            if matches!(put, Ok(None)) && sabotage!("refresh.compare") {
                return Some(is);
            }
            loop {
                if WRITE < began.elapsed() {
                    return None;
                }
                match self.shared.ledger.account(self.name()).await {
                    Ok(Some(now)) if is_same(&now, &is) => return Some(now),
                    Ok(Some(now)) if still(&now) => {
                        was = now;
                        break;
                    }
                    Ok(_) => return None,
                    Err(e) => {
                        tracing::debug!(account = self.name(), "its record: {e}");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Whether what was to be written is there.
fn is_same(now: &Kept, wanted: &Kept) -> bool {
    let of = |it: &Kept| (it.version, it.state, it.turn, it.granted.clone());
    of(now) == of(wanted) && now.edition != wanted.edition
}
