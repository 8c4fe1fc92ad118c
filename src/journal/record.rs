//! The journal's records as bytes: how they are written, and how they are found again in a file
//! that was cut short or damaged.
//!
//! A file begins with [`MAGIC`]. A record is its head (length of the payload, type, sequence number,
//! and a checksum of these), the payload, and a checksum of both. The head has a checksum of its own
//! so that a flipped bit in a length can't look like a file that was cut short. All are salted with
//! the run and the file's number: an old block that a file system brings back is nobody's record.

use std::sync::Arc;

use crc::{CRC_32_ISCSI, Crc, Table};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Time;
use crate::effect::EffectId;
use crate::sabotage;

/// What a file begins with; the number is the format's version.
pub const MAGIC: &[u8] = b"presswork journal 1\n";
/// The longest payload, bytes: four times the longest answer of a platform that is kept as text.
pub const PAYLOAD_MAX: usize = 4 << 20;

/// Length, type, sequence number, checksum.
const HEAD: usize = 4 + 1 + 8 + 4;
const SUM: usize = 4;
/// An effect's id and the number of its send.
const ID: usize = 16 + 4;
const TIME: usize = 8;
/// CRC-32C, as the reliability of a length up to [`PAYLOAD_MAX`] asks for: all bursts up to 32 bits.
static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// One send of an effect: the number of the permit it was made under, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SendId {
    /// The effect.
    pub effect: EffectId,
    /// Which of its sends.
    pub send: u32,
}

/// The first record of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The run that writes it.
    pub run: Uuid,
    /// The file's number, from 0.
    pub number: u32,
    /// The run's host.
    pub host: String,
    /// The kernel's boot id, where there is one.
    pub boot: Option<String>,
    /// Every send was on the disk, not only in the kernel, before its first byte left.
    pub fsync: bool,
    /// What counts of the file before this one, bytes.
    pub previous_len: u64,
    /// A write or a sync of the file before this one failed: what is in it beyond `previous_len`
    /// was told to nobody as written.
    pub after_failure: bool,
    /// Files that were dropped before this one was begun.
    pub dropped: Option<Dropped>,
}

/// Files that a run dropped itself, since the ledger has what was in them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// The number of the last of them.
    pub through: u32,
    /// No send in them is younger.
    pub until: Option<Time>,
}

/// What is written down.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The first of a file.
    Header(Header),
    /// The request goes out next.
    Send {
        /// Which.
        id: SendId,
        /// When, by the ledger's clock, to the microsecond.
        at: Time,
    },
    /// What was heard of it.
    Answer {
        /// Of which.
        id: SendId,
        /// When, to the microsecond.
        at: Time,
        /// The conclusion, JSON.
        conclusion: Arc<[u8]>,
    },
    /// The ledger has its conclusion.
    Concluded {
        /// Of which.
        id: SendId,
    },
    /// The run stopped cleanly: nothing follows.
    End,
}

/// What makes a checksum one of this file.
#[derive(Clone, Copy, Debug)]
pub struct Salt([u8; 20]);

impl Salt {
    /// The salt of a run's file.
    pub fn new(run: Uuid, number: u32) -> Self {
        let mut salt = [0; 20];
        salt[..16].copy_from_slice(run.as_bytes());
        salt[16..].copy_from_slice(&number.to_le_bytes());
        Self(salt)
    }

    fn sum(&self, parts: &[u8]) -> [u8; SUM] {
        let mut digest = CRC.digest();
        digest.update(&self.0);
        digest.update(parts);
        digest.finalize().to_le_bytes()
    }
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Self::Header(_) => 1,
            Self::Send { .. } => 2,
            Self::Answer { .. } => 3,
            Self::Concluded { .. } => 4,
            Self::End => 5,
        }
    }

    /// How many bytes it takes, a header's payload aside.
    pub fn size(&self) -> usize {
        let payload = match self {
            Self::Header(_) | Self::End => 0,
            Self::Send { .. } => ID + TIME,
            Self::Answer { conclusion, .. } => ID + TIME + conclusion.len(),
            Self::Concluded { .. } => ID,
        };
        HEAD + payload + SUM
    }

    /// Appends it to `out` as record number `seq` of the file of `salt`.
    pub fn write(&self, salt: Salt, seq: u64, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend([0; HEAD]);
        self.payload(out);
        let len = u32::try_from(out.len() - begin - HEAD).expect("a payload is bounded");
        let head = &mut out[begin..begin + HEAD];
        head[..4].copy_from_slice(&len.to_le_bytes());
        head[4] = self.kind();
        head[5..13].copy_from_slice(&seq.to_le_bytes());
        let sum = salt.sum(&head[..13]);
        head[13..].copy_from_slice(&sum);
        let sum = salt.sum(&out[begin..]);
        out.extend(sum);
    }

    fn payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Header(header) => {
                let json = serde_json::to_vec(header).expect("a header is plain JSON");
                out.extend(json);
            }
            Self::Send { id, at } => {
                id.write(out);
                out.extend(at.timestamp_micros().to_le_bytes());
            }
            Self::Answer { id, at, conclusion } => {
                id.write(out);
                out.extend(at.timestamp_micros().to_le_bytes());
                out.extend(&conclusion[..]);
            }
            Self::Concluded { id } => id.write(out),
            Self::End => {}
        }
    }

    fn parse(kind: u8, payload: &[u8]) -> Option<Self> {
        Some(match kind {
            1 => Self::Header(serde_json::from_slice(payload).ok()?),
            2 => {
                let (id, rest) = SendId::read(payload)?;
                let at = time(rest.try_into().ok()?)?;
                Self::Send { id, at }
            }
            3 => {
                let (id, rest) = SendId::read(payload)?;
                let (at, conclusion) = rest.split_first_chunk::<TIME>()?;
                Self::Answer {
                    id,
                    at: time(*at)?,
                    conclusion: conclusion.into(),
                }
            }
            4 => match SendId::read(payload)? {
                (id, []) => Self::Concluded { id },
                _ => return None,
            },
            5 if payload.is_empty() => Self::End,
            _ => return None,
        })
    }
}

impl SendId {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.effect.0.as_bytes());
        out.extend(self.send.to_le_bytes());
    }

    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (effect, rest) = bytes.split_first_chunk::<16>()?;
        let (send, rest) = rest.split_first_chunk::<4>()?;
        let id = Self {
            effect: EffectId(Uuid::from_bytes(*effect)),
            send: u32::from_le_bytes(*send),
        };
        Some((id, rest))
    }
}

fn time(micros: [u8; TIME]) -> Option<Time> {
    Time::from_timestamp_micros(i64::from_le_bytes(micros))
}

/// What stands at a place of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A record.
    Whole {
        /// It.
        record: Record,
        /// Its number in the run's sequence.
        seq: u64,
        /// Its bytes.
        size: usize,
    },
    /// The beginning of one, as far as the file goes.
    Short,
    /// One whose head is intact and whose rest isn't, or can't be understood.
    Spoilt {
        /// Its number in the run's sequence.
        seq: u64,
        /// Its bytes.
        size: usize,
    },
    /// No head of a record of this file.
    Unreadable,
}

impl Found {
    /// What `bytes`, not empty, begin with.
    pub fn at(bytes: &[u8], salt: Salt) -> Self {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Self::Short;
        };
        let [l0, l1, l2, l3, kind, s0, s1, s2, s3, s4, s5, s6, s7, ..] = *head;
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        // the cheap half first: a damaged file is searched at each byte
        if PAYLOAD_MAX < len || salt.sum(&head[..13]) != head[13..] {
            return Self::Unreadable;
        }
        let seq = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let size = HEAD + len + SUM;
        if rest.len() < len + SUM {
            return Self::Short;
        }
        let sum = salt.sum(&bytes[..HEAD + len]);
        match Record::parse(kind, &rest[..len]) {
            Some(record) if sum == rest[len..len + SUM] || sabotage!("journal.checksum") => {
                Self::Whole { record, seq, size }
            }
            _ => Self::Spoilt { seq, size },
        }
    }

    /// The next place from `from` on where a whole record stands.
    pub fn next(bytes: &[u8], from: usize, salt: Salt) -> Option<usize> {
        let whole = |at: &usize| matches!(Self::at(&bytes[*at..], salt), Self::Whole { .. });
        (from..bytes.len().saturating_sub(HEAD)).find(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_record() -> impl Strategy<Value = Record> {
        let id = (any::<u128>(), any::<u32>()).prop_map(|(effect, send)| SendId {
            effect: EffectId(Uuid::from_u128(effect)),
            send,
        });
        let at = (-10_000_000_000_000i64..10_000_000_000_000_000)
            .prop_map(|it| Time::from_timestamp_micros(it).unwrap());
        let header = (
            any::<u128>(),
            any::<u32>(),
            ".{0,20}",
            at.clone(),
            any::<bool>(),
        )
            .prop_map(|(run, number, host, at, flag)| {
                let dropped = Dropped {
                    through: number / 2,
                    until: flag.then_some(at),
                };
                Record::Header(Header {
                    run: Uuid::from_u128(run),
                    number,
                    boot: flag.then(|| host.clone()),
                    host,
                    fsync: !flag,
                    previous_len: u64::from(number) << 20,
                    after_failure: flag,
                    dropped: flag.then_some(dropped),
                })
            });
        let bytes = prop::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            header,
            (id.clone(), at.clone()).prop_map(|(id, at)| Record::Send { id, at }),
            (id.clone(), at, bytes).prop_map(|(id, at, conclusion)| Record::Answer {
                id,
                at,
                conclusion: conclusion.into(),
            }),
            id.prop_map(|id| Record::Concluded { id }),
            Just(Record::End),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            records in prop::collection::vec(any_record(), 1..8), run: u128, number: u32, first in 0u64..u64::MAX / 2,
        ) {
            let salt = Salt::new(Uuid::from_u128(run), number);
            let mut bytes = Vec::new();
            for (seq, record) in (first..).zip(&records) {
                let begin = bytes.len();
                record.write(salt, seq, &mut bytes);
                if !matches!(record, Record::Header(_)) {
                    prop_assert_eq!(bytes.len() - begin, record.size());
                }
            }
            let mut at = 0;
            for (expected, written) in (first..).zip(records) {
                match Found::at(&bytes[at..], salt) {
                    Found::Whole { record, seq, size } => {
                        prop_assert_eq!((record, seq), (written, expected));
                        at += size;
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!(at, bytes.len());
        }

        #[test]
        fn a_record_of_another_file_is_none_of_this_one(record in any_record(), run: u128, number: u32) {
            let run = Uuid::from_u128(run);
            let mut bytes = Vec::new();
            record.write(Salt::new(run, number), 7, &mut bytes);
            let other = Salt::new(run, number.wrapping_add(1));
            prop_assert_eq!(Found::at(&bytes, other), Found::Unreadable);
            let other = Salt::new(Uuid::from_u128(run.as_u128() ^ 1), number);
            prop_assert_eq!(Found::at(&bytes, other), Found::Unreadable);
        }

        #[test]
        fn bytes_are_never_guessed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let salt = Salt::new(Uuid::nil(), 0);
            prop_assert_eq!(Found::next(&bytes, 0, salt), None);
        }
    }
}
