//! The judge: joins what producers were told, what the ledger says, and what the outside really saw.
//! Pure, and of its own words: nothing of the engine is named here, or both could be wrong together.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::evidence::{Door, EffectRow, Evidence, Ms, Past, Row, Sort, Strike, Told};
use super::faults::{SEEN, denied, fault_between, hit, jumped_before, sort_of};
use super::outside::{Act, Class, Request, class};

/// After its answer left a platform, a send is under way to the ledger for so long at most.
const HOME: Ms = 3_000;
/// A permit's time is the ledger's, and a strike's is ours: so far they may be apart.
const SLACK: Ms = 500;
/// So many deaths of owners in a row are charged to a job in any case; those after that only where it was
/// the one that could have caused them.
const SUSPECT: usize = 2;
/// So many in a row bury it, at least.
const POISON: usize = 5;
/// What is told of what is wrong.
const TOLD: usize = 40;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Every promise held, and it was tried hard enough to say so.
    pub proven: bool,
    /// What repeats the order of the events.
    pub seed: u64,
    /// Jobs that a door acknowledged after the ledger's commit.
    pub accepted: usize,
    /// Of those, the ones that are gone, or never came to an end.
    pub lost: usize,
    /// Jobs that the plain Redis inbox acknowledged.
    pub accepted_inbox: usize,
    /// Of those, the ones that are gone: with a Redis that was wiped before they were taken.
    pub lost_inbox: usize,
    /// Of those, the ones for which no wipe accounts.
    pub lost_inbox_unexplained: usize,
    /// Things that happened more often than they may.
    pub duplicated: usize,
    /// Paid calls that were repeated after a lost answer, as the settings allow, or after an error of which
    /// the platform says that it costs nothing.
    pub paid_twice: usize,
    /// The ledger says that it happened, and it never did.
    pub false_confirms: usize,
    /// The ledger says that it didn't happen, and it did.
    pub false_refusals: usize,
    /// Effects of which the ledger says that nobody knows.
    pub unknown: usize,
    /// Of those, the ones that were in flight at a fault, or whose answer was kept from them.
    pub unknown_explained: usize,
    /// Of those, the ones that happened.
    pub unknown_happened: usize,
    /// From the kill of a daemon until all its jobs are taken back from it: the median, in ms.
    pub recovery_ms_p50: Option<i64>,
    /// The same: 99 of 100 are faster.
    pub recovery_ms_p99: Option<i64>,
    /// Kills that hit jobs at work.
    pub recoveries: usize,
    /// From a wipe or a kill of Redis to the next dispatch: the median, in ms.
    pub flush_recovery_ms_p50: Option<i64>,
    /// The same: 99 of 100 are faster.
    pub flush_recovery_ms_p99: Option<i64>,
    /// Of those, the ones at which jobs were ready.
    pub flush_recoveries: usize,
    /// From PostgreSQL's return after a kill to the next dispatch: the median, in ms.
    pub postgres_recovery_ms_p50: Option<i64>,
    /// The same: 99 of 100 are faster.
    pub postgres_recovery_ms_p99: Option<i64>,
    /// From a daemon's signal to stop to its end: the median, in ms.
    pub stop_ms_p50: Option<i64>,
    /// The same: 99 of 100 are faster.
    pub stop_ms_p99: Option<i64>,
    /// Graceful stops that were none: an attempt charged, or a lease left behind, or not the exit code 0.
    pub stops_unclean: usize,
    /// Outcomes of lost leases that the ledger refused.
    pub late_writes_refused: usize,
    /// Times at which a lane had more requests under way than jobs it may run.
    pub limits_overstepped: usize,
    /// Jobs whose history contradicts itself: a lease that was settled twice, attempts miscounted.
    pub histories_wrong: usize,
    /// Jobs that were given up for no reason of their own.
    pub buried_wrongly: usize,
    /// Jobs that were given up because daemon after daemon died, or lost its lease, under them.
    pub poisoned: usize,
    /// Envelopes that were acknowledged and then kept as not acceptable.
    pub quarantined: usize,
    /// Sends of class B that were in flight at a fault.
    pub in_flight_b: usize,
    /// Sends of class C that were.
    pub in_flight_c: usize,
    /// Of both, those that happened and whose answer never arrived.
    pub acted_unanswered: usize,
    /// What was wanted of each class.
    pub in_flight_min: usize,
    /// What was broken, by sort.
    pub strikes: BTreeMap<Sort, usize>,
    /// How the jobs ended.
    pub states: BTreeMap<String, usize>,
    /// Effects, by class and state.
    pub effects: BTreeMap<String, usize>,
    /// What happened outside.
    pub acts: usize,
    /// Attempts that ended with their owner.
    pub reclaimed: usize,
    /// The most requests of a lane at once, beside what it may run.
    pub lanes: BTreeMap<String, (usize, Option<u32>)>,
    /// Seconds that it took.
    pub seconds: i64,
    /// What was not tried, and why.
    pub left_out: Vec<String>,
    /// What is wrong, in words.
    pub violations: Vec<String>,
    /// What it wasn't tried hard enough for.
    pub missing: Vec<String>,
}

/// Judges.
pub fn check(evidence: &Evidence, acts: &[Act], requests: &[Request]) -> Verdict {
    let mut judge = Judge::new(evidence, acts, requests);
    judge.jobs();
    judge.strays();
    judge.stops();
    judge.in_flight();
    judge.limits();
    judge.done()
}

struct Judge<'a> {
    evidence: &'a Evidence,
    acts: HashMap<&'a str, Vec<&'a Act>>,
    requests: HashMap<&'a str, Vec<&'a Request>>,
    every: &'a [Request],
    verdict: Verdict,
    wrong: Vec<String>,
}

impl<'a> Judge<'a> {
    fn new(evidence: &'a Evidence, acts: &'a [Act], requests: &'a [Request]) -> Self {
        let mut verdict = Verdict {
            seed: evidence.seed,
            acts: acts.len(),
            quarantined: evidence.quarantined.len(),
            in_flight_min: evidence.in_flight_min,
            late_writes_refused: evidence.late_writes_refused,
            seconds: (evidence.ended - evidence.began) / 1_000,
            left_out: evidence.left_out.clone(),
            ..Verdict::default()
        };
        for it in &evidence.strikes {
            *verdict.strikes.entry(it.sort).or_default() += 1;
        }
        let wrong = evidence.quarantined.iter();
        Self {
            evidence,
            acts: by_key(acts, |it| &it.key),
            requests: by_key(requests, |it| &it.key),
            every: requests,
            verdict,
            wrong: wrong.map(|it| format!("quarantined: {it}")).collect(),
        }
    }

    fn wrong(&mut self, key: &str, what: impl std::fmt::Display) {
        self.wrong.push(format!("{key}: {what}"));
    }

    fn jobs(&mut self) {
        let mut rows: HashMap<&str, Vec<&Row>> = by_key(&self.evidence.jobs, |it| &it.key);
        for told in &self.evidence.told {
            let mine = rows.remove(told.key.as_str()).unwrap_or_default();
            self.acceptance(told, &mine);
            if 1 < mine.len() {
                self.verdict.duplicated += mine.len() - 1;
                let (n, key) = (mine.len(), &told.key);
                self.wrong(key, format_args!("{n} jobs of one key"));
            }
            for row in mine {
                self.row(told, row);
            }
        }
        let nobodys: Vec<&str> = rows.into_keys().collect();
        for key in nobodys {
            self.verdict.histories_wrong += 1;
            self.wrong(key, "a job that nobody asked for");
        }
    }

    /// What was acknowledged is there, and has ended.
    fn acceptance(&mut self, told: &Told, mine: &[&Row]) {
        let Some(accepted) = told.accepted else {
            return;
        };
        let ended = |it: &&Row| {
            let state = it.state.as_str();
            matches!(state, "completed" | "cancelled" | "dead" | "unresolved")
        };
        let stuck = mine.iter().find(|it| !ended(it)).map(|it| it.state.clone());
        let what = match &stuck {
            _ if mine.is_empty() => "acknowledged, and it isn't there".to_owned(),
            Some(state) => format!("never came to an end: is still {state}"),
            None => String::new(),
        };
        let lost = !what.is_empty();
        match told.door {
            Door::Http => {
                self.verdict.accepted += 1;
                self.verdict.lost += usize::from(lost);
            }
            Door::Inbox => {
                self.verdict.accepted_inbox += 1;
                self.verdict.lost_inbox += usize::from(lost);
                let wiped = |it: &Strike| it.sort.wipes() && accepted <= it.until;
                if lost && (!mine.is_empty() || !self.evidence.strikes.iter().any(wiped)) {
                    self.verdict.lost_inbox_unexplained += 1;
                } else if lost {
                    return;
                }
            }
        }
        if lost {
            self.wrong(&told.key, what);
        }
    }

    fn row(&mut self, told: &Told, row: &Row) {
        *self.verdict.states.entry(row.state.clone()).or_default() += 1;
        if row.kind != told.kind {
            self.verdict.histories_wrong += 1;
            self.wrong(&row.key, format_args!("is a {}", row.kind));
        }
        let reclaimed = row.history.iter().filter(|it| it.outcome == "reclaimed");
        self.verdict.reclaimed += reclaimed.count();
        self.history(row);
        self.burial(told, row);
        self.effects(row);
    }

    /// Each lease was settled once, and what failed was charged, once.
    fn history(&mut self, row: &Row) {
        let mut found = Vec::new();
        let each: BTreeSet<u32> = row.history.iter().map(|it| it.epoch).collect();
        if each.len() != row.history.len() {
            found.push("a lease was settled twice".to_owned());
        }
        if each.last().is_some_and(|it| row.epoch < *it) {
            found.push("an attempt of a lease that it never had".to_owned());
        }
        let of = |word: &str| row.history.iter().filter(|it| it.outcome == word).count();
        if of("completed") != usize::from(row.state == "completed") {
            let times = of("completed");
            found.push(format!("is {} and completed {times} times", row.state));
        }
        let charged = row.history.iter().filter(|it| is_charged(it)).count();
        if charged != row.attempts as usize || row.attempts_max < row.attempts {
            let (is, most) = (row.attempts, row.attempts_max);
            found.push(format!(
                "{charged} attempts failed, {is} of {most} are charged"
            ));
        }
        let dead = died(row);
        let least = dead.min(SUSPECT);
        if !(least..=dead).contains(&(row.crashes as usize)) {
            let is = row.crashes;
            found.push(format!("{dead} owners died in a row, {is} are charged"));
        }
        self.verdict.histories_wrong += usize::from(!found.is_empty());
        for what in found {
            self.wrong(&row.key, what);
        }
    }

    /// What is given up was refused, or had its attempts.
    fn burial(&mut self, told: &Told, row: &Row) {
        if row.state != "dead" {
            let meant = told.meant.is_some() && row.state == "completed";
            if meant {
                self.verdict.buried_wrongly += 1;
                self.wrong(&row.key, "completed, and was meant to fail");
            }
            return;
        }
        let code = row.code.as_deref();
        let meant = told.meant.is_some() && code == told.meant.as_deref();
        // so many daemons died under it, one after the other, that it must be what kills them
        let poison = code == Some("poison") && POISON <= died(row);
        self.verdict.poisoned += usize::from(poison);
        if !meant && !poison && row.attempts < row.attempts_max {
            let code = code.unwrap_or("no code").to_owned();
            self.verdict.buried_wrongly += 1;
            self.wrong(
                &row.key,
                format_args!("given up with attempts left: {code}"),
            );
        }
    }

    fn effects(&mut self, row: &Row) {
        let acts = self.acts.get(row.key.as_str()).cloned().unwrap_or_default();
        for it in &row.effects {
            let name = format!("{} {}", it.class, it.state);
            *self.verdict.effects.entry(name).or_default() += 1;
        }
        let paid = acts.iter().any(|it| class(&it.op) == Some(Class::P));
        let extra = acts.len().saturating_sub(1);
        let requests = self.requests.get(row.key.as_str());
        let denied = requests.into_iter().flatten().filter(|it| denied(it));
        let repeats = self.evidence.repeats.get(&row.kind).copied();
        let allowed = match paid {
            true => repeats.unwrap_or(1) as usize + denied.count(),
            false => 0,
        };
        self.verdict.paid_twice += extra.min(allowed);
        if allowed < extra {
            self.verdict.duplicated += extra - allowed;
            let n = acts.len();
            self.wrong(&row.key, format_args!("happened {n} times"));
        }
        let happened = !acts.is_empty();
        if row.effects.is_empty() && happened {
            self.verdict.false_refusals += 1;
            self.wrong(&row.key, "happened, and the ledger knows of no effect");
        }
        for effect in &row.effects {
            match (effect.state.as_str(), happened) {
                ("confirmed", false) => {
                    self.verdict.false_confirms += 1;
                    self.wrong(&row.key, "confirmed, and it never happened");
                }
                ("refused" | "intended", true) => {
                    self.verdict.false_refusals += 1;
                    let state = &effect.state;
                    self.wrong(&row.key, format_args!("{state}, and it happened"));
                }
                ("sending" | "unknown" | "unresolved", _) => self.unknown(row, effect, happened),
                _ => {}
            }
        }
        let open = |it: &EffectRow| it.state != "confirmed";
        if row.state == "completed" && row.effects.iter().any(open) {
            self.verdict.false_confirms += 1;
            self.wrong(&row.key, "completed, and an effect of it isn't confirmed");
        }
    }

    /// Nobody knows: then there must have been a fault while it was in flight.
    fn unknown(&mut self, row: &Row, effect: &EffectRow, happened: bool) {
        self.verdict.unknown += 1;
        self.verdict.unknown_happened += usize::from(happened);
        let sends = self.requests.get(row.key.as_str());
        let mut sends = sends
            .into_iter()
            .flatten()
            .filter(|it| class(&it.op).is_some());
        let kept = |it: &&Request| it.fault.is_some() || it.status.is_none();
        let hit = |it: &&Request| {
            let until = it.end.map_or(Ms::MAX, |end| end + HOME);
            fault_between(&self.evidence.strikes, it.at, until)
        };
        let explained = sends.any(|it| kept(it) || hit(it)) || self.permitted_at_a_strike(effect);
        self.verdict.unknown_explained += usize::from(explained);
        if !explained {
            let state = &effect.state;
            let what = format_args!("{state}, and no fault was near it");
            self.wrong(&row.key, what);
        }
    }

    /// The permit was given, and no request came: something must have stood between.
    fn permitted_at_a_strike(&self, effect: &EffectRow) -> bool {
        let Some(permit) = effect.permit_at else {
            return false;
        };
        let mut shift = 0;
        let mut strikes = self.evidence.strikes.iter();
        strikes.any(|it| {
            let before = shift;
            shift = it.shift_ms;
            let near = [before, shift].iter().any(|shift| {
                let at = permit - shift;
                // the request would have left at once
                it.at - HOME - SLACK <= at && at <= it.until + SLACK
            });
            near && it.sort.is_fault()
        })
    }

    /// Everything that happened belongs to a job that was asked for.
    fn strays(&mut self) {
        let known: BTreeSet<&str> = self.evidence.told.iter().map(|it| &*it.key).collect();
        let there: BTreeSet<&str> = self.evidence.jobs.iter().map(|it| &*it.key).collect();
        let stray: Vec<(String, usize)> = self
            .acts
            .iter()
            .filter(|(key, _)| !known.contains(*key) || !there.contains(*key))
            .map(|(key, acts)| ((*key).to_owned(), acts.len()))
            .collect();
        for (key, n) in stray {
            self.verdict.false_refusals += n;
            self.wrong(&key, "happened, and the ledger has no such job");
        }
    }

    /// A daemon that is told to stop ends its jobs or gives them back: it leaves no lease to run out, and
    /// what fails meanwhile has a reason of its own.
    fn stops(&mut self) {
        let evidence = self.evidence;
        let rows: HashMap<&str, &Row> = evidence.jobs.iter().map(|it| (&*it.id, it)).collect();
        for stop in &evidence.stops {
            let mut found = Vec::new();
            if stop.exit != Some(0) {
                found.push(format!(
                    "strike {}: its exit code is {:?}",
                    stop.strike, stop.exit
                ));
            }
            for (id, epoch) in &stop.held {
                let Some(row) = rows.get(id.as_str()) else {
                    continue;
                };
                let past = row.history.iter().find(|it| it.epoch == *epoch);
                let left = past.is_some_and(|it| it.outcome == "reclaimed")
                    && !jumped_before(&evidence.strikes, stop.strike, HOME);
                let charged = past.is_some_and(is_charged) && !self.own_reason(row);
                if left || charged {
                    let how = if left { "left behind" } else { "charged" };
                    let (strike, key) = (stop.strike, &row.key);
                    found.push(format!(
                        "{key}: {how} by the graceful stop of strike {strike}"
                    ));
                }
            }
            self.verdict.stops_unclean += usize::from(!found.is_empty());
            self.wrong.append(&mut found);
        }
    }

    /// Whether a job may fail by itself: it is asked to, or a platform refused it something.
    fn own_reason(&self, row: &Row) -> bool {
        let requests = self.requests.get(row.key.as_str());
        let refused = |it: &&Request| it.fault.is_some() || it.status.is_none_or(|it| 400 <= it);
        row.kind == "test.job" || requests.into_iter().flatten().any(refused)
    }

    /// Sends that a fault hit: each is counted once.
    fn in_flight(&mut self) {
        for it in hit(&self.evidence.strikes, self.every) {
            match class(&it.op) {
                Some(Class::B) => self.verdict.in_flight_b += 1,
                _ => self.verdict.in_flight_c += 1,
            }
            let happened = self.acts.contains_key(it.key.as_str());
            self.verdict.acted_unanswered += usize::from(happened && it.status.is_none());
        }
    }

    /// A lane never has more requests under way than jobs that it may run. What was under way while a
    /// daemon lost its lease and didn't know is not counted: nobody can call it back.
    fn limits(&mut self) {
        let strikes = self.evidence.strikes.iter();
        let zombies: Vec<&Strike> = strikes.filter(|it| it.sort.makes_zombies()).collect();
        let kinds: HashMap<&str, &str> = self
            .evidence
            .told
            .iter()
            .map(|it| (it.key.as_str(), it.kind.as_str()))
            .collect();
        let mut moments: HashMap<&str, Vec<(Ms, i32, &str)>> = HashMap::new();
        for it in self.every.iter().filter(|it| it.writes) {
            let lane = kinds.get(it.key.as_str());
            let lane = lane.and_then(|kind| self.evidence.kinds.get(*kind));
            let end = it.end.unwrap_or(self.evidence.ended);
            let zombie = |strike: &&Strike| it.at <= strike.until + SEEN && strike.at <= end;
            let Some(lane) = lane.filter(|_| !zombies.iter().any(zombie)) else {
                continue;
            };
            let moments = moments.entry(lane).or_default();
            // an end comes before a beginning of the same moment: the log knows milliseconds
            moments.push((it.at, 1, &it.key));
            moments.push((end, -1, &it.key));
        }
        for (lane, mut moments) in moments {
            moments.sort_unstable();
            let most = self.evidence.lanes.get(lane).copied().flatten();
            let mut open: HashMap<&str, i32> = HashMap::new();
            let (mut peak, mut over) = (0, 0);
            for (_, step, key) in moments {
                let mine = open.entry(key).or_default();
                *mine += step;
                if *mine == 0 {
                    open.remove(key);
                }
                peak = peak.max(open.len());
                let beyond = most.is_some_and(|most| (most as usize) < open.len());
                over += usize::from(beyond && 0 < step);
            }
            self.verdict.limits_overstepped += over;
            self.verdict.lanes.insert(lane.to_owned(), (peak, most));
            if 0 < over {
                let most = most.unwrap_or_default();
                let what = format_args!("{peak} requests at once, where {most} are allowed");
                self.wrong(&format!("lane {lane}"), what);
            }
        }
    }

    fn done(self) -> Verdict {
        let mut verdict = self.verdict;
        let evidence = self.evidence;
        let after = |sorts: &[Sort]| {
            let of = evidence.recoveries.iter().filter(|it| {
                sort_of(&evidence.strikes, it.strike).is_some_and(|it| sorts.contains(&it))
            });
            sorted(of.map(|it| it.ms))
        };
        let times = after(&[Sort::Kill]);
        verdict.recoveries = times.len();
        verdict.recovery_ms_p50 = quantile(&times, 50);
        verdict.recovery_ms_p99 = quantile(&times, 99);
        let times = after(&[Sort::Flush, Sort::Redis]);
        verdict.flush_recoveries = times.len();
        verdict.flush_recovery_ms_p50 = quantile(&times, 50);
        verdict.flush_recovery_ms_p99 = quantile(&times, 99);
        let times = after(&[Sort::Postgres]);
        verdict.postgres_recovery_ms_p50 = quantile(&times, 50);
        verdict.postgres_recovery_ms_p99 = quantile(&times, 99);
        let times = sorted(evidence.stops.iter().map(|it| it.ms));
        verdict.stop_ms_p50 = quantile(&times, 50);
        verdict.stop_ms_p99 = quantile(&times, 99);
        let least = verdict.in_flight_min;
        for (class, n) in [("B", verdict.in_flight_b), ("C", verdict.in_flight_c)] {
            if n < least {
                let what =
                    format!("{n} sends of class {class} were in flight at a fault, not {least}");
                verdict.missing.push(what);
            }
        }
        if verdict.acted_unanswered == 0 {
            let what = "no send that was in flight at a fault acted unanswered";
            verdict.missing.push(what.to_owned());
        }
        let more = self.wrong.len().saturating_sub(TOLD);
        verdict.violations = self.wrong;
        // the same evidence is told in the same order
        verdict.violations.sort_unstable();
        verdict.violations.truncate(TOLD);
        if 0 < more {
            verdict.violations.push(format!("... and {more} more"));
        }
        verdict.proven = verdict.violations.is_empty() && verdict.missing.is_empty();
        verdict
    }
}

/// Whether an attempt counts.
fn is_charged(it: &Past) -> bool {
    let class = it.class.as_deref();
    it.outcome == "failed" && matches!(class, Some("transient" | "permanent"))
}

/// How many owners of a job died in a row, at the end of its history. A run that was given back, or
/// expired before it began, tells nothing about them.
fn died(row: &Row) -> usize {
    let told = row.history.iter().rev().map(|it| it.outcome.as_str());
    let told = told.filter(|it| !matches!(*it, "released" | "expired"));
    told.take_while(|it| *it == "reclaimed").count()
}

fn by_key<'a, T>(all: &'a [T], key: impl Fn(&'a T) -> &'a str) -> HashMap<&'a str, Vec<&'a T>> {
    let mut found: HashMap<&str, Vec<&T>> = HashMap::new();
    for it in all {
        found.entry(key(it)).or_default().push(it);
    }
    found
}

fn sorted(times: impl Iterator<Item = i64>) -> Vec<i64> {
    let mut times: Vec<i64> = times.collect();
    times.sort_unstable();
    times
}

/// The smallest value that so many in a hundred don't exceed.
fn quantile(sorted: &[i64], percent: usize) -> Option<i64> {
    let at = (sorted.len() * percent).div_ceil(100);
    sorted.get(at.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests;
