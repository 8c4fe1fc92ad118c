//! What the journal of an earlier run on this host still proves.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use uuid::Uuid;

use super::disk::sync_folder;
use super::record::SendId;
use crate::clock::Time;
use crate::effect::{Effect, EffectId};
use crate::ledger::{Conclusion, Run};
use crate::sabotage;

/// A send is written down with a time that was read at most so long before its permit was given.
pub const PERMIT_LAG: chrono::Duration = chrono::Duration::minutes(5);

/// What is left of an earlier run's journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// The run.
    pub run: Uuid,
    /// Its host; nothing where no header could be read.
    pub host: Option<String>,
    /// The kernel's boot id of that time, where there was one.
    pub boot: Option<String>,
    /// Each send was on the disk before its first byte left.
    pub fsync: bool,
    /// All that was written is here, as it was written: up to where it ended, or was cut short at
    /// its very end.
    pub complete: bool,
    /// It stopped cleanly: nothing was sent after what is here.
    pub ended: bool,
    /// No send that the run dropped itself, with the ledger's knowledge, is younger.
    pub dropped_until: Option<Time>,
    /// What was sent and heard.
    pub sends: BTreeMap<SendId, Seen>,
    /// What isn't as it was written.
    pub damage: Vec<Damage>,
    /// Its files, oldest first.
    pub files: Vec<PathBuf>,
}

/// What was seen of a send.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// When, by the ledger's clock; nothing where that record is lost.
    pub sent_at: Option<Time>,
    /// What was heard.
    pub answer: Option<Conclusion>,
    /// The ledger had its conclusion.
    pub concluded: bool,
}

/// A place that isn't as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in it, bytes.
    pub offset: u64,
    /// What is wrong with it, for people.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: byte {}: {}",
            self.file.display(),
            self.offset,
            self.what
        )
    }
}

/// A permit whose fate is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// The run that held it.
    pub run: Uuid,
    /// The effect.
    pub effect: EffectId,
    /// Its number, from 1.
    pub send: u32,
    /// When it was given, by the ledger's clock.
    pub permit_at: Time,
}

impl Asked {
    /// The last permit of an effect; nothing when none was given.
    pub fn last_of(effect: &Effect) -> Option<Self> {
        Some(Self {
            run: effect.permit_run?,
            effect: effect.id,
            send: effect.sends,
            permit_at: effect.permit_at?,
        })
    }
}

/// What a journal proves of a permit.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// Not one byte of the request left.
    NotSent,
    /// It was about to be sent: it may have happened.
    Sent,
    /// It was sent, and this was heard.
    Answered(Box<Conclusion>),
    /// Nothing: as if there were no journal.
    Nothing,
}

/// What `past` proves of a permit, seen from this run (`here`), when the run of the past is dead for
/// certain: the lock of the state folder is ours, and the folder is no copy of another machine's.
///
/// A record that is there is true. Its absence proves that nothing was sent, as a send is written
/// down before its first byte, only if nothing can have got lost: all that was written is here; its
/// end can't have been lost with the kernel's memory (the kernel is still the same, or each send was
/// on the disk first, or the journal has its end); and the permit is younger than all that the run
/// dropped, since a ledger that was promoted with a lost tail may ask for what it once knew.
pub fn proves(past: &Past, here: &Run, asked: &Asked) -> Proof {
    if past.run != asked.run || here.id == asked.run {
        return Proof::Nothing;
    }
    let id = SendId {
        effect: asked.effect,
        send: asked.send,
    };
    let has_its_tail = past.has_its_tail(here);
    let is_kept = past
        .dropped_until
        .is_none_or(|it| it + PERMIT_LAG < asked.permit_at);
    match (past.sends.get(&id), past.complete, has_its_tail, is_kept) {
        (
            Some(Seen {
                answer: Some(it), ..
            }),
            _,
            _,
            _,
        ) => Proof::Answered(Box::new(it.clone())),
        (Some(Seen { answer: None, .. }), _, _, _) => Proof::Sent,
        (None, true, true, true) => Proof::NotSent,
        (None, _, _, _) if sabotage!("journal.absence") => Proof::NotSent,
        (None, _, _, _) => Proof::Nothing,
    }
}

impl Past {
    /// Whether its end can't have been lost with the kernel's memory, seen from a later run on its host.
    pub fn has_its_tail(&self, here: &Run) -> bool {
        let same_host = self.host.as_deref() == Some(&*here.host);
        let same_boot = self.boot.is_some() && self.boot == here.boot;
        same_host && (same_boot || self.fsync || self.ended)
    }

    /// Removes its files: the ledger has all that they prove. What a crash leaves of them can't be
    /// taken for the whole: the first one goes first, for good.
    ///
    /// # Errors
    /// When one can't be removed.
    pub fn retire(&self) -> io::Result<()> {
        for (i, file) in self.files.iter().enumerate() {
            match std::fs::remove_file(file) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                it => it?,
            }
            if i == 0 || i + 1 == self.files.len() {
                sync_folder(file)?;
            }
        }
        Ok(())
    }
}
