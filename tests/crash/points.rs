//! Every crash point there is: what of a daemon's work leads there, and what the sources say.

use std::collections::BTreeMap;
use std::path::Path;

/// How the jobs of a case come in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Door {
    Inbox,
    Http,
    /// HTTP, and Redis is away: the ledger is polled.
    Alone,
}

/// What the jobs of a case are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// One of each kind.
    Mixed,
    /// Some that put themselves off once, which is a recorded step.
    Steps,
    Kind(&'static str),
    /// Mixed, and the daemon that is to be killed finds what another one left.
    Left,
}

pub const MASTODON: Work = Work::Kind("post.mastodon");
pub const BLUESKY: Work = Work::Kind("post.bluesky");
pub const GENERATE: Work = Work::Kind("generate.text");

/// Every crash point there is.
pub const POINTS: [(&str, Door, Work); 42] = [
    ("intake.before_commit", Door::Http, Work::Mixed),
    ("intake.after_commit", Door::Http, Work::Mixed),
    ("inbox.before_take", Door::Inbox, Work::Mixed),
    ("inbox.after_take", Door::Inbox, Work::Mixed),
    ("inbox.after_commit", Door::Inbox, Work::Mixed),
    ("inbox.after_done", Door::Inbox, Work::Mixed),
    ("relay.before_reset", Door::Inbox, Work::Mixed),
    ("relay.after_reset", Door::Inbox, Work::Mixed),
    ("queue.before_offer", Door::Inbox, Work::Mixed),
    ("queue.after_offer", Door::Inbox, Work::Mixed),
    ("queue.before_take", Door::Inbox, Work::Mixed),
    ("queue.after_take", Door::Inbox, Work::Mixed),
    ("claim.before_commit", Door::Inbox, Work::Mixed),
    ("claim.after_commit", Door::Inbox, Work::Mixed),
    ("claim.before_due", Door::Alone, Work::Mixed),
    ("claim.after_due", Door::Alone, Work::Mixed),
    ("runner.before_handler", Door::Inbox, Work::Mixed),
    ("step.before_record", Door::Inbox, Work::Steps),
    ("step.after_record", Door::Inbox, Work::Steps),
    ("effect.after_intent", Door::Inbox, MASTODON),
    ("effect.after_intent", Door::Inbox, GENERATE),
    ("effect.before_permit", Door::Inbox, MASTODON),
    ("effect.after_permit", Door::Inbox, MASTODON),
    ("effect.after_permit", Door::Inbox, BLUESKY),
    ("effect.after_permit", Door::Inbox, GENERATE),
    ("journal.before_send", Door::Inbox, GENERATE),
    ("journal.after_send", Door::Inbox, MASTODON),
    ("journal.after_send", Door::Inbox, GENERATE),
    ("journal.before_answer", Door::Inbox, GENERATE),
    ("journal.after_answer", Door::Inbox, MASTODON),
    ("journal.after_answer", Door::Inbox, GENERATE),
    ("effect.after_response", Door::Inbox, MASTODON),
    ("effect.after_response", Door::Inbox, BLUESKY),
    ("effect.after_response", Door::Inbox, GENERATE),
    ("effect.after_conclude", Door::Inbox, MASTODON),
    ("effect.after_conclude", Door::Inbox, BLUESKY),
    ("effect.after_conclude", Door::Inbox, GENERATE),
    ("settle.before_commit", Door::Inbox, Work::Mixed),
    ("settle.after_commit", Door::Inbox, Work::Mixed),
    ("settle.after_commit", Door::Inbox, GENERATE),
    ("settle.before_release", Door::Inbox, Work::Mixed),
    ("reclaim.before_settle", Door::Inbox, Work::Left),
];
/// Those that a daemon passes before anybody can bring it a job.
pub const AT_START: [&str; 5] = [
    "inbox.before_take",
    "relay.before_reset",
    "relay.after_reset",
    "queue.before_take",
    "claim.before_due",
];

/// Where the send journal of the host makes a known end of what the ledger can't know.
pub const TOLD: [&str; 4] = [
    "effect.after_permit",
    "journal.before_send",
    "journal.after_answer",
    "effect.after_response",
];

/// The names in the sources, and whether the point can fail.
pub fn in_the_sources() -> BTreeMap<String, bool> {
    let mut found = BTreeMap::new();
    names(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    found
}

pub fn names(folder: &Path, found: &mut BTreeMap<String, bool>) {
    for entry in std::fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            names(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("crashpoint.rs")
        {
            let text = std::fs::read_to_string(&path).expect("a source can be read");
            let calls = text.split(concat!("crashpoint!", "(\"")).skip(1);
            found.extend(calls.filter_map(|it| {
                let (name, rest) = it.split_once('"')?;
                Some((name.to_owned(), rest.starts_with(", ")))
            }));
        }
    }
}
