//! The breaker of a server that fails: closed, open, half-open with one probe. Pure: what happens goes
//! in, what follows comes out.
//!
//! Closed, it counts failures in a row. At the threshold it opens, and nothing is asked of the server
//! until the cool-down is over. Then one host asks it something harmless, the probe. A server that
//! answers is trusted on trial: the first failure opens the breaker again, for twice as long, and the
//! first success ends the trial.

use std::time::Duration;

use chrono::Duration as Span;
use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// When it opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// So many failures in a row open it. 0: it never opens.
    pub failures: u32,
    /// Failures that are older than this don't count.
    pub window: Duration,
    /// How long it stays open the first time.
    pub cool_down: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures: 5,
            window: Duration::from_secs(60),
            cool_down: Duration::from_secs(30),
        }
    }
}

/// A probe whose host died is given up after this; what it asks must be over by then.
pub const PROBE: Duration = Duration::from_secs(15);
/// A cool-down is doubled up to so many times the first one.
const COOL_DOWNS: u32 = 16;

/// Where a breaker stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// The failures in a row, oldest first, while it is closed: when they happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Time>,
    /// Whether requests go.
    pub state: State,
    /// The last cool-down, in milliseconds; 0 once a success has shown that all is well.
    #[serde(default)]
    pub cool_down_ms: u64,
}

/// Whether requests go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// They go.
    #[default]
    Closed,
    /// They don't, before this moment.
    Open(Time),
    /// One does: a probe, which is given up at this moment.
    HalfOpen(Time),
}

/// What happens to a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A job's attempt failed since the server did.
    Failed,
    /// A job's attempt came to its end.
    Succeeded,
    /// A host looks whether there is something to do.
    Looked,
    /// A probe was answered by a server that works, or wasn't.
    Probed(bool),
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing is asked of the server before this moment.
    Shut(Time),
    /// Whoever said [`Event::Looked`] asks it something harmless, once.
    Probe,
    /// Requests go again.
    Admit,
}

impl Breaker {
    /// Nothing of what happens to a closed breaker needs to be written down, except failures.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    /// Until when nothing goes; `None` while requests go.
    pub fn shut_until(&self) -> Option<Time> {
        match self.state {
            State::Closed => None,
            State::Open(until) | State::HalfOpen(until) => Some(until),
        }
    }

    fn opened(now: Time, cool_down: Duration) -> (Self, Vec<Action>) {
        let until = now + span(cool_down);
        let it = Self {
            failures: vec![],
            state: State::Open(until),
            cool_down_ms: u64::try_from(cool_down.as_millis()).unwrap_or(u64::MAX),
        };
        // the probe comes after it, and by then nothing else may go
        (it, vec![Action::Shut(until + span(PROBE))])
    }

    /// The cool-down after one that didn't help.
    fn longer(&self, settings: &Settings) -> Duration {
        let most = settings.cool_down.saturating_mul(COOL_DOWNS);
        let doubled = Duration::from_millis(self.cool_down_ms.saturating_mul(2));
        doubled.clamp(settings.cool_down, most)
    }
}

/// What follows when `event` happens to a breaker at `now`. What changes nothing leaves it as it is.
pub fn advance(
    breaker: &Breaker,
    event: Event,
    now: Time,
    settings: &Settings,
) -> (Breaker, Vec<Action>) {
    let same = || (breaker.clone(), vec![]);
    let on_trial = 0 < breaker.cool_down_ms;
    match (breaker.state, event) {
        // switched off: what is shut goes again
        (State::Closed, _) if settings.failures == 0 => (Breaker::default(), vec![]),
        (_, _) if settings.failures == 0 => (Breaker::default(), vec![Action::Admit]),

        (State::Closed, Event::Failed) if on_trial => {
            Breaker::opened(now, breaker.longer(settings))
        }
        (State::Closed, Event::Failed) => {
            let since = now - span(settings.window);
            let recent = breaker.failures.iter().filter(|it| since < **it);
            let failures: Vec<Time> = recent.copied().chain([now]).collect();
            if settings.failures as usize <= failures.len() {
                return Breaker::opened(now, settings.cool_down);
            }
            let it = Breaker {
                failures,
                ..Breaker::default()
            };
            (it, vec![])
        }
        (State::Closed, Event::Succeeded) => (Breaker::default(), vec![]),
        (State::Closed, Event::Looked | Event::Probed(_)) => same(),

        // answers to what was asked before it opened
        (State::Open(_) | State::HalfOpen(_), Event::Failed | Event::Succeeded) => same(),
        (State::Open(until) | State::HalfOpen(until), Event::Looked) if until <= now => {
            let until = now + span(PROBE);
            let it = Breaker {
                state: State::HalfOpen(until),
                ..breaker.clone()
            };
            (it, vec![Action::Shut(until), Action::Probe])
        }
        (State::Open(_) | State::HalfOpen(_), Event::Looked) => same(),
        (State::HalfOpen(_), Event::Probed(true)) => {
            let it = Breaker {
                state: State::Closed,
                ..breaker.clone()
            };
            (it, vec![Action::Admit])
        }
        (State::HalfOpen(_), Event::Probed(false)) => {
            Breaker::opened(now, breaker.longer(settings))
        }
        // of a probe that was given up
        (State::Open(_), Event::Probed(_)) => same(),
    }
}

fn span(it: Duration) -> Span {
    Span::from_std(it).unwrap_or(Span::days(1))
}

#[cfg(test)]
mod tests {
    use chrono::{TimeZone as _, Utc};
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Time {
        Utc.timestamp_millis_opt(1_800_000_000_000 + ms).unwrap()
    }

    const SETTINGS: Settings = Settings {
        failures: 5,
        window: Duration::from_secs(60),
        cool_down: Duration::from_secs(30),
    };

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            5 => Just(Event::Failed),
            1 => Just(Event::Succeeded),
            4 => Just(Event::Looked),
            1 => Just(Event::Probed(true)),
            2 => Just(Event::Probed(false)),
        ]
    }

    fn run(events: &[(Event, i64)], settings: &Settings) -> (Breaker, Vec<Action>) {
        let start = (Breaker::default(), vec![]);
        events.iter().fold(start, |(it, mut all), (event, ms)| {
            let (it, actions) = advance(&it, *event, at(*ms), settings);
            all.extend(actions);
            (it, all)
        })
    }

    #[test]
    fn it_opens_at_the_threshold_within_the_window() {
        let failed = |seconds: &[i64]| {
            let events: Vec<(Event, i64)> = seconds
                .iter()
                .map(|it| (Event::Failed, it * 1_000))
                .collect();
            run(&events, &SETTINGS).0.state
        };
        assert_eq!(failed(&[0, 1, 2, 3]), State::Closed);
        assert_eq!(failed(&[0, 1, 2, 3, 4]), State::Open(at(34_000)));
        // the first one is too old by then
        assert_eq!(failed(&[0, 1, 2, 3, 60]), State::Closed);
        assert_eq!(failed(&[0, 1, 2, 3, 60, 60]), State::Open(at(90_000)));
    }

    #[test]
    fn a_success_starts_the_count_anew() {
        let mut events = vec![(Event::Failed, 0); 4];
        events.push((Event::Succeeded, 1));
        events.extend(vec![(Event::Failed, 2); 4]);
        let (it, actions) = run(&events, &SETTINGS);
        assert_eq!(
            (it.state, it.failures.len(), actions),
            (State::Closed, 4, vec![])
        );
        assert!(
            run(&[(Event::Failed, 0), (Event::Succeeded, 1)], &SETTINGS)
                .0
                .is_clean()
        );
    }

    #[test]
    fn what_fails_again_waits_twice_as_long_up_to_a_cap() {
        let (mut it, _) = run(&[(Event::Failed, 0); 5], &SETTINGS);
        let mut now = 30_000;
        let mut waits = vec![];
        for _ in 0..7 {
            (it, _) = advance(&it, Event::Looked, at(now), &SETTINGS);
            (it, _) = advance(&it, Event::Probed(false), at(now), &SETTINGS);
            let until = it.shut_until().unwrap();
            waits.push((until - at(now)).num_seconds());
            now = (until - at(0)).num_milliseconds();
        }
        assert_eq!(waits, [60, 120, 240, 480, 480, 480, 480]);
    }

    #[test]
    fn a_server_that_answered_is_on_trial_until_a_success() {
        let (open, _) = run(&[(Event::Failed, 0); 5], &SETTINGS);
        let (half, actions) = advance(&open, Event::Looked, at(30_000), &SETTINGS);
        assert_eq!(actions, [Action::Shut(at(45_000)), Action::Probe]);
        let (trial, actions) = advance(&half, Event::Probed(true), at(31_000), &SETTINGS);
        assert_eq!((trial.state, actions), (State::Closed, vec![Action::Admit]));
        assert!(!trial.is_clean());
        let (again, _) = advance(&trial, Event::Failed, at(32_000), &SETTINGS);
        assert_eq!(again.state, State::Open(at(92_000)));
        let (well, _) = advance(&trial, Event::Succeeded, at(32_000), &SETTINGS);
        assert!(well.is_clean());
    }

    #[test]
    fn switched_off_it_lets_everything_through() {
        let off = Settings {
            failures: 0,
            ..SETTINGS
        };
        assert_eq!(
            run(&[(Event::Failed, 0); 99], &off),
            (Breaker::default(), vec![])
        );
        let (open, _) = run(&[(Event::Failed, 0); 5], &SETTINGS);
        let (it, actions) = advance(&open, Event::Looked, at(1), &off);
        assert_eq!((it, actions), (Breaker::default(), vec![Action::Admit]));
    }

    proptest! {
        /// A probe goes on until it is answered, or given up; no other one begins meanwhile.
        #[test]
        fn never_is_there_more_than_one_probe_at_a_time(
            events in prop::collection::vec((event(), 0i64..20_000), 0..200),
            failures in 1u32..8,
        ) {
            let settings = Settings { failures, ..SETTINGS };
            let (mut it, mut now) = (Breaker::default(), 0);
            let mut given_up: Option<Time> = None;
            for (event, later) in events {
                now += later;
                let before = it.clone();
                let (next, actions) = advance(&it, event, at(now), &settings);
                if matches!(event, Event::Probed(_)) {
                    given_up = None;
                }
                if actions.contains(&Action::Probe) {
                    prop_assert_eq!(event, Event::Looked);
                    prop_assert!(before.shut_until().is_some_and(|it| it <= at(now)), "before its time");
                    prop_assert!(given_up.is_none_or(|it| it <= at(now)), "two probes");
                    given_up = Some(at(now) + span(PROBE));
                }
                // what is shut is shut at least until the breaker's own time
                for action in &actions {
                    if let Action::Shut(until) = action {
                        prop_assert!(next.shut_until().is_some_and(|it| it <= *until));
                    }
                }
                // from shut to closed there is one way, and it is told
                let admitted = before.shut_until().is_some() && next.shut_until().is_none();
                prop_assert_eq!(admitted, actions.contains(&Action::Admit));
                prop_assert!(!admitted || event == Event::Probed(true));
                let shut = before.shut_until().is_none() && next.shut_until().is_some();
                prop_assert!(!shut || event == Event::Failed);
                prop_assert!(next.failures.len() < failures as usize);
                let text = serde_json::to_string(&next).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Breaker>(&text).unwrap(), &next);
                it = next;
            }
        }
    }
}
