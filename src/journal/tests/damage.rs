//! A journal that is cut, flipped, zeroed, mixed up: it may say less than the truth, never more.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::kit::*;
use crate::journal::past::{Proof, proves};

#[test]
fn a_journal_cut_anywhere_is_its_prefix() {
    let (pages, records) = sample(200, 2_500);
    let (mut truth, mut next) = (BTreeMap::new(), 0);
    for (i, (number, bytes)) in pages.iter().enumerate() {
        for cut in 0..=bytes.len() {
            while let Some((n, end, record)) = records.get(next)
                && (*n, *end) <= (*number, cut)
            {
                note(&mut truth, record);
                next += 1;
            }
            let mut left = pages[..=i].to_vec();
            left[i].1.truncate(cut);
            let past = read(left);
            assert_eq!(past.damage, [], "cut at {cut} of {number}");
            assert_eq!(past.sends, truth, "cut at {cut} of {number}");
            // before the first header is whole, nothing was begun
            assert_eq!(past.complete, 0 < next, "cut at {cut} of {number}");
            assert_eq!(
                past.ended,
                next == records.len(),
                "cut at {cut} of {number}"
            );
        }
    }
}

#[test]
fn a_journal_cut_in_the_middle_is_damaged() {
    let (pages, records) = sample(60, 1_000);
    let mut truth = BTreeMap::new();
    for (_, _, record) in &records {
        note(&mut truth, record);
    }
    for i in 0..pages.len() - 1 {
        for cut in (0..pages[i].1.len()).step_by(11) {
            let mut left = pages.clone();
            left[i].1.truncate(cut);
            let past = read(left);
            assert!(!past.complete && !past.damage.is_empty(), "{cut} of {i}");
            lacks(&past, &truth);
        }
        let mut left = pages.clone();
        left.remove(i);
        let past = read(left);
        assert!(!past.complete && !past.damage.is_empty(), "without {i}");
        lacks(&past, &truth);
    }
}

#[test]
fn no_flipped_bit_is_believed() {
    const FLIPS: usize = 10_007;
    let (pages, records) = sample(60, 1_000);
    let mut truth = BTreeMap::new();
    for (_, _, record) in &records {
        note(&mut truth, record);
    }
    let bits: usize = pages.iter().map(|it| it.1.len() * 8).sum();
    assert!(FLIPS < bits);
    for flip in 0..FLIPS {
        let mut bit = flip * (bits / FLIPS) + flip % (bits / FLIPS);
        let mut flipped = pages.clone();
        for (_, bytes) in &mut flipped {
            if bit < bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                break;
            }
            bit -= bytes.len() * 8;
        }
        let past = read(flipped);
        assert!(!past.damage.is_empty(), "flip {flip} wasn't seen");
        assert!(!past.complete, "flip {flip}");
        assert!(lacks(&past, &truth) <= 1, "flip {flip}: {:?}", past.damage);
        let absent = asked(id(99_999, 1), at(1));
        assert_eq!(proves(&past, &here(), &absent), Proof::Nothing);
    }
}

/// What may happen to a file.
#[derive(Clone, Debug)]
enum Harm {
    Zero(usize, usize),
    Cut(usize, usize),
    Copy(usize, usize, usize),
    Swap,
    Noise(usize, Vec<u8>),
}

fn any_harm() -> impl Strategy<Value = Harm> {
    let place = || any::<usize>();
    prop_oneof![
        (place(), 1..600usize).prop_map(|(at, len)| Harm::Zero(at, len)),
        (place(), 1..600usize).prop_map(|(at, len)| Harm::Cut(at, len)),
        (place(), place(), 1..600usize).prop_map(|(from, to, len)| Harm::Copy(from, to, len)),
        Just(Harm::Swap),
        (place(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| Harm::Noise(at, bytes)),
    ]
}

fn harm(pages: &mut [(u32, Vec<u8>)], which: usize, harm: &Harm) {
    let which = which % pages.len();
    let count = pages.len();
    let bytes = &mut pages[which].1;
    if bytes.is_empty() {
        return;
    }
    let span = |at: usize, len: usize, bytes: &[u8]| {
        let at = at % bytes.len();
        at..(at + len).min(bytes.len())
    };
    match harm {
        Harm::Zero(at, len) => {
            let span = span(*at, *len, bytes);
            bytes[span].fill(0);
        }
        Harm::Cut(at, len) => {
            let span = span(*at, *len, bytes);
            bytes.drain(span);
        }
        Harm::Copy(from, to, len) => {
            let part = bytes[span(*from, *len, bytes)].to_vec();
            let to = to % bytes.len();
            bytes.splice(to..to, part);
        }
        Harm::Swap => {
            let (one, other) = (which, (which + 1) % count);
            let kept = pages[one].1.clone();
            pages[one].1 = std::mem::replace(&mut pages[other].1, kept);
        }
        Harm::Noise(at, noise) => {
            let at = at % bytes.len();
            for (place, it) in bytes[at..].iter_mut().zip(noise) {
                *place = *it;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn whatever_is_done_to_a_journal_it_never_says_more_than_the_truth(
        harms in prop::collection::vec((any::<usize>(), any_harm()), 1..4),
    ) {
        let (pages, records) = sample(60, 1_000);
        let mut truth = BTreeMap::new();
        for (_, _, record) in &records {
            note(&mut truth, record);
        }
        let mut harmed = pages.clone();
        for (which, it) in &harms {
            harm(&mut harmed, *which, it);
        }
        let past = read(harmed);
        lacks(&past, &truth);
        if past.complete {
            // as if it had been cut: the sends that are there are the first ones
            prop_assert!(past.sends.keys().eq(truth.keys().take(past.sends.len())));
        }
    }
}
