//! What was found, in words: the report of a proof on a terminal.

use std::fmt::Write as _;

use super::check::Verdict;

/// A line of the report: what, how much, and what that means.
pub struct Line {
    /// Its name in `--json`.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What it is.
    pub about: String,
    /// Whether it is as it must be; nothing where it is no promise.
    pub good: Option<bool>,
}

fn line(name: &'static str, value: impl ToString, about: impl Into<String>) -> Line {
    Line {
        name,
        value: value.to_string(),
        about: about.into(),
        good: None,
    }
}

fn none(name: &'static str, value: usize, about: impl Into<String>) -> Line {
    Line {
        good: Some(value == 0),
        ..line(name, value, about)
    }
}

fn ms(value: Option<i64>) -> String {
    value.map_or("-".to_owned(), |it| it.to_string())
}

/// The figures, in order.
pub fn lines(it: &Verdict) -> Vec<Line> {
    let unexplained = it.unknown - it.unknown_explained;
    let least = it.in_flight_min;
    let hit = |n: usize| Some(least <= n);
    vec![
        line(
            "accepted",
            it.accepted,
            "jobs, by doors that answer after the commit",
        ),
        none("lost", it.lost, "of those, gone or never ended"),
        line(
            "accepted_inbox",
            it.accepted_inbox,
            "jobs, by the plain Redis inbox",
        ),
        Line {
            good: Some(it.lost_inbox_unexplained == 0),
            ..line(
                "lost_inbox",
                it.lost_inbox,
                "of those, gone with a Redis that was wiped",
            )
        },
        line("acts", it.acts, "things that really happened outside"),
        none(
            "duplicated",
            it.duplicated,
            "of those, more often than they may",
        ),
        line(
            "paid_twice",
            it.paid_twice,
            "paid calls repeated after a lost answer, as allowed, or after an error that costs nothing",
        ),
        none(
            "false_confirms",
            it.false_confirms,
            "\"it happened\", and it never did",
        ),
        none(
            "false_refusals",
            it.false_refusals,
            "\"it didn't happen\", and it did",
        ),
        line(
            "unknown",
            it.unknown,
            format!(
                "in front of a person; {} of them did happen",
                it.unknown_happened
            ),
        ),
        Line {
            good: Some(unexplained == 0),
            ..line(
                "unknown_explained",
                it.unknown_explained,
                "of those, truly in flight at a fault",
            )
        },
        line(
            "recovery_ms_p50",
            ms(it.recovery_ms_p50),
            format!(
                "from a kill until all its jobs are taken back ({} kills)",
                it.recoveries
            ),
        ),
        line(
            "recovery_ms_p99",
            ms(it.recovery_ms_p99),
            "the same: 99 of 100 are faster",
        ),
        line(
            "flush_recovery_ms_p50",
            ms(it.flush_recovery_ms_p50),
            format!(
                "from a wipe or kill of Redis to the next dispatch ({} of them)",
                it.flush_recoveries
            ),
        ),
        line(
            "flush_recovery_ms_p99",
            ms(it.flush_recovery_ms_p99),
            "the same: 99 of 100 are faster",
        ),
        line(
            "postgres_recovery_ms_p99",
            ms(it.postgres_recovery_ms_p99),
            "from PostgreSQL's return to the next dispatch",
        ),
        line(
            "stop_ms_p50",
            ms(it.stop_ms_p50),
            "from SIGTERM to a daemon's end",
        ),
        line(
            "stop_ms_p99",
            ms(it.stop_ms_p99),
            "the same: 99 of 100 are faster",
        ),
        none(
            "stops_unclean",
            it.stops_unclean,
            "of those, with an attempt charged or a lease left behind",
        ),
        line(
            "late_writes_refused",
            it.late_writes_refused,
            "outcomes of lost leases that the ledger refused",
        ),
        none(
            "limits_overstepped",
            it.limits_overstepped,
            "lanes with more at once than they may",
        ),
        none(
            "histories_wrong",
            it.histories_wrong,
            "leases settled twice, attempts miscounted",
        ),
        none(
            "buried_wrongly",
            it.buried_wrongly,
            "jobs given up for no reason of their own",
        ),
        line(
            "poisoned",
            it.poisoned,
            "jobs given up since daemon after daemon died under them",
        ),
        Line {
            good: hit(it.in_flight_b),
            ..line(
                "in_flight_b",
                it.in_flight_b,
                format!("sends of class B in flight at a fault (at least {least})"),
            )
        },
        Line {
            good: hit(it.in_flight_c),
            ..line(
                "in_flight_c",
                it.in_flight_c,
                format!("sends of class C in flight at a fault (at least {least})"),
            )
        },
        Line {
            good: Some(0 < it.acted_unanswered),
            ..line(
                "acted_unanswered",
                it.acted_unanswered,
                "of both, acted with nobody to hear it",
            )
        },
    ]
}

/// What was broken, in a line.
pub fn broken(it: &Verdict) -> String {
    let sorts = it.strikes.iter();
    let sorts = sorts.map(|(sort, n)| format!("{} {n}", sort.word()));
    sorts.collect::<Vec<_>>().join(", ")
}

/// How it came out, in a line.
pub fn outcome(it: &Verdict) -> String {
    let how = match (it.proven, it.violations.is_empty()) {
        (true, _) => "proven",
        (_, true) => "not proven: it wasn't tried hard enough",
        (_, false) => "NOT PROVEN: a promise was broken",
    };
    format!("{how} (seed {}, {} s)", it.seed, it.seconds)
}

/// The whole report; `paint` colours a good line's value, and a bad one's.
pub fn text(it: &Verdict, paint: impl Fn(bool, &str) -> String) -> String {
    let mut text = String::new();
    for line in lines(it) {
        let value = format!("{:>7}", line.value);
        let value = match line.good {
            Some(good) => paint(good, &value),
            None => value,
        };
        let _ = writeln!(text, "{:<25}{value}   {}", line.name, line.about);
    }
    let _ = writeln!(text, "\nbroken: {}", broken(it));
    let count = |all: &std::collections::BTreeMap<String, usize>| {
        let all = all.iter().map(|(name, n)| format!("{n} {name}"));
        all.collect::<Vec<_>>().join(", ")
    };
    let _ = writeln!(
        text,
        "jobs: {}; attempts that died with their daemon: {}",
        count(&it.states),
        it.reclaimed
    );
    let _ = writeln!(text, "effects: {}", count(&it.effects));
    for what in &it.left_out {
        let _ = writeln!(text, "left out: {what}");
    }
    for what in it.violations.iter().chain(&it.missing) {
        let _ = writeln!(text, "{}", paint(false, &format!("wrong: {what}")));
    }
    let _ = write!(text, "\n{}", paint(it.proven, &outcome(it)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_promise_stands_out() {
        let mut verdict = Verdict {
            proven: true,
            acted_unanswered: 1,
            ..Verdict::default()
        };
        let paint = |good: bool, text: &str| {
            if good {
                text.to_owned()
            } else {
                format!("!{text}!")
            }
        };
        let said = text(&verdict, paint);
        assert!(said.ends_with("proven (seed 0, 0 s)"), "{said}");
        assert!(!said.contains('!'), "{said}");
        verdict.proven = false;
        verdict.lost = 1;
        verdict.violations = vec!["job-000001: gone".to_owned()];
        let said = text(&verdict, paint);
        assert!(
            said.contains("lost                     !      1!"),
            "{said}"
        );
        assert!(said.contains("!wrong: job-000001: gone!"), "{said}");
        assert!(said.contains("NOT PROVEN"), "{said}");
    }
}
