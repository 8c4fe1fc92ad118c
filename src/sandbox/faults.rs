//! How the sandbox misbehaves: faults scripted by a test, written into a text as `[[fault:...]]`, or drawn by seed.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    str::FromStr,
    sync::{LazyLock, Mutex},
};

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::{acts::held, exchange::Peek, text::fingerprint};

/// Scripted faults that wait at once.
const MAX_RULES: usize = 10_000;
/// Texts and keys whose plays are counted; beyond it counting starts anew.
const MAX_COUNTED: usize = 100_000;

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

/// What a seed draws from: after each of them a patient and careful client still succeeds.
const BY_SEED_WRITING: &[Fault] = &[
    Fault::Limited,
    Fault::Failed,
    Fault::Unavailable,
    Fault::ActFailed,
    Fault::ActUnavailable,
    Fault::ActTimeout,
    Fault::ActHang,
    Fault::Reset,
    Fault::ActReset,
    Fault::Truncate,
    Fault::ActTruncate,
    Fault::Lie,
    Fault::ActLie,
    Fault::ActLate,
    Fault::Empty,
];
const BY_SEED_READING: &[Fault] = &[
    Fault::Limited,
    Fault::Failed,
    Fault::Unavailable,
    Fault::Reset,
    Fault::Truncate,
];

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
const LAG_MS: u32 = 5000;

impl Play {
    fn new(fault: Fault) -> Play {
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

/// A scripted fault as `POST /_sandbox/faults` takes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Script {
    pub(super) platform: Option<String>,
    pub(super) op: Option<String>,
    pub(super) account: Option<String>,
    /// A part of the text.
    pub(super) contains: Option<String>,
    pub(super) fault: String,
    /// How often it is played.
    #[serde(default = "one")]
    pub(super) times: u32,
    /// Matching requests that go through before.
    #[serde(default)]
    pub(super) after: u32,
    pub(super) retry_after_s: Option<u32>,
    #[serde(default)]
    pub(super) date: bool,
    pub(super) delay_ms: Option<u32>,
    pub(super) status: Option<u16>,
    pub(super) lag_ms: Option<u32>,
}

fn one() -> u32 {
    1
}

impl Script {
    fn matches(&self, platform: &str, peek: &Peek) -> bool {
        let same = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|w| Some(w) == is)
        };
        same(&self.platform, Some(platform))
            && same(&self.op, Some(peek.op))
            && same(&self.account, peek.account.as_deref())
            && self
                .contains
                .as_deref()
                .is_none_or(|part| peek.text.as_deref().is_some_and(|t| t.contains(part)))
    }
}

/// Which faults wait, which were played.
#[derive(Debug)]
pub(super) struct FaultBook {
    seed: Option<u64>,
    rate: f64,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    rules: Vec<(Script, Play)>,
    /// How often a marked text was played, and how often a key or text was seen.
    counted: HashMap<u64, u32>,
    played: BTreeMap<&'static str, u64>,
}

impl FaultBook {
    pub(super) fn new(seed: Option<u64>, rate: f64) -> FaultBook {
        FaultBook {
            seed,
            rate,
            pages: Mutex::default(),
        }
    }

    /// Adds a scripted fault.
    ///
    /// # Errors
    /// A sentence that says which field is wrong.
    pub(super) fn script(&self, script: Script) -> Result<(), String> {
        let mut play = Play::new(script.fault.parse()?);
        if script
            .status
            .is_some_and(|status| !(200..600).contains(&status))
        {
            return Err("status must lie between 200 and 599".into());
        }
        play.retry_after_s = script.retry_after_s.unwrap_or(play.retry_after_s);
        play.delay_ms = script.delay_ms.unwrap_or(play.delay_ms);
        play.date = script.date;
        play.status = script.status;
        play.lag_ms = script.lag_ms.or(play.lag_ms);
        let mut pages = held(&self.pages);
        if pages.rules.len() >= MAX_RULES {
            return Err(format!(
                "{MAX_RULES} scripted faults wait already: DELETE /_sandbox/faults drops them"
            ));
        }
        pages.rules.push((script, play));
        Ok(())
    }

    /// Drops the scripted faults; answers how many waited.
    pub(super) fn drop_scripts(&self) -> usize {
        std::mem::take(&mut held(&self.pages).rules).len()
    }

    /// The scripted faults that wait.
    pub(super) fn scripts(&self) -> Vec<Script> {
        held(&self.pages)
            .rules
            .iter()
            .map(|(script, _)| script.clone())
            .collect()
    }

    /// How often each fault was played.
    pub(super) fn played(&self) -> BTreeMap<&'static str, u64> {
        held(&self.pages).played.clone()
    }

    /// Forgets scripts and counts.
    pub(super) fn forget(&self) {
        *held(&self.pages) = Pages::default();
    }

    /// Chooses the fault of a request and counts it: scripts first, then markers, then the seed.
    ///
    /// # Errors
    /// A sentence about a marker that can't be read.
    pub(super) fn choose(&self, platform: &str, peek: &Peek) -> Result<Option<Play>, String> {
        let mut pages = held(&self.pages);
        if pages.counted.len() > MAX_COUNTED {
            pages.counted.clear();
        }
        let lag = pages.scripted(platform, peek, true);
        let mut play = pages.scripted(platform, peek, false);
        if play.is_none() {
            play = pages.marked(platform, peek)?;
        }
        if play.is_none() {
            play = self.drawn(&mut pages, platform, peek);
        }
        let play = match (play, lag) {
            (Some(play), Some(lag)) => Some(Play {
                lag_ms: play.lag_ms.or(lag.lag_ms),
                ..play
            }),
            (play, lag) => play.or(lag),
        };
        if let Some(play) = play {
            *pages.played.entry(play.fault.name()).or_default() += 1;
        }
        Ok(play)
    }

    fn drawn(&self, pages: &mut Pages, platform: &str, peek: &Peek) -> Option<Play> {
        let seed = self.seed.filter(|_| self.rate > 0.0)?;
        let subject = peek
            .key
            .as_deref()
            .or(peek.text.as_deref())
            .or(peek.account.as_deref())
            .unwrap_or_default();
        let number = pages.count(fingerprint(&["seed", platform, peek.op, subject]));
        let words = [
            &seed.to_string(),
            platform,
            peek.op,
            subject,
            &number.to_string(),
        ];
        // 53 bits are what an f64 can tell apart.
        let chance = (fingerprint(&words) >> 11) as f64 / (1u64 << 53) as f64;
        let from = if peek.writes {
            BY_SEED_WRITING
        } else {
            BY_SEED_READING
        };
        let pick = fingerprint(&[&words[..], &["which"]].concat()) % from.len() as u64;
        let fault = from[usize::try_from(pick).expect("smaller than the list")];
        (chance < self.rate).then_some(Play {
            delay_ms: 1000,
            ..Play::new(fault)
        })
    }
}

impl Pages {
    /// Counts a subject; answers how often it was counted before.
    fn count(&mut self, subject: u64) -> u32 {
        let count = self.counted.entry(subject).or_default();
        *count = count.saturating_add(1);
        *count - 1
    }

    /// A lag goes with whatever else is played: it is looked for apart.
    fn scripted(&mut self, platform: &str, peek: &Peek, lag: bool) -> Option<Play> {
        let at = self.rules.iter_mut().position(|(script, play)| {
            if (play.fault == Fault::Lag) != lag
                || (lag && !peek.writes)
                || !script.matches(platform, peek)
            {
                return false;
            }
            let ripe = script.after == 0;
            script.after = script.after.saturating_sub(1);
            ripe && script.times > 0
        })?;
        let (script, play) = &mut self.rules[at];
        let play = *play;
        script.times -= 1;
        if script.times == 0 {
            self.rules.remove(at);
        }
        Some(play)
    }

    fn marked(&mut self, platform: &str, peek: &Peek) -> Result<Option<Play>, String> {
        let Some(text) = peek
            .text
            .as_deref()
            .filter(|text| text.contains("[[fault:"))
        else {
            return Ok(None);
        };
        let marks = marks(text)?;
        for op in [Some(peek.op), None] {
            if op.is_none() && peek.quiet {
                continue;
            }
            let here: Vec<&Mark> = marks.iter().filter(|it| it.op.as_deref() == op).collect();
            if here.is_empty() {
                continue;
            }
            let words = ["mark", platform, text, op.unwrap_or_default()];
            let mut number = self.count(fingerprint(&words));
            for mark in here {
                if number < mark.times {
                    return Ok(Some(mark.play));
                }
                number -= mark.times;
            }
        }
        Ok(None)
    }
}

/// A marker in a text.
#[derive(Debug)]
struct Mark {
    play: Play,
    times: u32,
    /// The only operation that it's meant for.
    op: Option<String>,
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
fn marks(text: &str) -> Result<Vec<Mark>, String> {
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
    use serde_json::json;

    fn post(text: &str) -> Peek {
        Peek {
            op: "status.create",
            account: Some("a".into()),
            text: Some(text.into()),
            writes: true,
            ..Peek::default()
        }
    }

    fn names(book: &FaultBook, text: &str, n: usize) -> Vec<Option<&'static str>> {
        (0..n)
            .map(|_| {
                book.choose("mastodon", &post(text))
                    .expect("readable")
                    .map(|play| play.fault.name())
            })
            .collect()
    }

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
    fn marks_are_counted_by_the_whole_text() {
        let book = FaultBook::new(None, 0.0);
        let text = "Hi [[fault:503 times=2]] there [[fault:act_500]]";
        assert_eq!(
            names(&book, text, 4),
            [Some("503"), Some("503"), Some("act_500"), None]
        );
        assert_eq!(
            names(&book, "Hi [[fault:503 times=2]] else", 1),
            [Some("503")]
        );
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
        assert!(book.choose("mastodon", &post("[[fault:oops]]")).is_err());
    }

    #[test]
    fn a_mark_may_name_its_operation() {
        let book = FaultBook::new(None, 0.0);
        let text = "[[fault:503]] [[fault:act_hang op=media.publish lag_ms=7]]";
        let ask = |op, quiet| {
            let peek = Peek {
                op,
                quiet,
                ..post(text)
            };
            let play = book.choose("instagram", &peek).expect("readable");
            play.map(|play| (play.fault.name(), play.lag_ms))
        };
        assert_eq!(ask("container.create", true), None);
        assert_eq!(ask("media.publish", false), Some(("act_hang", Some(7))));
        assert_eq!(ask("media.publish", false), Some(("503", None)));
        assert_eq!(ask("media.publish", false), None);
    }

    #[test]
    fn a_lag_goes_with_other_faults() {
        let book = FaultBook::new(None, 0.0);
        let script = json!({"fault": "lag", "account": "a", "lag_ms": 9, "times": 2});
        book.script(serde_json::from_value(script).expect("a script"))
            .expect("taken");
        let ask = |text: &str, writes| {
            let peek = Peek {
                writes,
                ..post(text)
            };
            let play = book.choose("x", &peek).expect("readable");
            play.map(|play| (play.fault.name(), play.lag_ms))
        };
        assert_eq!(ask("a", false), None, "only what writes can lag");
        assert_eq!(
            ask("a [[fault:act_reset]]", true),
            Some(("act_reset", Some(9)))
        );
        assert_eq!(ask("b", true), Some(("lag", Some(9))));
        assert_eq!(ask("c", true), None);
        assert_eq!(ask("[[fault:lag]]", true), Some(("lag", Some(LAG_MS))));
    }

    #[test]
    fn scripts_match_skip_and_end() {
        let book = FaultBook::new(None, 0.0);
        let script =
            |json: serde_json::Value| serde_json::from_value::<Script>(json).expect("a script");
        let rule = serde_json::json!({"platform": "mastodon", "contains": "cat", "fault": "500", "times": 2, "after": 1});
        book.script(script(rule)).expect("taken");
        assert_eq!(names(&book, "a dog", 2), [None, None]);
        assert_eq!(
            names(&book, "a cat", 4),
            [None, Some("500"), Some("500"), None]
        );
        assert!(book.scripts().is_empty());
        assert!(
            book.script(script(serde_json::json!({"fault": "x"})))
                .is_err()
        );
        assert_eq!(book.played()["500"], 2);
    }

    #[test]
    fn a_seed_draws_the_same_again() {
        let run = |seed| names(&FaultBook::new(Some(seed), 0.5), "text", 64);
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        assert!(run(7).iter().any(Option::is_none) && run(7).iter().any(Option::is_some));
        assert!(
            names(&FaultBook::new(Some(7), 0.0), "text", 64)
                .iter()
                .all(Option::is_none)
        );
        assert!(
            names(&FaultBook::new(Some(7), 1.0), "text", 64)
                .iter()
                .all(Option::is_some)
        );
    }
}
