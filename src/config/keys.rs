//! Every key of `jobs.toml`: its type, bounds, default and why. The reader knows no others.
//!
//! Scalars of the fixed sections can be said by the environment too, which then holds over the
//! file: `PRESSWORK_<SECTION>_<KEY>` ([`Section::variable`]). An empty variable says nothing.

use super::account_keys::ACCOUNTS;
use super::budget_keys::BUDGET_KEYS;
use super::fair_keys::{TENANTS, WAITS_AT_MOST};
use super::late_keys;
use super::oauth_keys::OAUTH;
pub use super::shape::{Bounds, Key, Section, Shape};
use super::shape::{TEXT, int, key, text};
use super::words::RESENDS;

/// Variables that aren't keys: the boot's id, where the system hides it; the file; crash points; the
/// log's level for a while (holds over `daemon.log`); where official descriptions are, for tests.
pub const OTHER_VARIABLES: [&str; 5] = [
    "PRESSWORK_BOOT_ID",
    "PRESSWORK_CONFIG",
    "PRESSWORK_CRASH",
    "PRESSWORK_LOG",
    "PRESSWORK_SPECS",
];

/// The room of a lane that says none.
pub const ROOM: u32 = 256;

/// Tenants that have an inbox of their own, at most: each costs the daemon a connection to Redis.
pub const TENANTS_MAX: usize = 100;

/// The lanes that are always there, with their concurrency.
pub const LANES: [(&str, Option<u32>); 9] = [
    ("default", None),
    ("openai", Some(8)),
    ("mastodon", Some(4)),
    ("bluesky", Some(4)),
    ("uploads", Some(4)),
    ("x", Some(4)),
    ("instagram", Some(4)),
    ("calls", Some(16)),
    ("commands", Some(4)),
];

const fn attempts() -> Key {
    let low = ", because the first one counts";
    let high = ", because what failed a hundred times won't work by itself";
    int("attempts", (1, low), (100, high), None)
}

const fn base_ms() -> Key {
    let low = ", because no wait at all is a storm";
    let high = " (a day), because it is the wait after the very first failure";
    int("base_ms", (1, low), (86_400_000, high), None)
}

const fn cap_ms() -> Key {
    let low = ", because no wait at all is a storm";
    let high = " (a week), because jobs grow no older by default";
    int("cap_ms", (1, low), (604_800_000, high), None)
}

/// What a model costs, in millionths of a dollar.
const fn price(name: &'static str) -> Key {
    let low = ", because a price can't be negative";
    let high = " (a million dollars); the unit is millionths of a dollar";
    int(name, (0, low), (1_000_000_000_000, high), None)
}

const DAY_S: u64 = 86_400;
const DAYS_LOW: &str = ", because people look for a job on the day after";
const DAYS_HIGH: &str = " (ten years), because everything kept is read by every backup";

/// Every section, in the order of `jobs.toml`.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "daemon",
        by_name: false,
        overlay: true,
        keys: &[
            text("state_dir", ".presswork"),
            int(
                "lease_s",
                (1, ", because heartbeats come every third of it"),
                (3_600, ", because a dead host's jobs wait that long"),
                Some(30),
            ),
            int(
                "drain_s",
                (0, ""),
                (
                    3_600,
                    ", because a stop that takes longer is killed by what asked for it",
                ),
                Some(25),
            ),
            int(
                "memory_mb",
                (16, ", because the daemon itself needs as much"),
                (16_777_216, " (16 TiB), because no host has more"),
                None,
            ),
            text("log", "info"),
            key(
                "log_format",
                Shape::Word {
                    of: &["auto", "json", "human"],
                    default: Some("auto"),
                },
            ),
        ],
    },
    Section {
        name: "ledger",
        by_name: false,
        overlay: true,
        keys: &[key("url", Shape::Address { default: "" })],
    },
    Section {
        name: "queue",
        by_name: false,
        overlay: true,
        keys: &[
            key("url", Shape::Address { default: "memory:" }),
            int(
                "window",
                (1, ", because an empty window dispatches nothing"),
                (
                    1_000_000,
                    ", because the queue is a hint that must stay small",
                ),
                Some(10_000),
            ),
        ],
    },
    Section {
        name: "api",
        by_name: false,
        overlay: true,
        keys: &[
            text("listen", "127.0.0.1:8787"),
            key("token", Shape::Secret),
            key("public_url", TEXT),
        ],
    },
    Section {
        name: "resp",
        by_name: false,
        overlay: true,
        keys: &[text("listen", "off")],
    },
    Section {
        name: "inbox",
        by_name: false,
        overlay: true,
        keys: &[
            key("require_key", Shape::Bool { default: false }),
            int(
                "backlog_max",
                (1, ", because otherwise nothing is accepted"),
                (1_000_000_000, ", because a bound that is never met is none"),
                Some(1_000_000),
            ),
            key("tenants", TEXT),
        ],
    },
    Section {
        name: "keep",
        by_name: false,
        overlay: true,
        keys: &[
            int("finished_days", (1, DAYS_LOW), (3_650, DAYS_HIGH), Some(30)),
            int(
                "keys_days",
                (1, ", because a producer repeats what it isn't sure of"),
                (3_650, DAYS_HIGH),
                Some(30),
            ),
        ],
    },
    Section {
        name: "media",
        by_name: false,
        overlay: true,
        keys: &[
            key("folder", TEXT),
            key("account", TEXT),
            text("prefix", "presswork"),
            int(
                "bytes_max",
                (1, ", because otherwise nothing is stored"),
                (
                    1 << 40,
                    " (a tebibyte), because an attempt has a day at most",
                ),
                Some(4 << 30),
            ),
            int(
                "pixels_max",
                (1, ", because otherwise no picture is stored"),
                (
                    10_000_000_000,
                    ", because whoever decodes one needs four bytes for each",
                ),
                Some(100_000_000),
            ),
            int(
                "ratio_max",
                (1, ", because a square is the least"),
                (100_000, ", because no format has longer sides"),
                Some(100),
            ),
            int(
                "grace_s",
                (
                    60,
                    ", because what was just stored is not yet named by its job",
                ),
                (
                    31_536_000,
                    " (a year), because what nobody needs fills the disk",
                ),
                Some(DAY_S),
            ),
            int(
                "fetch_age_s",
                (0, ""),
                (
                    31_536_000,
                    " (a year), because what is behind a URL changes",
                ),
                Some(3_600),
            ),
            int(
                "fetch_timeout_s",
                (1, ", because no file comes in no time"),
                (DAY_S, " (a day), because a stuck fetch holds its job"),
                Some(600),
            ),
            key("fetch_http", Shape::Bool { default: false }),
            key("fetch_allow", TEXT),
        ],
    },
    Section {
        name: "retry",
        by_name: false,
        overlay: false,
        keys: &[attempts(), base_ms(), cap_ms()],
    },
    Section {
        name: "lanes",
        by_name: true,
        overlay: false,
        keys: &[
            int(
                "concurrency",
                (1, "; to stop a lane, `presswork lanes pause` it"),
                (100_000, ", because no platform lets more through"),
                None,
            ),
            int(
                "room",
                (1, "; to stop a lane, `presswork lanes pause` it"),
                (100_000, ", because each takes memory and a socket"),
                Some(ROOM as u64),
            ),
            WAITS_AT_MOST,
        ],
    },
    TENANTS,
    Section {
        name: "kinds",
        by_name: true,
        overlay: false,
        keys: &[
            key("lane", TEXT),
            attempts(),
            base_ms(),
            cap_ms(),
            int(
                "timeout_s",
                (1, ", because no attempt ends in no time"),
                (
                    86_400,
                    " (a day), because a stuck attempt holds its place in the lane",
                ),
                None,
            ),
            int(
                "age_max_s",
                (1, ", because older jobs are buried as expired"),
                (
                    31_536_000,
                    " (a year), because a job that waits longer was forgotten",
                ),
                None,
            ),
            late_keys::LATE,
            late_keys::LATE_AFTER,
            int(
                "resend_times",
                (0, ""),
                (10, ", because each may be paid for once more"),
                None,
            ),
            int(
                "look_after_ms",
                (100, ", because a platform lists nothing sooner"),
                (600_000, " (ten minutes), because people wait for the post"),
                None,
            ),
            int(
                "look_for_s",
                (1, ", because what is never looked for is never found"),
                (604_800, " (a week), because a person should know by then"),
                None,
            ),
            key(
                "resend",
                Shape::Word {
                    of: &RESENDS,
                    default: None,
                },
            ),
            int(
                "cache_age_s",
                (1, "; leave it out, and each job asks anew"),
                (
                    31_536_000,
                    " (a year), because models change behind their names",
                ),
                None,
            ),
            int(
                "adopt_for_s",
                (1, ", because no work ends in no time"),
                (
                    2_592_000,
                    " (30 days), because OpenAI keeps an answer no longer",
                ),
                None,
            ),
            key("fallbacks", Shape::Providers),
        ],
    },
    Section {
        name: "breaker",
        by_name: false,
        overlay: false,
        keys: &[
            int(
                "failures",
                (0, ""),
                (
                    10_000,
                    ", because so many attempts are lost before anybody stops",
                ),
                Some(5),
            ),
            int(
                "window_s",
                (1, ", because no failures come closer together"),
                (DAY_S, " (a day), because what was a day ago says nothing"),
                Some(60),
            ),
            int(
                "cool_down_s",
                (1, ", because each probe is a request"),
                (
                    3_600,
                    " (an hour), because it is doubled each time that it didn't help",
                ),
                Some(30),
            ),
        ],
    },
    late_keys::SECTION,
    ACCOUNTS,
    Section {
        name: "vault",
        by_name: false,
        overlay: false,
        keys: &[key("keys", Shape::Keys)],
    },
    OAUTH,
    Section {
        name: "commands",
        by_name: true,
        overlay: false,
        keys: &[
            key("program", TEXT),
            key("args", Shape::List),
            key("env", Shape::Variables),
            key("lane", TEXT),
            key("repeatable", Shape::Bool { default: false }),
            int(
                "timeout_s",
                (1, ", because no program ends in no time"),
                (DAY_S, " (a day), because a stuck program holds its place"),
                Some(300),
            ),
            int(
                "memory_mb",
                (8, ", because no program starts with less"),
                (16_777_216, " (16 TiB), because no host has more"),
                None,
            ),
            int(
                "cpu_s",
                (1, ", because no program runs in no time"),
                (DAY_S, " (a day), because no attempt takes longer"),
                None,
            ),
            int(
                "open_files",
                (16, ", because libraries alone are as many"),
                (1_048_576, ", because systems have no more"),
                Some(1_024),
            ),
            int(
                "file_mb",
                (0, ""),
                (16_777_216, " (16 TiB), because no disk has more"),
                Some(1_024),
            ),
            int(
                "output_bytes_max",
                (2, ", because no JSON but a digit is shorter"),
                (
                    16_777_216,
                    " (16 MiB), because a result is kept in the ledger; larger things belong into a file or a bucket",
                ),
                Some(1_048_576),
            ),
        ],
    },
    Section {
        name: "budgets",
        by_name: true,
        overlay: false,
        keys: &BUDGET_KEYS,
    },
    Section {
        name: "presets",
        by_name: true,
        overlay: false,
        keys: &[
            key("prompt_prefix", TEXT),
            key("prompt_suffix", TEXT),
            key("negative_prompt", TEXT),
            key("model", TEXT),
            key("size", TEXT),
            int(
                "strength_percent",
                (0, ""),
                (
                    100,
                    ", because then nothing is left of the reference pictures",
                ),
                None,
            ),
        ],
    },
    Section {
        name: "models",
        by_name: true,
        overlay: false,
        keys: &[
            price("input_micros_per_mtok"),
            price("output_micros_per_mtok"),
            price("image_micros"),
            int(
                "output_tokens_max",
                (1, ", because an answer has a token"),
                (10_000_000, ", because no model writes more"),
                Some(16_384),
            ),
            text("currency", "USD"),
        ],
    },
];

/// The section of this name, one of [`SECTIONS`].
pub fn section(name: &str) -> &'static Section {
    SECTIONS
        .iter()
        .find(|it| it.name == name)
        .expect("the reader asks for sections of the table, as a test shows")
}

/// What may be written for a key, by its path (`daemon.lease_s`, `lanes."a.b".room`), for people.
pub fn bounds(path: &str) -> String {
    let section = path.split('.').next().unwrap_or_default();
    let name = path.rsplit('.').next().unwrap_or_default();
    let section = SECTIONS.iter().find(|it| it.name == section);
    match section.and_then(|it| it.key(name)).map(|it| it.shape) {
        Some(Shape::Int(it)) => format!("{} to {}", it.min, it.max),
        Some(Shape::Bool { .. }) => "true, false".to_owned(),
        Some(Shape::Word { of, .. }) => of.join(", "),
        Some(Shape::Secret) => "by reference".to_owned(),
        Some(Shape::List) => "strings".to_owned(),
        Some(Shape::Providers) => "accounts, with models".to_owned(),
        Some(Shape::Keys) => "keys, by reference".to_owned(),
        Some(Shape::Variables) => "strings, secrets by reference".to_owned(),
        Some(Shape::Text { .. } | Shape::Address { .. }) | None => String::new(),
    }
}

/// Every variable that the configuration reads.
pub fn variables() -> impl Iterator<Item = String> {
    SECTIONS
        .iter()
        .flat_map(|section| {
            section
                .keys
                .iter()
                .filter_map(|key| section.variable(key.name))
        })
        .chain(OTHER_VARIABLES.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_their_bounds() {
        for key in SECTIONS.iter().flat_map(|it| it.keys) {
            if let Shape::Int(Bounds {
                min,
                max,
                default: Some(default),
                ..
            }) = key.shape
            {
                assert!((min..=max).contains(&default), "{}", key.name);
            }
        }
    }

    #[test]
    fn bounds_are_found_by_path() {
        assert_eq!(bounds("daemon.lease_s"), "1 to 3600");
        assert_eq!(bounds("lanes.\"a.b\".room"), "1 to 100000");
        assert_eq!(bounds("daemon.log_format"), "auto, json, human");
        assert_eq!(bounds("daemon.state_dir"), "");
    }

    #[test]
    fn variables_are_of_the_fixed_sections() {
        let all: Vec<String> = variables().collect();
        assert!(all.contains(&"PRESSWORK_DAEMON_LEASE_S".to_owned()));
        assert!(!all.iter().any(|it| it.starts_with("PRESSWORK_LANES")));
    }
}
