//! What may be said of an account: each key's type, bounds, default and why.

use super::fair_keys::WEIGHT;
use super::late_keys;
use super::shape::{Section, Shape, TEXT, int, key};
use super::words::{PLATFORMS, REACTIONS};
use crate::content::Guard;

/// The accounts of the file.
pub(super) const ACCOUNTS: Section = Section {
    name: "accounts",
    by_name: true,
    overlay: false,
    keys: &[
        key(
            "platform",
            Shape::Word {
                of: &PLATFORMS,
                default: None,
            },
        ),
        key("base_url", TEXT),
        key("identifier", TEXT),
        key("secret", Shape::Secret),
        key("access_key_id", Shape::Secret),
        key("bucket", TEXT),
        key("region", TEXT),
        key("path_style", Shape::Bool { default: true }),
        key("folder", TEXT),
        key("public_url", TEXT),
        key(
            "same_content",
            Shape::Word {
                of: &REACTIONS,
                default: Some("warn"),
            },
        ),
        int(
            "same_content_within_s",
            (60, ", because a producer that repeats itself takes longer"),
            (
                Guard::WITHIN_MAX_S,
                ", because what was said is kept for 30 days",
            ),
            Some(Guard::WITHIN_S),
        ),
        key("webhook_secret", Shape::Secret),
        key("previous_secret", Shape::Secret),
        WEIGHT,
        key("app", TEXT),
        late_keys::PACE_S,
        key("tenant", TEXT),
        int(
            "timeout_s",
            (1, ", because no answer comes in no time"),
            (
                3_600,
                " (an hour); what takes longer is answered with 202 and goes on by itself",
            ),
            Some(60),
        ),
    ],
};
