//! Which jobs a command is about: ids or a filter; and whether a person is sure of it.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;

use super::out::{CliError, Out};
use crate::clock::Time;
use crate::ledger::Filter;

/// So many are listed unless said.
const LISTED: u32 = 100;

/// What every list can be narrowed by.
#[derive(Args, Clone, Debug, Default)]
pub struct Few {
    /// Only of this kind
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// At most so many, the newest first; lists have 100 unless said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    limit: Option<u32>,
}

/// A time that an option says: RFC 3339, or `in 10m` from `now`.
///
/// # Errors
/// It is none, or too far away.
pub fn time(option: &str, said: &str, now: Time) -> Result<Time, CliError> {
    if let Some(span) = said.strip_prefix("in ") {
        let span =
            self::span(span.trim()).map_err(|e| CliError::usage(format!("{option}: {e}")))?;
        let at = chrono::Duration::from_std(span)
            .ok()
            .and_then(|it| now.checked_add_signed(it));
        return at.ok_or_else(|| CliError::usage(format!("{option} {said:?} is too far away")));
    }
    chrono::DateTime::parse_from_rfc3339(said)
        .map(|it| it.to_utc())
        .map_err(|_| {
            CliError::usage(format!("{option} {said:?} is no time"))
                .hint("write it as 2027-01-31T09:00:00Z, 2027-01-31T10:00:00+01:00 or `in 10m`")
        })
}

/// A filter over jobs.
#[derive(Args, Clone, Debug, Default)]
pub struct Which {
    /// Its kind, and how many.
    #[command(flatten)]
    pub few: Few,
    /// Only of this lane
    #[arg(long, value_name = "LANE")]
    pub lane: Option<String>,
    /// Only for this account
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// Only of this tenant
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
}

/// A filter over dead letters.
#[derive(Args, Clone, Debug, Default)]
pub struct WhichDead {
    #[command(flatten)]
    which: Which,
    /// Only where the failure's code is TEXT or its message contains it
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only of this group (dead list --group shows them)
    #[arg(long, value_name = "GROUP")]
    fingerprint: Option<String>,
    /// Only what died longer ago than this: 90s, 15m, 2h, 7d
    #[arg(long, value_name = "SPAN", value_parser = span)]
    older: Option<Duration>,
    /// Only what died since then: 90s, 15m, 2h, 7d
    #[arg(long, value_name = "SPAN", value_parser = span)]
    newer: Option<Duration>,
}

impl Few {
    /// One more than is shown: so a list knows whether there are more.
    pub fn asked(&self) -> u32 {
        self.shown() + 1
    }

    fn shown(&self) -> u32 {
        self.limit.unwrap_or(LISTED)
    }

    /// Cuts what was found to what is shown, and says so if there was more.
    pub fn cut<T>(&self, out: &Out, found: &mut Vec<T>) {
        let most = self.shown() as usize;
        if most < found.len() {
            found.truncate(most);
            out.note("There are more: --limit shows them, a filter others.");
        }
    }
}

impl Which {
    /// Nothing narrows it (a limit doesn't).
    pub fn is_empty(&self) -> bool {
        self.filter(0)
            == Filter {
                limit: 0,
                ..Filter::default()
            }
    }

    /// The ledger's filter of it, for any state and `most` at most.
    pub fn filter(&self, most: u32) -> Filter {
        Filter {
            limit: most,
            kind: self.few.kind.clone(),
            lane: self.lane.clone(),
            account: self.account.clone(),
            tenant: self.tenant.clone(),
            ..Filter::default()
        }
    }
}

impl WhichDead {
    /// Nothing narrows it (a limit doesn't).
    pub fn is_empty(&self) -> bool {
        self.filter(Time::UNIX_EPOCH, 0)
            == Filter {
                limit: 0,
                ..Filter::default()
            }
    }

    /// What is shown of it in a list.
    pub fn few(&self) -> &Few {
        &self.which.few
    }

    /// So many are changed at most.
    pub fn most(&self) -> u32 {
        self.which.few.limit.unwrap_or(MOST)
    }

    /// The ledger's filter of it at `now`, for `most` at most.
    pub fn filter(&self, now: Time, most: u32) -> Filter {
        Filter {
            error: self.error.clone(),
            fingerprint: self.fingerprint.clone(),
            before: self.older.map(|it| now - it),
            after: self.newer.map(|it| now - it),
            ..self.which.filter(most)
        }
    }
}

/// A span of time: a number and one of `s`, `m`, `h`, `d`, `w`.
///
/// # Errors
/// When it isn't one, with what to write.
pub fn span(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is no span of time; write a number and s, m, h, d or w, such as 2h");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let seconds = number
        .checked_mul(factor)
        .filter(|it| *it <= 36_500 * 86_400);
    let seconds = seconds.ok_or_else(|| format!("`{text}` is longer than a hundred years"))?;
    Ok(Duration::from_secs(seconds))
}

/// So many jobs at most are changed by one command that names them by a filter.
pub const MOST: u32 = 10_000;

/// Whether a person is there to be asked.
pub fn can_ask(out: &Out) -> bool {
    !out.json && out.terminal && std::io::stdin().is_terminal()
}

/// Asks a yes-or-no question; anything but a yes is a no.
///
/// # Errors
/// When the answer can't be read.
pub fn ask(question: &str) -> Result<bool, CliError> {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes" | "Yes"))
}

/// Makes sure of a change to many: `yes` was said, or the person at the terminal says so now.
///
/// # Errors
/// When neither.
pub fn confirm(out: &Out, yes: bool, question: &str) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !can_ask(out) {
        return Err(
            CliError::usage(format!("{question} Nothing was changed: this needs a yes"))
                .hint("look with --dry-run, then say --yes"),
        );
    }
    match ask(question)? {
        true => Ok(()),
        false => Err(CliError::conflict("nothing was changed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_or_explained() {
        assert_eq!(span("2h").unwrap(), Duration::from_secs(7_200));
        assert_eq!(span("0s").unwrap(), Duration::ZERO);
        for wrong in ["", "2", "h", "2 h", "-1d", "2ü", "99999999999999999999d"] {
            assert!(span(wrong).unwrap_err().contains("such as 2h"), "{wrong}");
        }
        assert!(span("9999999w").unwrap_err().contains("hundred years"));
    }

    #[test]
    fn a_limit_alone_narrows_nothing() {
        let mut which = WhichDead::default();
        which.which.few.limit = Some(5);
        assert!(which.is_empty());
        which.older = Some(Duration::ZERO);
        assert!(!which.is_empty());
    }
}
