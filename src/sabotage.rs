//! Safety lines that can be taken away, one at a time: a suite that stays green without one of them
//! proves nothing of it. `scripts/sabotage` runs the suite under each; each must turn it red.
//!
//! `PRESSWORK_SABOTAGE=name` chooses the line, in builds with the feature `sabotage`. Without the
//! feature nothing of this exists, and no test names a sabotage.

/// Takes a safety line away where that was asked for. `sabotage!("name")`: whether the line of this name
/// (one of [`LINES`]) is gone. `sabotage!(SQL, "name": "line" => "instead", ..)`: a statement, or what is
/// left of it when a line is replaced (by what uses the same parameters: the server wants their types).
#[macro_export]
macro_rules! sabotage {
    ($name:literal) => {{
        #[cfg(feature = "sabotage")]
        {
            $crate::sabotage::is_on($name)
        }
        #[cfg(not(feature = "sabotage"))]
        {
            false
        }
    }};
    ($sql:expr, $($name:literal: $line:literal => $instead:literal),+ $(,)?) => {{
        let sql: &'static str = $sql;
        #[cfg(feature = "sabotage")]
        let sql = {
            let mut sql = sql;
            $(sql = $crate::sabotage::without($name, sql, $line, $instead);)+
            sql
        };
        sql
    }};
}

/// The lines that can be taken away, and what each of them is for.
pub const LINES: &[(&str, &str)] = &[
    (
        "settle.fence",
        "a state changes only under the lease's token, or the version that was seen",
    ),
    (
        "claim.generation",
        "a claim of an old generation of the queue gets nothing",
    ),
    ("claim.room", "a lane's concurrency is counted across hosts"),
    (
        "lost.lease",
        "only the jobs of a run whose lease is past are taken over",
    ),
    ("permit.compare", "a permit is given once"),
    ("permit.lease", "a permit needs the job's lease"),
    ("permit.time", "a permit needs enough of the run's lease"),
    (
        "permit.content",
        "a permit looks at what the account has just said",
    ),
    (
        "permit.closures",
        "a permit isn't given within what is closed",
    ),
    (
        "runner.tenant",
        "a job of another tenant than its account's doesn't begin",
    ),
    (
        "late.begun",
        "what was begun is finished, however late it is",
    ),
    (
        "login.person",
        "an account gets no other person's credentials unasked",
    ),
    ("late.pace", "what comes late goes at its account's pace"),
    (
        "permit.tenant",
        "a permit isn't given to a job of another tenant than its account's",
    ),
    (
        "fallback.bound",
        "what may have been sent at one provider stays there",
    ),
    (
        "effect.elsewhere",
        "what was sent for another account, and lost by the ledger, is a person's to decide",
    ),
    (
        "permit.elsewhere",
        "a permit isn't given where the job has one at another account",
    ),
    (
        "permit.journal",
        "what is sent is in the host's journal first",
    ),
    ("permit.asleep", "a permit isn't used after a long sleep"),
    (
        "conclude.send",
        "an answer concludes the send that it answers",
    ),
    (
        "effect.intent",
        "a run that would send something else is held",
    ),
    (
        "effect.key_life",
        "a key is repeated only while the platform knows it",
    ),
    (
        "effect.sends_max",
        "what is paid for is sent again so often and no more",
    ),
    (
        "effect.in_flight",
        "a send of a run that may live is waited for",
    ),
    (
        "judge.not_found",
        "what isn't found may have happened all the same",
    ),
    (
        "judge.in_flight",
        "a look clears nothing while a request may be under way",
    ),
    ("judge.anothers", "what is found may be another effect's"),
    (
        "look.by_text",
        "a post on X is known by its pictures and what it answers, not by its text alone",
    ),
    (
        "journal.checksum",
        "a damaged record of the journal isn't believed",
    ),
    (
        "journal.absence",
        "a journal's silence proves something only where nothing can be lost",
    ),
    (
        "intake.commit",
        "a job is acknowledged once it is in the ledger",
    ),
    (
        "inbox.commit",
        "an entry leaves the inbox once it is in the ledger",
    ),
    (
        "intake.digest",
        "another payload under a known key is a conflict",
    ),
    (
        "pool.rollback",
        "a connection that comes home is rolled back",
    ),
    (
        "lease.connections",
        "the heartbeat has connections of its own",
    ),
    (
        "refresh.compare",
        "of all hosts one renews an account's token",
    ),
    ("http.redirects", "no call follows a redirect"),
    ("http.retries", "no call is repeated by the client itself"),
    ("fetch.addresses", "no inner address is reached for a user"),
    (
        "failed.retry_after",
        "a platform's word on when to come back is heeded",
    ),
    ("failed.released", "stopping charges no attempt"),
    ("runner.suspects", "what may have killed daemons runs alone"),
    (
        "revive.unknown",
        "a dead letter whose effect may have happened isn't revived",
    ),
    (
        "budget.compare",
        "what another host took meanwhile isn't taken once more",
    ),
    ("budget.gate", "an effect takes what its send needs first"),
    (
        "budget.reserve",
        "a place that is kept for a scheduled job is nobody else's",
    ),
    (
        "budget.under_way",
        "a window begins when what it counts is over",
    ),
    (
        "fair.ageing",
        "what has waited too long takes turns with higher priorities",
    ),
    ("media.hold", "media that a job names are kept"),
    (
        "redact.values",
        "known secrets are hidden wherever they stand",
    ),
    (
        "wake.generation",
        "a wiped queue is noticed and filled again",
    ),
];

#[cfg(feature = "sabotage")]
static CHOSEN: std::sync::LazyLock<Option<String>> = std::sync::LazyLock::new(|| {
    let name = std::env::var("PRESSWORK_SABOTAGE").ok();
    let name = name.filter(|it| !it.is_empty());
    if let Some(name) = &name {
        let told = format!("PRESSWORK_SABOTAGE={name} names no line of src/sabotage.rs");
        assert!(is_listed(name), "{told}");
    }
    name
});

#[cfg(feature = "sabotage")]
fn is_listed(name: &str) -> bool {
    LINES.iter().any(|(it, _)| *it == name)
}

/// Whether the line is taken away.
///
/// # Panics
/// Where it isn't listed.
#[cfg(feature = "sabotage")]
pub fn is_on(name: &str) -> bool {
    assert!(is_listed(name), "{name} is no line of src/sabotage.rs");
    CHOSEN.as_deref() == Some(name)
}

/// A statement without the line. Each is made once, and kept for the life of the process.
///
/// # Panics
/// Where the line isn't in the statement: then nothing would be sabotaged.
#[cfg(feature = "sabotage")]
pub fn without(name: &str, sql: &'static str, line: &str, instead: &str) -> &'static str {
    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex, PoisonError};

    static MADE: LazyLock<Mutex<HashMap<String, &'static str>>> = LazyLock::new(Mutex::default);
    assert!(
        sql.contains(line),
        "{name}: the statement has no line `{line}`"
    );
    if !is_on(name) {
        return sql;
    }
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(format!("{name}:{sql}"))
        .or_insert_with(|| Box::leak(sql.replace(line, instead).into_boxed_str()))
}
