//! The protocol against issuers that rotate: two hosts, deaths between any two steps, lost answers.

use std::collections::BTreeSet;

use chrono::{TimeZone as _, Utc};
use proptest::prelude::*;

use super::*;

fn at(s: i64) -> Time {
    Utc.timestamp_opt(1_800_000_000 + s, 0).unwrap()
}

fn seen() -> Seen {
    Seen {
        phase: Phase::Ok,
        tries: 0,
        held_by: None,
        held_until: None,
        since: at(0),
        expires_at: Some(at(1_000)),
        refused: false,
    }
}

fn told() -> Told {
    Told::new("x", "")
}

#[test]
fn a_token_is_renewed_a_fifth_of_its_life_ahead_and_not_all_at_once() {
    let it = seen();
    assert_eq!(
        it.step(Renewal::Rotating, 0, at(799)),
        Step::Rest(Some(at(800)))
    );
    assert_eq!(it.step(Renewal::Rotating, 0, at(800)), Step::Begin);
    let jittered = it.due(255).unwrap();
    assert!(at(750) <= jittered && jittered < at(800), "{jittered}");
    let year = Seen {
        expires_at: Some(at(365 * 86_400)),
        ..seen()
    };
    assert_eq!(year.due(0), Some(at(358 * 86_400)));
    let endless = Seen {
        expires_at: None,
        ..seen()
    };
    assert_eq!(
        endless.step(Renewal::Rotating, 0, at(9_999_999)),
        Step::Rest(None)
    );
}

#[test]
fn a_refused_token_is_renewed_at_once_and_where_somebody_is_at_it_nobody_else_is() {
    let refused = Seen {
        refused: true,
        ..seen()
    };
    assert_eq!(refused.step(Renewal::Rotating, 0, at(1)), Step::Begin);
    let held = Seen {
        phase: Phase::Refreshing,
        tries: 1,
        held_by: Some(Uuid::from_u128(1)),
        held_until: Some(at(60)),
        ..refused
    };
    assert_eq!(
        held.step(Renewal::Rotating, 0, at(59)),
        Step::Rest(Some(at(60)))
    );
    assert_eq!(held.step(Renewal::Rotating, 0, at(60)), Step::Begin);
    let twice = Seen { tries: 2, ..held };
    assert_eq!(twice.step(Renewal::Rotating, 0, at(60)), Step::GiveUp);
    assert_eq!(twice.step(Renewal::Lasting, 0, at(60)), Step::Begin);
    for phase in [Phase::Attention, Phase::Paused] {
        let it = Seen { phase, ..refused };
        assert_eq!(it.step(Renewal::Rotating, 0, at(5_000)), Step::Rest(None));
    }
}

#[test]
fn what_only_a_person_renews_is_told_when_it_is_over() {
    let it = seen();
    assert_eq!(
        it.step(Renewal::Person, 0, at(900)),
        Step::Rest(Some(at(1_000)))
    );
    assert_eq!(it.step(Renewal::Person, 0, at(1_000)), Step::Over);
}

#[test]
fn only_what_may_have_been_acted_on_counts() {
    let later = || Verdict::Later(told(), Some(5));
    let Next::Release { tries, wait, .. } = next(later(), Renewal::Rotating, 2, true) else {
        panic!("later");
    };
    assert_eq!((tries, wait), (1, TimeDelta::seconds(5)));
    let unknown = || Verdict::Unknown(told());
    assert!(matches!(
        next(unknown(), Renewal::Rotating, 1, true),
        Next::Repeat
    ));
    assert!(matches!(
        next(unknown(), Renewal::Rotating, 2, true),
        Next::Attention(_)
    ));
    for tries in 1..9 {
        let next = next(unknown(), Renewal::Lasting, tries, false);
        assert!(matches!(next, Next::Release { tries: 0, .. }));
    }
    let client = || Verdict::Client(told());
    let alive = next(client(), Renewal::Rotating, 1, true);
    assert!(matches!(alive, Next::Release { tries: 0, .. }));
    let dead = next(client(), Renewal::Rotating, 1, false);
    assert!(matches!(dead, Next::Attention(_)));
    let for_ever = next(
        Verdict::Later(told(), Some(u64::MAX)),
        Renewal::Rotating,
        1,
        true,
    );
    assert!(matches!(for_ever, Next::Release { wait, .. } if wait <= WAIT_MAX));
}

/// An issuer that rotates, and revokes the family when a token comes that was replaced, unless it is
/// the last one and within its grace: then it gives the successor's place to a new one.
#[derive(Clone)]
struct Rotating {
    grace: i64,
    current: u32,
    replaced: Option<(u32, i64)>,
    last: u32,
    revoked: bool,
    sent: Vec<u32>,
}

impl Rotating {
    fn new(grace: i64) -> Self {
        Self {
            grace,
            current: 0,
            replaced: None,
            last: 0,
            revoked: false,
            sent: vec![],
        }
    }

    fn redeem(&mut self, token: u32, now: i64) -> Result<u32, ()> {
        self.sent.push(token);
        let forgiven = self
            .replaced
            .is_some_and(|(it, at)| it == token && now - at < self.grace);
        if self.revoked || (token != self.current && !forgiven) {
            self.revoked = true;
            return Err(());
        }
        if token == self.current {
            self.replaced = Some((token, now));
        } else {
            // the grace is for one more time
            self.replaced = None;
        }
        self.last += 1;
        self.current = self.last;
        Ok(self.current)
    }
}

/// The record, as the ledger has it.
#[derive(Clone, Copy)]
struct Record {
    seen: Seen,
    version: u32,
    token: u32,
}

/// Where a host is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Host {
    Idle,
    /// It holds, and is about to ask; with the version that it read.
    Asking(u32, u32),
    /// It has an answer to act on.
    Answered(u32, u32, Answer),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Token(u32),
    Refused,
    Lost,
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A host does its next step.
    Does(usize),
    /// A host does its next step; where that is a request, its answer is lost.
    Loses(usize),
    /// A host dies, and comes back.
    Dies(usize),
    /// Time passes.
    Passes(i64),
    /// The platform refuses the token.
    Refuses,
}

struct World {
    now: i64,
    record: Record,
    hosts: [Host; 2],
    issuer: Rotating,
    lost: usize,
    died: usize,
}

impl World {
    fn new(grace: i64) -> Self {
        Self {
            now: 0,
            record: Record {
                seen: seen(),
                version: 1,
                token: 0,
            },
            hosts: [Host::Idle; 2],
            issuer: Rotating::new(grace),
            lost: 0,
            died: 0,
        }
    }

    fn take(&mut self, host: usize) {
        let seen = &mut self.record.seen;
        seen.phase = Phase::Refreshing;
        seen.tries += 1;
        seen.held_by = Some(Uuid::from_u128(host as u128 + 1));
        seen.held_until = Some(at(self.now) + HOLD);
        self.hosts[host] = Host::Asking(self.record.version, self.record.seen.tries);
    }

    fn attention(&mut self) {
        let seen = &mut self.record.seen;
        (seen.phase, seen.held_by, seen.held_until) = (Phase::Attention, None, None);
    }

    /// Whether this host's compare-and-set goes through: it is its own hold, of the try that it made.
    fn holds(&self, host: usize, version: u32, tries: u32) -> bool {
        let seen = &self.record.seen;
        self.record.version == version
            && seen.tries == tries
            && seen.phase == Phase::Refreshing
            && seen.held_by == Some(Uuid::from_u128(host as u128 + 1))
    }

    fn does(&mut self, host: usize, loses: bool) {
        match self.hosts[host] {
            Host::Idle => match self.record.seen.step(Renewal::Rotating, 0, at(self.now)) {
                Step::Begin => self.take(host),
                Step::GiveUp => self.attention(),
                Step::Rest(_) | Step::Over => {}
            },
            Host::Asking(version, tries) => {
                // a host whose time is over doesn't send: its deadline is within its hold
                let token = self.record.token;
                if !self.holds(host, version, tries)
                    || self
                        .record
                        .seen
                        .held_until
                        .is_none_or(|it| it <= at(self.now))
                {
                    self.hosts[host] = Host::Idle;
                    return;
                }
                let answer = match self.issuer.redeem(token, self.now) {
                    _ if loses => {
                        self.lost += 1;
                        Answer::Lost
                    }
                    Ok(it) => Answer::Token(it),
                    Err(()) => Answer::Refused,
                };
                self.hosts[host] = Host::Answered(version, tries, answer);
            }
            Host::Answered(version, tries, answer) => {
                self.hosts[host] = Host::Idle;
                if !self.holds(host, version, tries) {
                    // its answer comes to nothing: another stands in
                    return;
                }
                let verdict = match answer {
                    Answer::Token(it) => Verdict::Granted(Grant {
                        access: it.to_string().into(),
                        refresh: None,
                        expires_in_s: None,
                        scopes: None,
                    }),
                    Answer::Refused => Verdict::Gone(told()),
                    Answer::Lost => Verdict::Unknown(told()),
                };
                match (next(verdict, Renewal::Rotating, tries, true), answer) {
                    (Next::Store(_), Answer::Token(token)) => {
                        self.record = Record {
                            seen: Seen {
                                since: at(self.now),
                                expires_at: Some(at(self.now + 1_000)),
                                ..seen()
                            },
                            version: version + 1,
                            token,
                        };
                    }
                    (Next::Repeat, _) => self.take(host),
                    (Next::Attention(_), _) => self.attention(),
                    (other, _) => panic!("{other:?} after {answer:?}"),
                }
            }
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Does(host) => self.does(host, false),
            Event::Loses(host) => self.does(host, true),
            Event::Dies(host) => {
                if self.hosts[host] != Host::Idle {
                    self.died += 1;
                }
                self.hosts[host] = Host::Idle;
            }
            Event::Passes(s) => {
                self.now += s;
                // who sleeps beyond its hold is as good as dead to the others, and wakes up later
                let over = |it: Time| it <= at(self.now);
                let asleep = self.hosts.iter().any(|it| *it != Host::Idle);
                if asleep && self.record.seen.held_until.is_some_and(over) {
                    self.died += 1;
                }
            }
            Event::Refuses => self.record.seen.refused = true,
        }
        self.holds_true();
    }

    fn holds_true(&self) {
        // no token is sent more than twice, whoever holds it
        for token in self.issuer.sent.iter().collect::<BTreeSet<_>>() {
            let times = self.issuer.sent.iter().filter(|it| *it == token).count();
            assert!(times <= 2, "token {token} was sent {times} times");
        }
        // nothing goes wrong while nothing is lost and nobody dies
        if self.lost == 0 && self.died == 0 {
            assert!(!self.issuer.revoked);
            assert_ne!(self.record.seen.phase, Phase::Attention);
        }
        // what may be used is the issuer's current one, unless its answer is still on the way
        if self.record.seen.phase == Phase::Ok && !self.issuer.revoked {
            assert_eq!(self.record.token, self.issuer.current);
        }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let host = 0..2usize;
    let event = prop_oneof![
        8 => host.clone().prop_map(Event::Does),
        2 => host.clone().prop_map(Event::Loses),
        1 => host.prop_map(Event::Dies),
        3 => prop_oneof![Just(5i64), Just(61), Just(900)].prop_map(Event::Passes),
        1 => Just(Event::Refuses),
    ];
    prop::collection::vec(event, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn no_token_is_sent_more_than_twice_whatever_happens(grace in 0i64..200, all in events()) {
        let mut world = World::new(grace);
        for event in all {
            world.happens(event);
        }
        // and it comes to an end: renewed, or in front of a person
        for _ in 0..40 {
            world.happens(Event::Passes(61));
            world.happens(Event::Does(0));
            world.happens(Event::Does(1));
        }
        for _ in 0..4 {
            world.happens(Event::Does(0));
            world.happens(Event::Does(1));
        }
        let phase = world.record.seen.phase;
        prop_assert!(phase == Phase::Ok || phase == Phase::Attention, "{phase:?}");
    }
}

/// Every order of 7 steps, with every loss and death: where the issuer forgives a repeat within the time
/// that a host's death costs, and one thing goes wrong in a renewal, no account is lost.
#[test]
fn one_mishap_costs_no_account_where_the_issuer_forgives() {
    let choices = [
        Event::Does(0),
        Event::Does(1),
        Event::Loses(0),
        Event::Loses(1),
        Event::Dies(0),
        Event::Dies(1),
        Event::Passes(61),
    ];
    let mut tried = 0;
    for code in 0..7usize.pow(6) {
        let mut world = World::new(200);
        world.happens(Event::Passes(800));
        let mut rest = code;
        for _ in 0..6 {
            world.happens(choices[rest % 7]);
            rest /= 7;
        }
        if 1 < world.lost + world.died || 800 + 61 < world.now {
            continue;
        }
        tried += 1;
        for _ in 0..4 {
            world.happens(Event::Passes(5));
            world.happens(Event::Does(0));
            world.happens(Event::Does(1));
        }
        world.happens(Event::Passes(61));
        for _ in 0..4 {
            world.happens(Event::Does(0));
            world.happens(Event::Does(1));
        }
        assert!(!world.issuer.revoked, "{code}");
        assert_eq!(world.record.seen.phase, Phase::Ok, "{code}");
        assert!(2 <= world.record.version, "{code}: it was never renewed");
    }
    assert!(1_000 < tried, "{tried} orders");
}

#[test]
fn without_any_grace_a_lost_answer_ends_in_front_of_a_person_and_in_no_loop() {
    let mut world = World::new(0);
    world.happens(Event::Passes(800));
    for event in [
        Event::Does(0),
        Event::Loses(0),
        Event::Does(0),
        Event::Does(0),
        Event::Does(0),
    ] {
        world.happens(event);
    }
    assert_eq!(world.record.seen.phase, Phase::Attention);
    assert_eq!(world.issuer.sent, [0, 0]);
    for _ in 0..9 {
        world.happens(Event::Passes(900));
        world.happens(Event::Does(0));
        world.happens(Event::Does(1));
    }
    assert_eq!(world.issuer.sent, [0, 0]);
}
