//! The ways to misbehave, and how a text asks for one: `[[fault:...]]`.

use std::{fmt, str::FromStr, sync::LazyLock};

use regex::Regex;

macro_rules! faults {
    ($($variant:ident $name:literal $acts:literal $about:literal;)*) => {
        /// A way to misbehave.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Fault { $(#[doc = $about] $variant,)* }

        impl Fault {
            /// Every fault there is.
            pub(super) const ALL: &[Fault] = &[$(Fault::$variant,)*];

            /// The name in scripts and markers.
            pub(super) fn name(self) -> &'static str {
                match self { $(Fault::$variant => $name,)* }
            }

            /// Whether the request is acted on all the same.
            pub(super) fn acts(self) -> bool {
                match self { $(Fault::$variant => $acts,)* }
            }
        }
    };
}

faults! {
    Refuse "refuse" false "A definitive refusal in the platform's form.";
    Unauthorized "401" false "The token is refused.";
    Forbidden "403" false "The account may not.";
    NotFound "404" false "There is no such thing.";
    Limited "429" false "Too many requests, with Retry-After and the platform's own headers.";
    Failed "500" false "Did nothing, answers 500.";
    Unavailable "503" false "Did nothing, answers 503.";
    ActFailed "act_500" true "Acted, then answers 500.";
    ActUnavailable "act_503" true "Acted, then answers 503.";
    ActRefuse "act_refuse" true "Acted, then refuses as if it hadn't.";
    ActTimeout "act_504" true "Acted, then answers 504 as a gateway does.";
    Hang "hang" false "Did nothing, never answers.";
    ActHang "act_hang" true "Acted, never answers.";
    Reset "reset" false "Did nothing, resets the connection.";
    ActReset "act_reset" true "Acted, resets the connection.";
    Drop "drop" false "Did nothing, closes the connection `delay_ms` later.";
    Truncate "truncate" false "Did nothing, answers 200 and ends amid the body.";
    ActTruncate "act_truncate" true "Acted, ends amid the body.";
    Lie "lie" false "Did nothing, answers 200 with a page of some proxy.";
    ActLie "act_lie" true "Acted, answers 200 with an unreadable body.";
    Drip "drip" true "Acted, answers a byte every 100 ms.";
    Huge "huge" true "Acted, answers 200 MiB.";
    ActLate "act_late" true "Closes the connection at once and acts `delay_ms` later.";
    Slow "slow" true "Acted, answers `delay_ms` later.";
    Lag "lag" true "Acted, answers well, but lists show it `lag_ms` later; it goes with other faults.";
    Redirect "redirect" false "Did nothing, redirects to an address inside.";
    Empty "empty" false "Did nothing, answers 200 with nothing.";
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Fault, String> {
        Fault::ALL
            .iter()
            .copied()
            .find(|fault| fault.name() == name)
            .ok_or_else(|| {
                let names: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
                format!(
                    "there is no fault {name:?}; write one of {}",
                    names.join(", ")
                )
            })
    }
}

/// One fault as it is to be played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Play {
    pub(super) fault: Fault,
    pub(super) retry_after_s: u32,
    /// Retry-After as an HTTP date.
    pub(super) date: bool,
    pub(super) delay_ms: u32,
    /// A status instead of the fault's usual one.
    pub(super) status: Option<u16>,
    /// Lists show what was made only so much later.
    pub(super) lag_ms: Option<u32>,
}

/// The lag of the fault `lag` when nobody says how much.
pub(super) const LAG_MS: u32 = 5000;

impl Play {
    /// A fault with what it has when nobody says more.
    pub(super) fn new(fault: Fault) -> Play {
        Play {
            fault,
            retry_after_s: 1,
            date: false,
            delay_ms: 5000,
            status: None,
            lag_ms: (fault == Fault::Lag).then_some(LAG_MS),
        }
    }
}

/// A marker in a text.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) play: Play,
    pub(super) times: u32,
    /// The only operation that it's meant for.
    pub(super) op: Option<String>,
}

static MARK: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\[\[fault:([^\]]*)\]\]").expect("a constant pattern that is tested")
});

/// A text as people shall see it: without its markers.
pub(super) fn without_marks(text: &str) -> String {
    if text.contains("[[fault:") {
        MARK.replace_all(text, "").trim().to_owned()
    } else {
        text.to_owned()
    }
}

/// The markers of a text.
///
/// # Errors
/// A sentence about one that can't be read.
pub(super) fn marks(text: &str) -> Result<Vec<Mark>, String> {
    MARK.captures_iter(text)
        .map(|found| mark(&found[1]))
        .collect()
}

fn mark(inside: &str) -> Result<Mark, String> {
    let mut words = inside.split_whitespace();
    let mut play = Play::new(words.next().unwrap_or_default().parse()?);
    let (mut times, mut op) = (1, None);
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || {
            value
                .parse::<u32>()
                .map_err(|_| format!("{name}={value} in [[fault:{inside}]] is no number"))
        };
        match name {
            "times" if value == "always" => times = u32::MAX,
            "times" => times = number()?,
            "retry_after" => play.retry_after_s = number()?,
            "delay_ms" => play.delay_ms = number()?,
            "lag_ms" => play.lag_ms = Some(number()?),
            "op" if !value.is_empty() => op = Some(value.to_owned()),
            "date" if value.is_empty() => play.date = true,
            "status" => match number()? {
                status @ 200..600 => play.status = u16::try_from(status).ok(),
                _ => {
                    return Err(format!(
                        "status in [[fault:{inside}]] must lie between 200 and 599"
                    ));
                }
            },
            _ => {
                return Err(format!(
                    "{word} in [[fault:{inside}]] is unknown; write times=, retry_after=, date, delay_ms=, lag_ms=, op= or status="
                ));
            }
        }
    }
    Ok(Mark { play, times, op })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse::<Fault>(), Ok(*fault));
        }
        assert!(
            "nonsense"
                .parse::<Fault>()
                .expect_err("unknown")
                .contains("act_reset")
        );
    }

    #[test]
    fn a_mark_is_read_and_hidden() {
        assert_eq!(
            without_marks("Hi [[fault:429 times=1 retry_after=2 date]]"),
            "Hi"
        );
        let Mark { play, times, .. } =
            mark("429 times=3 retry_after=2 date status=420").expect("readable");
        assert_eq!(
            (play.retry_after_s, play.date, play.status, times),
            (2, true, Some(420), 3)
        );
    }
}
