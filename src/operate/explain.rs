//! Everything that keeps a job from running, in order, with what holds it; its place in line, and an
//! estimate. What is read from the ledger goes in, words and commands come out.

use serde::Serialize;
use uuid::Uuid;

use super::facts::Facts;
use super::full::Full;
use super::goes::{Stead, goes};
use super::place::{Estimate, Place, Turns};
use super::stops::{command, shell};
use super::why::{Around, why};
use crate::breaker;
use crate::clock::{Time, span, stamp, when};
use crate::config::Config;
use crate::effect::EffectState;
use crate::fair::Fair;
use crate::gate::{Cause, Closure};
use crate::job::{Job, JobId};
use crate::ledger::Pause;
use crate::lifecycle::State;
use crate::outcome::{Failure, words};

/// So many who hold something are named.
const NAMED: usize = 5;

words! {
    /// What kind of thing keeps a job from running.
    What {
        /// Its time hasn't come.
        Due = "due",
        /// It failed, and the time of its next attempt hasn't come.
        Retry = "retry",
        /// The jobs that come before it haven't ended.
        Waiting = "waiting",
        /// A person has to mend something first.
        Held = "held",
        /// A person has to say what happened.
        Unresolved = "unresolved",
        /// A person stopped it.
        Stop = "stop",
        /// The platform refuses its account.
        Account = "account",
        /// Its server keeps failing.
        Breaker = "breaker",
        /// The platform asked for less.
        Learned = "learned",
        /// Its lane is paused.
        Pause = "pause",
        /// A budget is used up.
        Budget = "budget",
        /// Its lane is full.
        Concurrency = "concurrency",
        /// No daemon runs.
        Daemon = "daemon",
        /// Nobody here knows its kind.
        Kind = "kind",
        /// Its lane isn't configured.
        Lane = "lane",
        /// It runs.
        Running = "running",
        /// What it does to the outside is being sent.
        Effect = "effect",
        /// It has ended.
        Ended = "ended",
    }
}

/// Who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eyes {
    /// All that is known: hosts, other jobs, people, platforms' own words, and the commands that help.
    Operator,
    /// None of that.
    User,
}

/// One thing that keeps a job from running.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Constraint {
    /// What kind of thing.
    pub what: What,
    /// What it is and what holds it, in a sentence or two.
    pub text: String,
    /// Since when.
    pub since: Option<Time>,
    /// Until when by itself; `None`: nobody knows, or somebody has to do something.
    pub until: Option<Time>,
    /// Who did it: a person's login, a token's name, a part of the daemon, a host.
    pub by: Option<String>,
    /// The command that helps, or tells more.
    pub command: Option<String>,
}

impl Constraint {
    fn new(what: What, text: impl Into<String>) -> Self {
        Self {
            what,
            text: text.into(),
            since: None,
            until: None,
            by: None,
            command: None,
        }
    }

    fn command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }
}

/// Why a job isn't running.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The job.
    pub job: JobId,
    /// Which handler.
    pub kind: String,
    /// Which line it waits in.
    pub lane: String,
    /// Where it stands.
    pub state: State,
    /// Who does it, where that isn't its own account; for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Stead>,
    /// The ledger's time when it was read.
    pub now: Time,
    /// All that binds, in order. Empty: it is a matter of its place.
    pub constraints: Vec<Constraint>,
    /// Where it is in line; of jobs that are due alone.
    pub place: Option<Place>,
    /// When it may start, where nothing but its place and a full lane keeps it, and the lane has a pace.
    pub estimate: Option<Estimate>,
}

/// Says why a job isn't running, to whoever reads it.
pub fn explain(facts: &Facts, config: &Config, eyes: Eyes) -> Explanation {
    let look = Look {
        facts,
        config,
        eyes,
    };
    let job = &facts.job;
    let mut constraints = match job.state {
        State::Scheduled | State::Ready | State::Retrying => look.waits(),
        State::Running => look.runs(),
        _ => vec![look.stands()],
    };
    if eyes == Eyes::User {
        for it in &mut constraints {
            (it.by, it.command) = (None, None);
        }
    }
    let mut turns = Turns::of(job, &Fair::of(config));
    turns.weight = turns.weight.filter(|_| eyes == Eyes::Operator);
    let place = |it| Place::of(&it, constraints.is_empty(), turns, facts.now);
    let place = facts.line.map(place);
    let paced = constraints.iter().all(|it| it.what == What::Concurrency);
    let full = !constraints.is_empty();
    let estimate = facts.line.filter(|_| paced);
    Explanation {
        job: job.id,
        kind: job.kind.clone(),
        lane: job.lane.clone(),
        state: job.state,
        fallback: look.stead(),
        now: facts.now,
        estimate: estimate.and_then(|it| Estimate::of(&it, full, facts.now)),
        constraints,
        place,
    }
}

/// Why a job stands where it stands, for whom an operator's advice isn't meant.
pub fn told(job: &Job) -> String {
    let told = job.failure.as_ref().map_or("", Failure::told);
    match job.state {
        State::Completed => "It is done.".to_owned(),
        State::Cancelled => "It was called off.".to_owned(),
        State::Running => "It is under way.".to_owned(),
        State::Waiting => "It waits for the jobs that come before it.".to_owned(),
        State::Scheduled => "It waits for its time.".to_owned(),
        State::Ready => "It waits for its turn.".to_owned(),
        State::Retrying => format!("It is tried again. {told}"),
        State::Held => format!("It waits until what stands in its way is mended. {told}"),
        State::Unresolved => "Whether it happened isn't known; a person has to look.".to_owned(),
        State::Dead => format!("It was given up. {told}"),
    }
}

/// With one full stop at its end.
fn ended(text: &str) -> String {
    format!("{}.", text.trim_end().trim_end_matches('.'))
}

/// The same with a capital at its beginning.
fn sentence(text: &str) -> String {
    let mut text = ended(text);
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

struct Look<'a> {
    facts: &'a Facts,
    config: &'a Config,
    eyes: Eyes,
}

impl Look<'_> {
    /// What an operator reads, or what a user does.
    fn said(&self, operator: impl FnOnce() -> String, user: &str) -> String {
        match self.eyes {
            Eyes::Operator => operator(),
            Eyes::User => user.to_owned(),
        }
    }

    fn host(&self, run: Option<Uuid>) -> Option<&str> {
        let owner = self.facts.runs.iter().find(|it| Some(it.id) == run);
        owner.map(|it| it.host.as_str())
    }

    /// Jobs and their hosts, for operators.
    fn named(&self, held: &[(JobId, Option<Uuid>)]) -> String {
        let one = |(job, run): &(JobId, Option<Uuid>)| match self.host(*run) {
            Some(host) => format!("{job} on {host}"),
            None => format!("{job} on a host that is gone"),
        };
        let mut named: Vec<String> = held.iter().take(NAMED).map(one).collect();
        if NAMED < held.len() {
            named.push(format!("{} more", held.len() - NAMED));
        }
        match named.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
            None => String::new(),
        }
    }

    /// Who does it, while it may still begin, or runs.
    fn stead(&self) -> Option<Stead> {
        let state = self.facts.job.state;
        let open = state.is_claimable() || state == State::Running;
        let is_told = open && self.eyes == Eyes::Operator;
        is_told.then(|| goes(self.facts, self.config).stead)?
    }

    /// Of a job that a dispatcher may take.
    fn waits(&self) -> Vec<Constraint> {
        let facts = self.facts;
        let goes = goes(facts, self.config);
        let mut all: Vec<Constraint> = self.not_due().into_iter().collect();
        all.extend(goes.closures.iter().map(|it| self.closed(it)));
        all.extend(facts.pause.as_ref().map(|it| self.paused(it)));
        all.extend(goes.full.iter().map(|it| self.used_up(it)));
        all.extend(self.lane_full());
        all.extend(self.served());
        all
    }

    fn not_due(&self) -> Option<Constraint> {
        let (job, now) = (&self.facts.job, self.facts.now);
        if job.run_at <= now {
            return None;
        }
        let at = format!("{} ({})", stamp(job.run_at), when(job.run_at, now));
        let failed = job.failure.as_ref();
        let (what, text) = match (job.state, failed, &job.progress) {
            (State::Retrying, Some(failure), _) => {
                let why = self.said(|| failure.to_string(), failure.told());
                let text = format!(
                    "It is tried again at {at}, after {} of {} attempts: {}",
                    job.attempts,
                    job.attempts_max,
                    ended(&why)
                );
                (What::Retry, text)
            }
            (State::Retrying, None, _) => (What::Retry, format!("It is tried again at {at}.")),
            (_, _, Some(progress)) => {
                let text = format!("It waits for its time, {at}: {}", ended(&progress.message));
                (What::Due, text)
            }
            _ => (What::Due, format!("It waits for its time, {at}.")),
        };
        Some(Constraint {
            until: Some(job.run_at),
            ..Constraint::new(what, text).command(format!("presswork jobs watch {}", job.id))
        })
    }

    fn closed(&self, it: &Closure) -> Constraint {
        let (what, user) = match it.cause {
            Cause::Stop => (What::Stop, "It was stopped by an operator."),
            Cause::Account => (
                What::Account,
                "Its platform doesn't let the account in; a person has to see to it.",
            ),
            Cause::Credentials => (
                What::Account,
                "Its account's credentials are refused; a person has to renew them.",
            ),
            Cause::Breaker => (
                What::Breaker,
                "Its platform keeps failing, and is left alone for a while.",
            ),
            Cause::Learned => (What::Learned, "Its platform asked for a pause."),
            Cause::Budget | Cause::Fallbacks => (What::Budget, "A limit is reached."),
        };
        let in_full = || {
            let probe = match it.cause {
                Cause::Breaker => self.probe(),
                _ => None,
            };
            let told = sentence(&it.to_string());
            match probe {
                Some(probe) => format!("{told} {probe}"),
                None => told,
            }
        };
        Constraint {
            since: Some(it.since),
            until: it.until,
            by: Some(it.actor.clone()),
            ..Constraint::new(what, self.said(in_full, user)).command(command(it))
        }
    }

    /// Where the breaker of its account's server stands, unless it is closed.
    fn probe(&self) -> Option<String> {
        let account = self.config.accounts.get(self.facts.job.account.as_ref()?)?;
        let server = account.server();
        let standing = self.facts.breakers.iter().find(|it| it.scope == server)?;
        let now = self.facts.now;
        Some(match standing.breaker.state {
            breaker::State::Closed => return None,
            breaker::State::Open(until) if now < until => format!(
                "The breaker of {server} is open: the server is asked whether it works again at {} ({}).",
                stamp(until),
                when(until, now)
            ),
            breaker::State::Open(_) => format!(
                "The breaker of {server} is open: the server is asked whether it works again at any moment."
            ),
            breaker::State::HalfOpen(until) => format!(
                "The breaker of {server} is half-open: the server is being asked whether it works again, for {} more at most.",
                span((until - now).max(chrono::Duration::zero()))
            ),
        })
    }

    fn paused(&self, it: &Pause) -> Constraint {
        let in_full = || {
            let since = format!(
                "Its lane `{}` is paused by {}, since {}",
                it.lane,
                it.by,
                stamp(it.at)
            );
            match it.reason.as_str() {
                "" => ended(&since),
                reason => ended(&format!("{since}: {reason}")),
            }
        };
        let text = self.said(in_full, "Its lane is paused by an operator.");
        Constraint {
            since: Some(it.at),
            by: Some(it.by.clone()),
            ..Constraint::new(What::Pause, text)
                .command(format!("presswork lanes resume {}", shell(&it.lane)))
        }
    }

    fn used_up(&self, it: &Full<'_>) -> Constraint {
        let now = self.facts.now;
        let in_full = || {
            let whose = match it.whose.as_str() {
                "" => String::new(),
                whose => format!(" of `{whose}`"),
            };
            if let Some(back) = &it.kept {
                return format!(
                    "Budget `{}`{whose}: {} ({} of {} used): {}.",
                    it.name,
                    back.told(),
                    it.used,
                    it.budget.form.most(),
                    it.when(now, "")
                );
            }
            let word = match it.room_at {
                Some(_) => "used up",
                None => "too small",
            };
            let op = it.op().filter(|op| *op != it.whose);
            let op = op.map_or(String::new(), |op| format!(" for `{op}`"));
            let busy = self.facts.busy.iter();
            let busy = busy.filter(|job| it.may_be_held_by(job, self.config));
            let held: Vec<_> = busy.map(|job| (job.id, job.run)).collect();
            let held = match held.as_slice() {
                [] => String::new(),
                held => format!("held by {}; ", self.named(held)),
            };
            format!(
                "Budget `{}`{whose} is {word}{op} ({} of {}): {}.",
                it.name,
                it.budget.form.amount(it.used),
                it.budget.form.amount(it.budget.form.most()),
                it.when(now, &held)
            )
        };
        let user = match it.room_at {
            Some(at) => format!("A limit is reached; there is room at {}.", stamp(at)),
            None => "A limit allows less than one such request.".to_owned(),
        };
        Constraint {
            until: it.room_at,
            ..Constraint::new(What::Budget, self.said(in_full, &user)).command("presswork budgets")
        }
    }

    fn lane_full(&self) -> Option<Constraint> {
        let name = &self.facts.job.lane;
        let lane = self.config.lanes.get(name)?;
        let daemons = u32::try_from(self.facts.runs.len()).unwrap_or(u32::MAX);
        let room = match daemons {
            0 => u32::MAX,
            some => lane.room.saturating_mul(some),
        };
        let most = lane.concurrency.unwrap_or(u32::MAX).min(room) as usize;
        let held = &self.facts.running;
        if held.len() < most {
            return None;
        }
        let running = held.len();
        let in_full = || {
            let held: Vec<_> = held.iter().map(|(job, run)| (*job, Some(*run))).collect();
            let held = match held.as_slice() {
                [] => String::new(),
                held => format!(", held by {}", self.named(held)),
            };
            format!(
                "Its lane `{name}` is full: {running} of {most} run{held}. It starts when one of them ends."
            )
        };
        let user = format!("Its lane is full: {running} of {most} run. It starts when one ends.");
        let text = self.said(in_full, &user);
        let list = format!("presswork jobs list --lane {} --state running", shell(name));
        Some(Constraint::new(What::Concurrency, text).command(list))
    }

    /// Whether anybody is there who could run it.
    fn served(&self) -> Vec<Constraint> {
        let (facts, job) = (self.facts, &self.facts.job);
        let mut all = Vec::new();
        if facts.runs.is_empty() {
            let text = "No daemon runs on this ledger; it starts as soon as one does.";
            let text = self.said(|| text.to_owned(), "Nothing runs at the moment.");
            all.push(Constraint::new(What::Daemon, text).command("presswork run"));
        }
        if !facts.kind_known {
            let text = format!(
                "No daemon of this version knows its kind `{}`; one of a newer version may.",
                job.kind
            );
            all.push(Constraint::new(What::Kind, text).command("presswork kinds"));
        }
        if !self.config.lanes.contains_key(&job.lane) {
            let in_full = || {
                format!(
                    "Its lane `{0}` isn't in jobs.toml, so no daemon with this configuration serves it. Add [lanes.{0}] and reload.",
                    job.lane
                )
            };
            let text = self.said(in_full, "Its lane isn't served.");
            all.push(Constraint::new(What::Lane, text).command("presswork reload"));
        }
        all
    }

    /// What is to be said of a job that no dispatcher may take, and what an operator may do.
    fn advised(&self) -> (String, Vec<String>) {
        let facts = self.facts;
        let around = Around {
            now: facts.now,
            closure: None,
            pause: None,
            running: 0,
            concurrency: None,
            lane_known: true,
            daemons: facts.runs.len(),
            host: self.host(facts.job.run).map(str::to_owned),
        };
        let advice = why(&facts.job, &around, &facts.effects);
        (advice.text, advice.commands)
    }

    /// Of a job that runs: on which host, since when, how long its lease lasts, and what is being sent.
    fn runs(&self) -> Vec<Constraint> {
        let facts = self.facts;
        let in_full = || {
            let lease = facts.lease_until.map(|at| {
                let lasts = when(at, facts.now);
                format!(
                    " The lease of its run, unless it is renewed, ends at {} ({lasts}).",
                    stamp(at)
                )
            });
            self.advised().0 + &lease.unwrap_or_default()
        };
        let text = self.said(in_full, &told(&facts.job));
        let running = Constraint {
            since: facts.job.claimed_at,
            until: facts.lease_until,
            by: self.host(facts.job.run).map(str::to_owned),
            ..Constraint::new(What::Running, text)
                .command(format!("presswork jobs watch {}", facts.job.id))
        };
        let sending = facts.effects.iter();
        let sending = sending.filter(|it| it.state == EffectState::Sending);
        let sent = sending.map(|it| {
            let since = it.permit_at.map_or(String::new(), |at| {
                format!(" since {} ({})", stamp(at), when(at, facts.now))
            });
            let text = format!(
                "Its {} has a permit{since}, and its answer is waited for.",
                it.op
            );
            Constraint {
                since: it.permit_at,
                by: self.host(it.permit_run).map(str::to_owned),
                ..Constraint::new(What::Effect, text)
                    .command(format!("presswork jobs receipt {}", facts.job.id))
            }
        });
        [running].into_iter().chain(sent).collect()
    }

    /// Of a job that waits for somebody, or has ended.
    fn stands(&self) -> Constraint {
        let job = &self.facts.job;
        let (text, commands) = self.advised();
        let text = self.said(|| sentence(&text), &told(job));
        let (what, command) = match job.state {
            State::Waiting => (
                What::Waiting,
                Some(format!("presswork jobs show {}", job.id)),
            ),
            State::Held => (What::Held, commands.last().cloned()),
            State::Unresolved => (What::Unresolved, commands.first().cloned()),
            State::Dead => (What::Ended, Some(format!("presswork dead show {}", job.id))),
            _ => (What::Ended, None),
        };
        Constraint {
            since: job.ended_at,
            command,
            ..Constraint::new(what, text)
        }
    }
}

#[cfg(test)]
mod tests;
