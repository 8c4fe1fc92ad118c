//! The keys of `[oauth.NAME]`.

use super::shape::{Key, Section, Shape, TEXT, key};
use crate::oauth::Issuer;

/// The section.
pub(super) const OAUTH: Section = Section {
    name: "oauth",
    by_name: true,
    overlay: false,
    keys: &KEYS,
};

const KEYS: [Key; 9] = [
    key(
        "issuer",
        Shape::Word {
            of: &Issuer::WORDS,
            default: None,
        },
    ),
    key("client_id", TEXT),
    key("client_secret", Shape::Secret),
    key("scopes", Shape::List),
    key("authorize_url", TEXT),
    key("token_url", TEXT),
    key("refresh_url", TEXT),
    key("exchange_url", TEXT),
    key("redirect_url", TEXT),
];
