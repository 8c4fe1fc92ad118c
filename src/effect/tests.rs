//! Whether what may follow is right for every class and state.

use super::*;
use chrono::{TimeDelta, TimeZone, Utc};
use proptest::prelude::*;

fn effect(state: EffectState, sends: u32, first: Option<Time>) -> Effect {
    let job = (JobId(Uuid::nil()), 0);
    Effect {
        state,
        intent: "i".into(),
        sends,
        first_sent_at: first,
        permit_at: first,
        ..Effect::new(job, ("publish", 0), "a", "x", EffectClass::A)
    }
}

#[test]
fn a_key_is_repeated_only_while_it_lives() {
    let now = Utc.timestamp_opt(1_000_000, 0).unwrap();
    let rule = Rule::keyed(Some(Duration::from_secs(3_600)));
    let sent = |ago| effect(EffectState::Unknown, 1, Some(now - TimeDelta::seconds(ago)));
    assert_eq!(
        next(&sent(60), &rule, "i", Duration::ZERO, now),
        Next::Repeat
    );
    assert!(matches!(
        next(&sent(3_300), &rule, "i", Duration::ZERO, now),
        Next::Ask(_)
    ));
    assert!(matches!(
        next(&sent(60), &rule, "other", Duration::ZERO, now),
        Next::Nondeterministic
    ));
}

#[test]
fn a_request_that_may_be_under_way_is_waited_for() {
    let now = Utc.timestamp_opt(1_000_000, 0).unwrap();
    let rule = Rule::keyed(Some(Duration::from_secs(3_600)));
    let sent = |ago| effect(EffectState::Sending, 1, Some(now - TimeDelta::seconds(ago)));
    let patience = Duration::from_secs(5);
    let until = now + TimeDelta::seconds(3);
    assert_eq!(next(&sent(2), &rule, "i", patience, now), Next::Wait(until));
    assert_eq!(next(&sent(5), &rule, "i", patience, now), Next::Repeat);
}

#[test]
fn a_paid_call_is_repeated_once_and_then_asked() {
    let now = Utc.timestamp_opt(1_000_000, 0).unwrap();
    let rule = Rule::paid(1);
    assert_eq!(
        next(
            &effect(EffectState::Sending, 1, Some(now)),
            &rule,
            "i",
            Duration::ZERO,
            now
        ),
        Next::Repeat
    );
    assert!(matches!(
        next(
            &effect(EffectState::Unknown, 2, Some(now)),
            &rule,
            "i",
            Duration::ZERO,
            now
        ),
        Next::Ask(_)
    ));
}

#[test]
fn a_refused_send_uses_up_no_repeat() {
    let now = Utc.timestamp_opt(1_000_000, 0).unwrap();
    let mut effect = effect(EffectState::Unknown, 3, Some(now));
    effect.evidence = vec![
        Evidence::refusal(now, 1, "http_429: later"),
        Evidence::refusal(now, 2, "x: y"),
        // in the words of a platform that doesn't know whether it did it
        Evidence::new(
            now,
            "send 3: refused: OpenAI answered 504: later".to_owned(),
        ),
    ];
    assert_eq!(effect.lost(), 1);
    assert_eq!(
        next(&effect, &Rule::paid(1), "i", Duration::ZERO, now),
        Next::Repeat
    );
    assert!(matches!(
        next(&effect, &Rule::paid(0), "i", Duration::ZERO, now),
        Next::Ask(_)
    ));
}

#[test]
fn without_key_or_handle_an_unknown_is_never_sent_again() {
    let now = Utc.timestamp_opt(1_000_000, 0).unwrap();
    for class in [EffectClass::B, EffectClass::C] {
        let rule = Rule {
            class,
            key_life: None,
            sends_max: 100,
            in_flight: Duration::ZERO,
            looking: None,
        };
        for state in [
            EffectState::Sending,
            EffectState::Unknown,
            EffectState::Unresolved,
        ] {
            assert!(matches!(
                next(
                    &effect(state, 1, Some(now)),
                    &rule,
                    "i",
                    Duration::ZERO,
                    now
                ),
                Next::Ask(_)
            ));
        }
    }
}

#[test]
fn what_is_lost_is_looked_up_and_never_sent_before() {
    let now = Utc.timestamp_opt(1_000_000, 0).unwrap();
    for class in [EffectClass::B, EffectClass::C] {
        let rule = Rule::looked_up(class, Looking::USUAL, IN_FLIGHT);
        for state in [EffectState::Sending, EffectState::Unknown] {
            let mut it = effect(state, 1, Some(now - TimeDelta::seconds(60)));
            it.class = class;
            let follows = next(&it, &rule, "i", IN_FLIGHT, now);
            assert_eq!(follows, Next::LookUp(Looking::USUAL));
        }
    }
}

#[test]
fn looks_grow_apart_and_stay_bounded() {
    let looking = Looking::USUAL;
    let waits: Vec<u64> = (0..6).map(|it| looking.wait(it).as_secs()).collect();
    assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
    assert_eq!(looking.wait(u32::MAX), looking.longest);
    // all looks at one effect: so many requests at most
    let (mut at, mut looks) = (Duration::ZERO, 0);
    while at < looking.until {
        at += looking.wait(looks);
        looks += 1;
    }
    assert!(looks <= 20, "{looks}");
}

#[test]
fn what_may_have_been_sent_since_a_backup_is_sent_again_only_under_its_key() {
    let now = Utc.timestamp_opt(1_000_000, 0).unwrap();
    let restored = |ago| Effect {
        maybe_since: Some(now - TimeDelta::seconds(ago)),
        ..effect(EffectState::Unknown, 0, None)
    };
    let asked = |effect: &Effect, rule: &Rule| match next(effect, rule, "i", Duration::ZERO, now) {
        Next::Ask(why) => why.contains("restored"),
        _ => false,
    };
    let (life, ever) = (
        Rule::keyed(Some(Duration::from_secs(3_600))),
        Rule::keyed(None),
    );
    let repeated =
        |effect: &Effect, rule: &Rule| next(effect, rule, "i", Duration::ZERO, now) == Next::Repeat;
    assert!(repeated(&restored(60), &life) && repeated(&restored(86_400), &ever));
    assert!(asked(&restored(3_300), &life));
    // a repeat since then doesn't make the first any younger
    let again = Effect {
        first_sent_at: Some(now),
        sends: 1,
        ..restored(3_300)
    };
    assert!(asked(&again, &life));
    let minted = Effect {
        key_lost: true,
        ..restored(60)
    };
    assert!(asked(&minted, &life) && asked(&minted, &ever));
    // whoever asks again hears the same reason
    let unresolved = Effect {
        state: EffectState::Unresolved,
        ..restored(60)
    };
    assert!(asked(&unresolved, &ever));
    // a paid call counts it as one that was lost
    assert!(repeated(&restored(60), &Rule::paid(1)) && asked(&restored(60), &Rule::paid(0)));
    let paid = Effect {
        sends: 1,
        ..restored(60)
    };
    assert!(asked(&paid, &Rule::paid(1)));
}

proptest! {
    #[test]
    fn effect_ids_never_collide(
        parts in prop::collection::vec(0u32..3, 3..8), i in 1usize..6, j in 1usize..6,
    ) {
        // the same text with colons, cut at two places: step, ordinal, account
        let text = |parts: &[u32]| -> String {
            let parts: Vec<_> = parts.iter().map(u32::to_string).collect();
            parts.join(":")
        };
        let cut = |at: usize| {
            let at = at.min(parts.len() - 2);
            (text(&parts[..at]), parts[at], text(&parts[at + 1..]))
        };
        let id = |(step, ordinal, account): &(String, u32, String)| {
            EffectId::new(JobId(Uuid::nil()), 0, step, *ordinal, account)
        };
        let (one, other) = (cut(i), cut(j));
        prop_assert_eq!(id(&one) == id(&other), one == other);
    }
}
