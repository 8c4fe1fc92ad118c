//! What the fuzz targets assert, tried on each one's seeds and some thousand mutations of them, the
//! same ones each time. `scripts/fuzz` looks further, guided by coverage.

#[path = "../fuzz/src/lib.rs"]
mod properties;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// No mutation is longer, in bytes.
const LENGTH_MAX: usize = 4_096;

/// Numbers that look random and are the same each time (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut it = self.0;
        it = (it ^ it >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        it = (it ^ it >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        it ^ it >> 31
    }

    /// Less than `end`; 0 where that is 0.
    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end.max(1) as u64) as usize
    }

    fn of<'a>(&mut self, all: &'a [Vec<u8>]) -> &'a [u8] {
        &all[self.below(all.len())]
    }

    /// A range within a length, mostly short.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        let most = 1 << self.below(10);
        let end = (from + self.below(most) + 1).min(length);
        from..end
    }
}

/// What a property begins with.
struct Stock {
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

impl Stock {
    fn of(target: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
        let entries = fs::read_dir(folder.join(target)).expect("each target has seeds");
        let mut paths: Vec<PathBuf> = entries.map(|it| it.unwrap().path()).collect();
        paths.sort();
        let seeds = paths.iter().map(|it| fs::read(it).unwrap()).collect();
        let dict = fs::read_to_string(folder.join(format!("{target}.dict"))).unwrap();
        let words: Vec<Vec<u8>> = dict.lines().filter_map(word).collect();
        assert!(!words.is_empty());
        Self { seeds, words }
    }

    /// A seed, changed once to eight times.
    fn mutation(&self, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = dice.of(&self.seeds).to_vec();
        for _ in 0..=dice.below(8) {
            self.change(dice, &mut bytes);
        }
        bytes.truncate(LENGTH_MAX);
        bytes
    }

    fn change(&self, dice: &mut Dice, bytes: &mut Vec<u8>) {
        let range = dice.range(bytes.len());
        let at = range.start;
        match dice.below(8) {
            0 => drop(bytes.drain(range)),
            1 => {
                let copy = bytes[range].to_vec();
                let at = dice.below(bytes.len() + 1);
                bytes.splice(at..at, copy);
            }
            2 => drop(bytes.splice(range, dice.of(&self.words).to_vec())),
            3 => drop(bytes.splice(at..at, dice.of(&self.words).to_vec())),
            4 => {
                let other = dice.of(&self.seeds).to_vec();
                let piece = dice.range(other.len());
                bytes.splice(range, other[piece].to_vec());
            }
            5 => bytes.insert(at, dice.roll() as u8),
            6 => bytes[range]
                .iter_mut()
                .for_each(|it| *it ^= 1 << dice.below(8)),
            _ => {
                let copy = bytes[range].repeat(1 + dice.below(40));
                bytes.splice(at..at, copy);
            }
        }
    }
}

/// A word of libFuzzer's dictionary: `"a\x00\"b"`.
fn word(line: &str) -> Option<Vec<u8>> {
    let inner = line.strip_prefix('"')?.strip_suffix('"')?.as_bytes();
    let (mut word, mut at) = (Vec::new(), 0);
    while at < inner.len() {
        let (byte, length) = match &inner[at..] {
            [b'\\', b'x', hex @ ..] => {
                let hex = std::str::from_utf8(&hex[..2]).unwrap();
                (u8::from_str_radix(hex, 16).unwrap(), 4)
            }
            [b'\\', it, ..] => (*it, 2),
            rest => (rest[0], 1),
        };
        word.push(byte);
        at += length;
    }
    Some(word)
}

fn try_out(target: &str, runs: usize, holds: fn(&[u8])) {
    let stock = Stock::of(target);
    let mut dice = Dice(0);
    for run in 0..runs {
        let bytes = match stock.seeds.get(run) {
            Some(seed) => seed.clone(),
            None => stock.mutation(&mut dice),
        };
        if catch_unwind(|| holds(&bytes)).is_err() {
            panic!(
                "{target} doesn't hold for b\"{}\" ({run})",
                bytes.escape_ascii()
            );
        }
    }
}

#[test]
fn an_envelope_is_admitted_as_what_it_says_or_refused_with_reasons() {
    try_out("envelope", 20_000, properties::envelope::holds);
}

#[test]
fn a_configuration_holds_together_or_its_mistakes_are_told() {
    try_out("config", 4_000, properties::config::holds);
}

#[test]
fn no_url_that_is_followed_spells_a_closed_address() {
    try_out("url_guard", 20_000, properties::url_guard::holds);
}

#[test]
fn no_secret_survives_whatever_stands_around_it() {
    try_out("redactor", 3_000, properties::redactor::holds);
}

#[test]
fn redis_commands_lead_to_the_same_however_they_are_cut() {
    try_out("resp", 6_000, properties::resp::holds);
}

#[test]
fn no_answer_is_taken_for_what_it_does_not_say() {
    try_out("answers", 6_000, properties::answers::holds);
}

#[test]
fn words_are_read_as_libfuzzer_reads_them() {
    assert_eq!(word(r#""a\x00\"\\b""#).unwrap(), b"a\0\"\\b");
    assert_eq!(word("# a comment"), None);
}
