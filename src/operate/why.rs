//! Why a job stands where it stands, and what a person can do about it: the one answer, at every
//! door. What is read from the ledger goes in, words and commands that can be pasted come out.

use serde::Serialize;

use super::stops::command;
use crate::clock::{Time, span, stamp, when};
use crate::config::Config;
use crate::effect::{Effect, EffectState};
use crate::fallback;
use crate::gate::Closure;
use crate::job::Job;
use crate::ledger::{Ledger, LedgerError, Pause};
use crate::lifecycle::State;
use crate::outcome::{Class, Failure, Held, LATE};

/// Words, and the commands that follow from them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Advice {
    /// What to do, in a sentence or two.
    pub text: String,
    /// Commands, in the order in which to run them.
    pub commands: Vec<String>,
}

impl Advice {
    fn new<const N: usize>(text: impl Into<String>, commands: [String; N]) -> Self {
        Self {
            text: text.into(),
            commands: commands.to_vec(),
        }
    }
}

/// What to do about a dead letter.
fn dead(job: &Job, effects: &[Effect]) -> Advice {
    let id = job.id;
    if let Some(effect) = effects.iter().find(|it| it.is_open()) {
        return Advice::new(
            format!(
                "Its {} may or may not have happened: look at the evidence, say what happened, then revive it.",
                effect.op
            ),
            [
                format!("presswork unresolved show {id}"),
                format!("presswork unresolved resolve {id} --happened --url URL"),
                format!("presswork unresolved resolve {id} --did-not-happen"),
                format!("presswork dead revive {id}"),
            ],
        );
    }
    let live = effects.iter().any(|it| it.state == EffectState::Confirmed);
    let mut advice = match &job.failure {
        Some(failure) => of_failure(job, failure),
        None => Advice::new(
            "Why it died wasn't kept.",
            [revive(job), discard(job, "not needed")],
        ),
    };
    let goes_on = advice.commands.iter().any(|it| it.contains(" revive "));
    if live && goes_on {
        advice.text.push_str(
            " What it has done already is not done again: a revive goes on from there, with the payload as it is.",
        );
        advice.commands.retain(|it| !it.ends_with("--edit"));
    }
    advice
}

fn revive(job: &Job) -> String {
    format!("presswork dead revive {}", job.id)
}

fn edit(job: &Job) -> String {
    format!("presswork dead revive {} --edit", job.id)
}

fn discard(job: &Job, reason: &str) -> String {
    format!("presswork dead discard {} --reason '{reason}'", job.id)
}

/// By the failure's code first, which says more than its class.
fn of_failure(job: &Job, failure: &Failure) -> Advice {
    match failure.code.as_str() {
        "expired" => Advice::new(
            "Its time passed before it could be done. If it is still wanted, revive it: its age is counted anew and a not_after that is past is lifted. If not, discard it.",
            [revive(job), discard(job, "too late")],
        ),
        LATE => Advice::new(
            "It came later than it may, and was skipped: nothing was sent. If it is still wanted, revive it: then it is done however late it is. If not, discard it.",
            [revive(job), discard(job, "too late")],
        ),
        "poison" => Advice::new(
            "Daemon after daemon died while it ran, the last three with no other suspect beside it, so it is most likely what kills them (memory, a crash in native code). Look at their logs of that time first; revive it on a host of its own, with nothing else running.",
            [
                format!("presswork jobs show {} --json", job.id),
                revive(job),
            ],
        ),
        "panic" => Advice::new(
            "Its handler panicked: a defect of Presswork. Report the message; revive it with a version that has it mended.",
            [revive(job), discard(job, "waits for a mended version")],
        ),
        "timeout" => Advice::new(
            format!(
                "Its attempts took longer than {} s. See whether the platform is slow or the work is large; for new jobs give the kind more time (timeout_s in [kinds.\"{}\"] of jobs.toml). A revived one keeps its own timeout_s.",
                job.timeout_s, job.kind
            ),
            [revive(job), discard(job, "too slow")],
        ),
        "receipt" => Advice::new(
            "A person said that it happened, but what it made isn't here. Take it from the platform; or enqueue a new job under another key, which does it (and pays for it) once more.",
            [discard(job, "taken from the platform")],
        ),
        "nondeterministic" | "step_value" => Advice::new(
            "A re-run would do something else than was written down; it was stopped so that nothing is done twice. Enqueue a new job if it is still wanted.",
            [discard(job, "enqueued anew")],
        ),
        "adopt_for" => Advice::new(
            "Its platform took longer than adopt_for_s allows, and may go on. Look there; raise adopt_for_s in jobs.toml where that is usual, then revive: the same work is asked about again, and nothing is paid for twice.",
            [revive(job), discard(job, "taken from the platform")],
        ),
        "command_timeout" | "cpu_s" | "file_mb" | "signal" => Advice::new(
            "Its program was ended before it was done, as its last words may tell. Give it more in [commands] of jobs.toml, or mend it, then revive.",
            ["presswork check --offline".to_owned(), revive(job)],
        ),
        "output" => Advice::new(
            "Its program ended well, but what it printed is no result: one JSON value on standard output, or nothing. Mend the program. One that is `repeatable` is run again by a revive; else what it did is done, and a new job does it once more.",
            [revive(job), discard(job, "done, without a result")],
        ),
        "no_way_back" => Advice::new(
            "Its endpoint goes on with the work and can't tell how it ends. Let its 202 have a Location, or let it call back (webhook_secret of the account, [api] public_url), then revive: the same work is waited for.",
            ["presswork check".to_owned(), revive(job)],
        ),
        "payload" | "preflight" => mend(job),
        "no_account" | "wrong_account" | "no_identifier" => Advice::new(
            "Its account isn't configured as it needs it. Correct [accounts] in jobs.toml, have it checked, then revive.",
            ["presswork check".to_owned(), revive(job)],
        ),
        _ => of_class(job, failure),
    }
}

fn mend(job: &Job) -> Advice {
    Advice::new(
        "Its payload can't be done as it is. Correct it and revive it in one step: the editor opens with the payload, and it is checked before it is taken.",
        [
            format!("presswork kinds schema {}", job.kind),
            edit(job),
            discard(job, "not mendable"),
        ],
    )
}

fn of_class(job: &Job, failure: &Failure) -> Advice {
    match failure.class {
        Class::Unauthorised => Advice::new(
            format!(
                "The platform refused the credentials of {}. Renew its secret, have it checked, then revive all that died of it.",
                account(job)
            ),
            ["presswork check".to_owned(), revive_alike(job)],
        ),
        Class::Permanent => mend(job),
        Class::Throttled => Advice::new(
            "The platform asked for less. Wait until its limit has passed, or lower the lane's concurrency in jobs.toml, then revive.",
            [revive_alike(job)],
        ),
        Class::Transient => Advice::new(
            format!(
                "{} in a way that may pass. See whether the platform works again, then revive all that died of the same.",
                attempts(job.attempts)
            ),
            [
                format!("{} --dry-run", revive_alike(job)),
                revive_alike(job),
            ],
        ),
        Class::Unknown => Advice::new(
            "It was not known whether it happened; now it is said. Revive it to go on from there.",
            [revive(job)],
        ),
    }
}

fn attempts(n: u32) -> String {
    match n {
        1 => "Its only attempt failed".to_owned(),
        n => format!("All its {n} attempts failed"),
    }
}

fn revive_alike(job: &Job) -> String {
    match &job.fingerprint {
        Some(group) => format!("presswork dead revive --fingerprint {group}"),
        None => revive(job),
    }
}

fn account(job: &Job) -> String {
    job.account
        .as_deref()
        .map_or_else(|| "its account".to_owned(), |it| format!("account `{it}`"))
}

/// What the answer to "why isn't it running?" needs, besides the job.
#[derive(Clone, Debug)]
pub struct Around {
    /// The ledger's time.
    pub now: Time,
    /// What shuts it.
    pub closure: Option<Closure>,
    /// The lane's pause.
    pub pause: Option<Pause>,
    /// How many of the lane run.
    pub running: u64,
    /// How many of it may, across all hosts.
    pub concurrency: Option<u32>,
    /// The lane is in `jobs.toml`.
    pub lane_known: bool,
    /// Runs of the daemon that live.
    pub daemons: usize,
    /// The host of the run that has the job, while that run lives.
    pub host: Option<String>,
}

impl Around {
    /// Reads what the state of `job` asks for, and no more.
    ///
    /// # Errors
    /// When the ledger is away.
    pub async fn read(
        ledger: &dyn Ledger,
        config: &Config,
        job: &Job,
    ) -> Result<Self, LedgerError> {
        let lane = config.lanes.get(&job.lane);
        let mut around = Self {
            now: ledger.now().await?,
            closure: None,
            pause: None,
            running: 0,
            concurrency: lane.and_then(|it| it.concurrency),
            lane_known: lane.is_some(),
            daemons: 0,
            host: None,
        };
        if job.state.is_claimable() {
            let closures = ledger.closures().await?;
            let effects = match job.account.as_deref() {
                Some(own) if fallback::has_some(config, &job.kind, own) => {
                    ledger.effects(job.id).await?
                }
                _ => Vec::new(),
            };
            let (kept, _) = fallback::keeping(job, config, &effects, &closures, around.now);
            around.closure = kept.first().map(|it| (*it).clone());
            let paused = ledger.paused().await?;
            around.pause = paused.into_iter().find(|it| it.lane == job.lane);
            let counts = ledger.counts().await?;
            let running = counts.get(&(job.lane.clone(), State::Running));
            around.running = running.copied().unwrap_or(0);
        }
        if job.state.is_claimable() || job.state == State::Running {
            let runs = ledger.live_runs().await?;
            around.daemons = runs.len();
            let owner = runs.into_iter().find(|it| Some(it.id) == job.run);
            around.host = owner.map(|it| it.host);
        }
        Ok(around)
    }
}

/// Why a job stands where it stands, and what to do about it where something is to be done.
pub fn why(job: &Job, around: &Around, effects: &[Effect]) -> Advice {
    let at = |word: &str| match job.ended_at {
        Some(at) => Advice::new(format!("It {word} at {}.", stamp(at)), []),
        None => Advice::new(format!("It {word}."), []),
    };
    match job.state {
        State::Completed => at("was completed"),
        State::Cancelled => at("was cancelled"),
        State::Running => runs(job, around),
        State::Waiting => Advice::new("It waits for the jobs that come before it.", []),
        State::Held => held(job),
        State::Unresolved => unresolved(job, effects),
        State::Dead => dead(job, effects),
        State::Scheduled | State::Ready | State::Retrying => waits(job, around),
    }
}

fn runs(job: &Job, around: &Around) -> Advice {
    let watch = || [format!("presswork jobs watch {}", job.id)];
    let Some(host) = &around.host else {
        return Advice::new(
            "The daemon that ran it is gone: it is taken back when its lease is past and another daemon runs.",
            watch(),
        );
    };
    if job.cancel {
        let text = "It runs, and was told to stop; a call that is under way is waited for.";
        return Advice::new(text, watch());
    }
    let since = job.claimed_at.map_or(String::new(), |it| {
        format!(" for {}", span(around.now - it))
    });
    let progress = job.progress.as_ref().map_or(String::new(), |it| {
        format!(": {} %, {}", it.percent, it.message)
    });
    Advice::new(format!("It runs on {host}{since}{progress}."), watch())
}

fn unresolved(job: &Job, effects: &[Effect]) -> Advice {
    let op = effects
        .iter()
        .find(|it| it.is_open())
        .map_or("an effect", |it| it.op.as_str());
    Advice::new(
        format!("{op} may or may not have happened, and only a person can say."),
        [
            format!("presswork unresolved show {}", job.id),
            format!(
                "presswork unresolved resolve {} --happened --url URL",
                job.id
            ),
            format!("presswork unresolved resolve {} --did-not-happen", job.id),
        ],
    )
}

/// What to do about a held job.
fn held(job: &Job) -> Advice {
    let id = job.id;
    let release = format!("presswork jobs release {id}");
    match job.held {
        Some(Held::Account) => {
            let all = job.account.as_ref().map_or_else(
                || release.clone(),
                |it| format!("presswork jobs release --account {it}"),
            );
            Advice::new(
                format!(
                    "It is held: the platform refused the credentials of {}. Renew its secret (see [accounts] in jobs.toml), have it checked, then let it and all that wait with it go on. No attempt was charged.",
                    account(job)
                ),
                ["presswork check".to_owned(), all],
            )
        }
        Some(Held::Breaker) => Advice::new(
            "It is held: its platform keeps failing. Let it go on when the platform works again.",
            [release],
        ),
        Some(Held::Budget) => Advice::new(
            "It is held: its budget is spent. Raise it, or let it go on when it is filled again.",
            [release],
        ),
        Some(Held::Nondeterministic) => Advice::new(
            "It is held: a re-run would send something else than was written down, so nothing was sent. Cancel it and enqueue a new job, or let it go on if the difference came from a configuration that is back.",
            [format!("presswork jobs cancel {id}"), release],
        ),
        Some(Held::Policy) if job.failure.as_ref().is_some_and(|it| it.code == LATE) => {
            let why = job.failure.as_ref().map_or("", |it| it.message.as_str());
            Advice::new(
                format!(
                    "It waits for your word: {why}. Publish it now or at another time, or skip it."
                ),
                [
                    format!("presswork jobs cancel {id}"),
                    format!("{release} --at TIME"),
                    release,
                ],
            )
        }
        Some(Held::Policy) => Advice::new("It is held by an operator's rule.", [release]),
        None => Advice::new("It is held; why wasn't kept.", [release]),
    }
}

/// Of a job that a dispatcher may take: the first of what stands in its way.
fn waits(job: &Job, around: &Around) -> Advice {
    let lane = &job.lane;
    if around.now < job.run_at {
        let at = format!("{} ({})", stamp(job.run_at), when(job.run_at, around.now));
        let text = match (job.state, &job.failure) {
            (State::Retrying, Some(failure)) => {
                format!("It failed and is tried again at {at}: {failure}.")
            }
            (State::Retrying, None) => format!("It is tried again at {at}."),
            (State::Scheduled, _) if job.progress.is_some() => {
                let said = job.progress.as_ref().map_or("", |it| &it.message);
                format!("It waits for its time, {at}: {said}.")
            }
            _ => format!("It waits for its time, {at}."),
        };
        return Advice::new(text, []);
    }
    if let Some(closure) = &around.closure {
        let told = format!(
            "It is shut, and stays where it is at no charge: {closure}.{}",
            match closure.until {
                Some(_) => " It goes on by itself then, or before by hand.",
                None => "",
            }
        );
        return Advice::new(told, [command(closure)]);
    }
    if let Some(pause) = &around.pause {
        let reason = if pause.reason.is_empty() {
            String::new()
        } else {
            format!(": {}", pause.reason)
        };
        return Advice::new(
            format!(
                "Its lane `{lane}` is paused by {} since {}{reason}.",
                pause.by,
                stamp(pause.at)
            ),
            [format!("presswork lanes resume {lane}")],
        );
    }
    if !around.lane_known {
        return Advice::new(
            format!(
                "Its lane `{lane}` isn't in jobs.toml, so no daemon with this configuration serves it. Add [lanes.{lane}] and reload (HUP)."
            ),
            [],
        );
    }
    if around.daemons == 0 {
        return Advice::new(
            "No daemon runs on this ledger; it will start as soon as one does.",
            ["presswork run".to_owned()],
        );
    }
    match around.concurrency {
        Some(most) if u64::from(most) <= around.running => Advice::new(
            format!(
                "Its lane is full: {} of {most} run. It starts when one of them ends.",
                around.running
            ),
            [format!("presswork jobs list --lane {lane} --state running")],
        ),
        _ => Advice::new(
            "Nothing stands in its way: a daemon takes it within a moment, after those of its lane that come before it. If it stays, no daemon that runs knows its kind.",
            [format!("presswork jobs watch {}", job.id)],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Cause, Scope as Closed};
    use crate::job::JobId;
    use crate::outcome::Scope;
    use crate::sample;
    use chrono::{Duration, TimeZone, Utc};
    use uuid::Uuid;

    fn job(state: State) -> Job {
        Job {
            id: JobId(Uuid::nil()),
            lane: "mastodon".to_owned(),
            tenant: "default".to_owned(),
            state,
            attempts: 3,
            epoch: 3,
            version: 9,
            fingerprint: Some("abc".to_owned()),
            ..sample::job("post.mastodon", "main", now())
        }
    }

    fn now() -> Time {
        Utc.timestamp_opt(1_800_000_000, 0).unwrap()
    }

    fn around() -> Around {
        Around {
            now: now(),
            closure: None,
            pause: None,
            running: 0,
            concurrency: Some(2),
            lane_known: true,
            daemons: 1,
            host: None,
        }
    }

    #[test]
    fn every_class_has_an_advice_with_a_command() {
        for class in Class::ALL {
            let mut job = job(State::Dead);
            job.failure = Some(Failure::new(*class, Scope::Platform, "x", "x"));
            let advice = dead(&job, &[]);
            assert!(
                !advice.text.is_empty() && !advice.commands.is_empty(),
                "{class}"
            );
        }
    }

    #[test]
    fn what_stands_in_the_way_is_told_in_its_order() {
        let ready = job(State::Ready);
        let said = |job: &Job, around: &Around| why(job, around, &[]).text;
        let mut late = ready.clone();
        late.run_at = now() + Duration::hours(3);
        assert!(said(&late, &around()).contains("in 3 h"));
        let mut it = around();
        it.daemons = 0;
        assert!(said(&ready, &it).contains("No daemon runs"));
        it.pause = Some(Pause {
            lane: "mastodon".to_owned(),
            reason: "rate limits".to_owned(),
            by: "ada".to_owned(),
            at: now(),
        });
        assert!(said(&ready, &it).contains("paused by ada"));
        let scope = Closed {
            tenant: Some("acme".to_owned()),
            ..Closed::default()
        };
        let closure = Closure::new(Cause::Stop, scope, ("ada", "a wrong price"), now());
        it.closure = Some(closure.until(now() + Duration::hours(1)));
        let shut = why(&ready, &it, &[]);
        for word in [
            "tenant `acme` was stopped by ada",
            "a wrong price",
            "by itself",
        ] {
            assert!(shut.text.contains(word), "{word}: {}", shut.text);
        }
        assert_eq!(shut.commands, ["presswork go --tenant acme"]);
        it = around();
        it.running = 2;
        assert!(said(&ready, &it).contains("full: 2 of 2"));
        it.lane_known = false;
        assert!(said(&ready, &it).contains("isn't in jobs.toml"));
        assert!(said(&ready, &around()).contains("Nothing stands in its way"));
        assert_eq!(said(&job(State::Completed), &around()), "It was completed.");
        let mut running = job(State::Running);
        assert!(said(&running, &around()).contains("is gone"));
        it = around();
        it.host = Some("press-1".to_owned());
        running.claimed_at = Some(now() - Duration::seconds(70));
        assert_eq!(said(&running, &it), "It runs on press-1 for 1 m.");
    }

    #[test]
    fn what_only_a_person_knows_is_not_sent_to_the_editor() {
        let mut job = job(State::Dead);
        job.failure = Some(Failure::permanent("receipt", "the text isn't here"));
        let advice = dead(&job, &[]);
        assert!(
            advice.text.contains("Take it from the platform"),
            "{}",
            advice.text
        );
        assert!(advice.commands.iter().all(|it| !it.contains("--edit")));
    }

    #[test]
    fn a_held_account_lets_all_its_jobs_go_on() {
        let mut job = job(State::Held);
        job.held = Some(Held::Account);
        assert!(held(&job).commands[1].ends_with("--account main"));
    }
}
