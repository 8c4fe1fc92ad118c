//! Any run of sends, answers and conclusions, over a disk that fails now and then, against a model
//! of what was told.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use proptest::prelude::*;
use uuid::Uuid;

use super::kit::*;
use crate::clock::Time;
use crate::journal::past::{PERMIT_LAG, Past, Proof, proves};
use crate::journal::record::{Record, SendId};
use crate::journal::writer::{Options, Writer};
use crate::ledger::Run;

/// What producers of records do.
#[derive(Clone, Debug)]
struct Step {
    /// 0: send, 1: answer, 2: concluded; and of which effect.
    acts: Vec<(u8, u128)>,
    /// How much later, seconds.
    later: i64,
}

fn any_step() -> impl Strategy<Value = Step> {
    let acts = prop::collection::vec((0u8..3, 0u128..6), 1..5);
    (acts, 0i64..200).prop_map(|(acts, later)| Step { acts, later })
}

/// What was told to be written, and what was only tried.
#[derive(Default)]
struct Model {
    sends: BTreeMap<u128, u32>,
    sent: BTreeMap<SendId, Time>,
    heard: BTreeSet<SendId>,
    concluded: BTreeSet<SendId>,
    tried: BTreeSet<SendId>,
}

impl Model {
    fn step(&mut self, writer: &mut Writer, step: &Step, second: i64) {
        let mut records = Vec::new();
        for (act, effect) in &step.acts {
            let last = self.sends.entry(*effect).or_default();
            match act {
                0 => {
                    *last += 1;
                    records.push(send(id(*effect, *last), second));
                }
                _ if *last == 0 => {}
                1 => records.push(answer(id(*effect, *last))),
                _ => {
                    let id = id(*effect, *last);
                    records.push(Record::Concluded { id });
                }
            }
        }
        let written = writer.commit(&records).is_ok();
        for record in records {
            match record {
                Record::Send { id, at } if written => drop(self.sent.insert(id, at)),
                Record::Send { id, .. } => drop(self.tried.insert(id)),
                Record::Answer { id, .. } if written => drop(self.heard.insert(id)),
                Record::Concluded { id } => drop(self.concluded.insert(id)),
                _ => {}
            }
        }
    }

    /// What is said is true; with `whole` nothing is lost, either.
    fn check(&self, past: &Past, here: &Run, whole: bool) {
        for (id, &sent_at) in &self.sent {
            let proof = proves(past, here, &asked(*id, sent_at));
            let later = |it: &SendId| it.effect == id.effect && id.send < it.send;
            let open = !self.concluded.contains(id) && !self.sent.keys().any(later);
            let kept = past
                .dropped_until
                .is_none_or(|it| it + PERMIT_LAG < sent_at);
            match proof {
                Proof::NotSent => panic!("{id:?} was sent"),
                Proof::Nothing => assert!(!(whole && (open || kept)), "{id:?} is lost"),
                Proof::Sent => {
                    let lost = whole && (open || kept) && self.heard.contains(id);
                    assert!(!lost, "the answer of {id:?} is lost");
                }
                Proof::Answered(it) => assert_eq!(*it, conclusion(*id)),
            }
        }
    }
}

fn drive(
    steps: &[Step],
    fails: &[(usize, usize)],
    options: Options,
) -> Option<(Memory, Model, i64)> {
    let disk = Memory::default();
    disk.0.lock().unwrap().fails = fails.iter().copied().collect();
    let (mut model, mut second) = (Model::default(), 0);
    let mut writer = disk.writer(options).ok()?;
    for step in steps {
        second += step.later;
        model.step(&mut writer, step, second);
    }
    Some((disk, model, second))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn what_was_told_is_there_after_a_kill(
        steps in prop::collection::vec(any_step(), 1..80),
        fails in prop::collection::vec((1usize..200, any::<usize>()), 0..12),
        file_max in 200u64..3_000, disk_max in 1_000u64..20_000, keep in 0i64..2_000, fsync: bool,
    ) {
        let keep = TimeDelta::seconds(keep);
        let options = Options { fsync, file_max, disk_max, keep };
        let Some((disk, model, second)) = drive(&steps, &fails, options) else { return Ok(()) };
        let past = read(disk.pages());
        prop_assert_eq!(&past.damage, &[]);
        prop_assert!(past.complete && !past.ended);
        model.check(&past, &here(), true);
        // what comes next was never written down
        let next = asked(id(0, model.sends.get(&0).map_or(1, |it| it + 1)), at(second) + PERMIT_LAG * 2);
        prop_assert_eq!(proves(&past, &here(), &next), Proof::NotSent);
        let elsewhere = run(Uuid::from_u128(8), "other", Some("b"));
        prop_assert_eq!(proves(&past, &elsewhere, &next), Proof::Nothing);
        let proof = if fsync { Proof::NotSent } else { Proof::Nothing };
        prop_assert_eq!(proves(&past, &rebooted(), &next), proof);
    }

    #[test]
    fn what_was_told_is_there_after_the_power_was_lost(
        steps in prop::collection::vec(any_step(), 1..60),
        fails in prop::collection::vec((1usize..200, any::<usize>()), 0..12),
        file_max in 200u64..3_000, disk_max in 1_000u64..20_000, keep in 0i64..2_000,
        left in prop::collection::vec((any::<usize>(), any::<bool>()), 60),
    ) {
        let keep = TimeDelta::seconds(keep);
        let options = Options { fsync: true, file_max, disk_max, keep };
        let Some((disk, model, _)) = drive(&steps, &fails, options) else { return Ok(()) };
        let mut whole = true;
        let files = &mut disk.0.lock().unwrap().files;
        for ((bytes, synced), (part, garbage)) in files.values_mut().zip(&left) {
            let len = *synced + part % (bytes.len() - *synced + 1);
            match garbage {
                true => bytes[len..].fill(0),
                false => bytes.truncate(len),
            }
            whole &= len == bytes.len();
        }
        let pages: Vec<(u32, Vec<u8>)> = files
            .iter()
            .map(|(path, it)| (path.to_str().unwrap().split('.').nth(1).unwrap().parse().unwrap(), it.0.clone()))
            .collect();
        let past = read(pages);
        model.check(&past, &rebooted(), false);
        if past.complete && whole {
            model.check(&past, &rebooted(), true);
        }
    }
}
