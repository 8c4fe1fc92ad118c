//! The effect protocol as a model: workers that die, sleep and are taken for dead, a network that
//! delivers late or never, a reconciler, and a clock. What is decided is decided by the functions that
//! production runs ([`next`], [`concluded`], [`judge`], [`Effect::lost`]); what the ledger compares is
//! written out here in a line each. Every order of events is tried for one effect and two workers,
//! random ones for more.

use std::collections::HashSet;
use std::time::Duration;

use chrono::TimeDelta;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use crate::budget::Price;
use crate::clock::Time;
use crate::effect::{
    Effect, EffectClass, EffectState, Evidence, Looking, Next, Receipt, Rule, chrono_of, next,
};
use crate::finding::{Finding, judge};
use crate::job::JobId;
use crate::ledger::Conclusion;
use crate::outcome::{Class, Failure, Scope};
use crate::platform::CallError;
use crate::wanted::{Wanted, concluded};

const IN_FLIGHT: Duration = Duration::from_secs(2);
const BUDGET: Duration = Duration::from_secs(2);

/// How much may happen.
#[derive(Clone, Copy)]
struct Bounds {
    workers: usize,
    deaths: u8,
    takeovers: u8,
    sends: u32,
    seconds: i64,
}

/// Where a worker is.
#[derive(Clone, Debug, PartialEq)]
enum At {
    Dead,
    Idle,
    /// It saw the effect in this state with so many sends, and wants a permit.
    Wants(EffectState, u32),
    /// It has the permit of this send, given at this second.
    May(u32, i64),
    /// It waits for the answer to this send, sent at this second.
    Waits(u32, i64),
}

/// A request on its way, sent at this second.
#[derive(Clone, Debug, PartialEq)]
struct Request {
    worker: usize,
    send: u32,
    at: i64,
    /// The handle or key that it carries.
    key: u64,
}

/// What the platform answered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Done,
    Refused,
}

#[derive(Clone)]
struct World {
    rule: Rule,
    bounds: Bounds,
    now: i64,
    row: Effect,
    workers: Vec<At>,
    /// Who has the lease.
    holder: usize,
    requests: Vec<Request>,
    answers: Vec<(usize, u32, Answer)>,
    /// The keys under which the platform acted, one each time.
    acted: Vec<u64>,
    /// A look has seen this, of an effect of so many sends, and hasn't told the ledger yet.
    seen: Option<(u32, Finding)>,
    deaths: u8,
    takeovers: u8,
}

#[derive(Clone, Debug)]
enum Event {
    Tick,
    Step(usize),
    Die(usize),
    TakeOver(usize),
    Act(usize, bool),
    Refuse(usize),
    Drop(usize),
    Hear(usize),
    LoseAnswer(usize),
    GiveUp(usize),
    Look(bool),
    Tell,
}

fn time(second: i64) -> Time {
    Time::UNIX_EPOCH + TimeDelta::seconds(second)
}

fn seconds(it: Duration) -> i64 {
    i64::try_from(it.as_secs()).unwrap_or(i64::MAX)
}

impl World {
    fn new(rule: Rule, bounds: Bounds) -> Self {
        let job = (JobId(Uuid::nil()), 0);
        let row = Effect {
            intent: "i".to_owned(),
            keep: serde_json::json!(0),
            ..Effect::new(job, ("publish", 0), "a", "x", rule.class)
        };
        Self {
            rule,
            bounds,
            now: 0,
            row,
            workers: vec![At::Idle; bounds.workers],
            holder: 0,
            requests: vec![],
            answers: vec![],
            acted: vec![],
            seen: None,
            deaths: 0,
            takeovers: 0,
        }
    }

    /// What tells two worlds apart; not the evidence's words.
    fn key(&self) -> String {
        let row = &self.row;
        format!(
            "{} {:?} {} {} {:?} {:?} {} {:?} {:?} {} {:?} {:?} {:?} {:?} {} {}",
            self.now,
            row.state,
            row.sends,
            row.lost(),
            row.permit_at,
            row.permit_run,
            row.looks,
            row.look_at,
            self.workers,
            self.holder,
            self.requests,
            self.answers,
            self.acted,
            self.seen,
            self.deaths,
            self.takeovers
        )
    }

    fn events(&self) -> Vec<Event> {
        let mut all = vec![];
        if self.now < self.bounds.seconds {
            all.push(Event::Tick);
        }
        for (n, at) in self.workers.iter().enumerate() {
            if *at == At::Dead {
                continue;
            }
            all.push(Event::Step(n));
            if self.deaths < self.bounds.deaths {
                all.push(Event::Die(n));
            }
            if matches!(at, At::Waits(_, since) if seconds(BUDGET) <= self.now - since) {
                all.push(Event::GiveUp(n));
            }
        }
        for n in 0..self.workers.len() {
            let free =
                self.workers[self.holder] == At::Dead || self.takeovers < self.bounds.takeovers;
            if n != self.holder && self.workers[n] == At::Idle && free {
                all.push(Event::TakeOver(n));
            }
        }
        for n in 0..self.requests.len() {
            all.extend([
                Event::Act(n, true),
                Event::Act(n, false),
                Event::Refuse(n),
                Event::Drop(n),
            ]);
        }
        for n in 0..self.answers.len() {
            all.extend([Event::Hear(n), Event::LoseAnswer(n)]);
        }
        if self.row.state == EffectState::Unknown
            && self.row.look_at.is_some_and(|it| it <= time(self.now))
        {
            all.extend([Event::Look(true), Event::Look(false)]);
        }
        if self.seen.is_some() {
            all.push(Event::Tell);
        }
        all
    }

    fn patience(&self, me: usize) -> Duration {
        let other = self.row.permit_run.filter(|it| *it != run(me));
        match other {
            Some(it) if self.row.state == EffectState::Sending => {
                let lives =
                    (0..self.workers.len()).any(|n| run(n) == it && self.workers[n] != At::Dead);
                if lives { BUDGET } else { self.rule.in_flight }
            }
            _ => self.rule.in_flight,
        }
    }

    /// The ledger's word on a decision: compared with the state and the sends that it was made on.
    fn decide(&mut self, from: (EffectState, u32), it: Conclusion) {
        if (self.row.state, self.row.sends) == from {
            self.conclude(it);
        }
    }

    fn conclude(&mut self, it: Conclusion) {
        self.row.state = it.to;
        self.row.receipt = it.receipt.or(self.row.receipt.take());
        self.row.evidence.push(it.evidence);
        self.row.look_at = it.look_in.map(|wait| time(self.now) + chrono_of(wait));
    }

    fn step(&mut self, me: usize) {
        let now = time(self.now);
        match self.workers[me].clone() {
            At::Idle if self.holder == me => {
                // a handle that leads to nothing is replaced, as `intend` does
                let free = matches!(self.row.state, EffectState::Intended | EffectState::Refused);
                if self.rule.class == EffectClass::B && free {
                    self.row.keep = serde_json::json!(self.row.sends);
                }
                match next(&self.row, &self.rule, "i", self.patience(me), now) {
                    Next::Send | Next::Repeat if self.row.sends < self.bounds.sends => {
                        self.workers[me] = At::Wants(self.row.state, self.row.sends);
                    }
                    Next::LookUp(looking) if self.row.look_at.is_none() => {
                        let from = (self.row.state, self.row.sends);
                        let seen = "nobody heard".to_owned();
                        self.decide(
                            from,
                            Conclusion {
                                to: EffectState::Unknown,
                                receipt: None,
                                evidence: Evidence::new(now, seen),
                                look_in: Some(looking.wait(0)),
                            },
                        );
                    }
                    Next::Ask(why) if self.row.state != EffectState::Unresolved => {
                        let from = (self.row.state, self.row.sends);
                        let evidence = Evidence::new(now, why);
                        self.decide(
                            from,
                            Conclusion {
                                to: EffectState::Unresolved,
                                receipt: None,
                                evidence,
                                look_in: None,
                            },
                        );
                    }
                    _ => {}
                }
            }
            At::Wants(state, sends) => {
                // the permit: the lease, and the compare-and-set
                let given = self.holder == me && (self.row.state, self.row.sends) == (state, sends);
                self.workers[me] = At::Idle;
                if given {
                    self.row.state = EffectState::Sending;
                    self.row.sends += 1;
                    self.row.permit_at = Some(now);
                    self.row.first_sent_at.get_or_insert(now);
                    self.row.permit_run = Some(run(me));
                    self.row.looks = 0;
                    self.row.look_at = None;
                    self.workers[me] = At::May(sends + 1, self.now);
                }
            }
            At::May(send, since) if self.now - since < 1 => {
                let key = self.row.keep.as_u64().unwrap_or_default();
                let at = self.now;
                self.requests.push(Request {
                    worker: me,
                    send,
                    at,
                    key,
                });
                self.workers[me] = At::Waits(send, at);
            }
            // asleep for too long: it isn't sent any more
            At::May(send, _) => self.answered(me, send, Err(CallError::Refused(asleep()))),
            _ => {}
        }
    }

    fn answered(&mut self, me: usize, send: u32, answer: Result<Receipt, CallError>) {
        self.workers[me] = At::Idle;
        let wanted = Wanted {
            step: "publish",
            ordinal: 0,
            op: "x",
            rule: self.rule,
            intent: serde_json::Value::Null,
            keep: serde_json::Value::Null,
            says: None,
            budget: BUDGET,
            price: Price::Free,
        };
        // what the permit was told of the sends before it
        let lost_before = self.row.lost().saturating_sub(1);
        let (conclusion, _) = concluded(&wanted, lost_before, send, time(self.now), answer);
        if self.row.state == EffectState::Sending && self.row.sends == send {
            self.conclude(conclusion);
        }
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Tick => {
                self.now += 1;
                // the platform's promise: nothing acts later than this after it was sent
                let (now, bound) = (self.now, seconds(IN_FLIGHT));
                self.requests.retain(|it| now - it.at < bound);
            }
            Event::Step(n) => self.step(*n),
            Event::Die(n) => {
                self.deaths += 1;
                self.workers[*n] = At::Dead;
            }
            Event::TakeOver(n) => {
                if self.workers[self.holder] != At::Dead {
                    self.takeovers += 1;
                }
                self.holder = *n;
            }
            Event::Act(n, heard) => {
                let it = self.requests.remove(*n);
                let dedupes = matches!(self.rule.class, EffectClass::A | EffectClass::B);
                if !dedupes || !self.acted.contains(&it.key) {
                    self.acted.push(it.key);
                }
                if *heard {
                    self.answers.push((it.worker, it.send, Answer::Done));
                }
            }
            Event::Refuse(n) => {
                let it = self.requests.remove(*n);
                self.answers.push((it.worker, it.send, Answer::Refused));
            }
            Event::Drop(n) => drop(self.requests.remove(*n)),
            Event::Hear(n) => {
                let (worker, send, answer) = self.answers.remove(*n);
                if matches!(self.workers[worker], At::Waits(it, _) if it == send) {
                    let answer = match answer {
                        Answer::Done => Ok(receipt(self.now)),
                        Answer::Refused => Err(CallError::Refused(asleep())),
                    };
                    self.answered(worker, send, answer);
                }
            }
            Event::LoseAnswer(n) => drop(self.answers.remove(*n)),
            Event::GiveUp(n) => {
                if let At::Waits(send, _) = self.workers[*n] {
                    let lost = Failure::new(Class::Unknown, Scope::Platform, "timeout", "none");
                    self.answered(*n, send, Err(CallError::Unknown(lost)));
                }
            }
            Event::Look(sees) => {
                self.row.looks += 1;
                self.row.look_at = None;
                let key = self.row.keep.as_u64().unwrap_or_default();
                let there = match self.rule.class {
                    EffectClass::B => self.acted.contains(&key),
                    _ => !self.acted.is_empty(),
                };
                let finding = match (there && *sees, self.rule.class) {
                    (true, _) => Finding::Happened(Box::new(receipt(self.now))),
                    // a handle's word is a word: but for one that lags, which says nothing
                    (false, EffectClass::B) if !there => Finding::DidNotHappen("it waits".into()),
                    _ => Finding::CannotTell("nothing there".into()),
                };
                self.seen = Some((self.row.sends, finding));
            }
            Event::Tell => {
                if let (Some((sends, finding)), Some(looking)) =
                    (self.seen.take(), self.rule.looking)
                {
                    let now = time(self.now);
                    let judged = judge(&self.row, &looking, self.rule.in_flight, finding, now);
                    self.decide(
                        (EffectState::Unknown, sends),
                        Conclusion {
                            to: judged.to,
                            receipt: judged.receipt,
                            evidence: judged.evidence,
                            look_in: judged.look_in,
                        },
                    );
                }
            }
        }
    }

    /// What must hold in every world; what is wrong.
    fn wrong(&self) -> Option<&'static str> {
        let acts = self.acted.len();
        let most = match self.rule.class {
            EffectClass::P => self.row.sends as usize,
            _ => 1,
        };
        let under_way = !self.requests.is_empty();
        match self.row.state {
            _ if most < acts => Some("it happened too often"),
            EffectState::Confirmed if acts == 0 => Some("confirmed, and it never happened"),
            EffectState::Refused if 0 < acts => Some("refused, and it happened"),
            EffectState::Refused if under_way => Some("refused, and it may still happen"),
            EffectState::Intended if 0 < acts => Some("intended, and it happened"),
            _ => None,
        }
    }
}

fn run(worker: usize) -> Uuid {
    Uuid::from_u128(worker as u128 + 1)
}

fn asleep() -> Failure {
    Failure::new(
        Class::Throttled,
        Scope::Handler,
        "not_sent",
        "nothing was sent",
    )
}

fn receipt(second: i64) -> Receipt {
    Receipt {
        remote_id: Some("1".to_owned()),
        url: None,
        at: time(second),
        detail: serde_json::Value::Null,
    }
}

fn rules() -> [(&'static str, Rule); 4] {
    let looking = Looking {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(1),
        until: Duration::from_secs(4),
        resend: crate::effect::Resend::Ask,
    };
    let with = |rule: Rule| Rule {
        in_flight: IN_FLIGHT,
        ..rule
    };
    [
        ("A", with(Rule::keyed(Some(Duration::from_secs(6))))),
        ("B", Rule::looked_up(EffectClass::B, looking, IN_FLIGHT)),
        ("C", Rule::looked_up(EffectClass::C, looking, IN_FLIGHT)),
        ("P", with(Rule::paid(1))),
    ]
}

/// Every world that can be reached; how many there are, or the events that lead to a wrong one.
fn explore(rule: Rule, bounds: Bounds) -> Result<usize, String> {
    let first = World::new(rule, bounds);
    let mut known = HashSet::from([first.key()]);
    let mut open = vec![(first, Vec::<Event>::new())];
    while let Some((world, path)) = open.pop() {
        for event in world.events() {
            let mut then = world.clone();
            then.apply(&event);
            if let Some(wrong) = then.wrong() {
                return Err(format!("{wrong}: {path:?}, then {event:?}"));
            }
            if known.insert(then.key()) {
                let mut path = path.clone();
                path.push(event);
                open.push((then, path));
            }
        }
    }
    Ok(known.len())
}

#[test]
fn no_order_of_events_doubles_an_effect_or_lies_about_it() {
    let bounds = Bounds {
        workers: 2,
        deaths: 1,
        takeovers: 1,
        sends: 2,
        seconds: 5,
    };
    for (class, rule) in rules() {
        let worlds = explore(rule, bounds).unwrap_or_else(|it| panic!("class {class}: {it}"));
        println!("class {class}: {worlds} worlds");
        assert!(1_000 < worlds, "class {class}: {worlds} worlds");
    }
}

#[test]
fn the_model_can_go_wrong() {
    let bounds = Bounds {
        workers: 2,
        deaths: 1,
        takeovers: 1,
        sends: 2,
        seconds: 5,
    };
    let [_, (_, b), (_, c), _] = rules();
    let impatient = Rule {
        in_flight: Duration::ZERO,
        ..b
    };
    assert!(
        explore(impatient, bounds).is_err(),
        "a request is under way"
    );
    let resent = Rule {
        looking: c.looking.map(|it| Looking {
            until: Duration::from_secs(2),
            resend: crate::effect::Resend::Always,
            ..it
        }),
        ..c
    };
    assert!(explore(resent, bounds).is_err(), "not found proves nothing");
}

#[test]
fn no_random_walk_of_more_workers_goes_wrong() {
    let bounds = Bounds {
        workers: 4,
        deaths: 3,
        takeovers: 4,
        sends: 4,
        seconds: 14,
    };
    let seed: u64 = std::env::var("PRESSWORK_SEED").map_or_else(
        |_| rand::random::<u32>().into(),
        |it| it.parse().expect("PRESSWORK_SEED is a number"),
    );
    let mut dice = StdRng::seed_from_u64(seed);
    for (class, rule) in rules() {
        for _ in 0..5_000 {
            let (mut world, mut path) = (World::new(rule, bounds), vec![]);
            for _ in 0..120 {
                let events = world.events();
                if events.is_empty() {
                    break;
                }
                let event = events[dice.random_range(0..events.len())].clone();
                world.apply(&event);
                path.push(event);
                if let Some(wrong) = world.wrong() {
                    panic!("class {class}, seed {seed}: {wrong}: {path:?}");
                }
            }
        }
    }
}
