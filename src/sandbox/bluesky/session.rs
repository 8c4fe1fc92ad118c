//! Identities and sessions: handles, DIDs, and tokens that need no memory, so that they outlive a restart.

use chrono::{DateTime, TimeDelta, Utc};

use super::super::text::{base32, hex, sha256};

/// How long an access and a refresh token live.
const ACCESS_LIFE: TimeDelta = TimeDelta::hours(2);
const REFRESH_LIFE: TimeDelta = TimeDelta::days(60);

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scope {
    Access,
    Refresh,
}

/// Why a token is refused; the names are the platform's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Refused {
    Missing,
    Invalid,
    Expired,
}

/// The handle that an identifier means: a name without a dot lives below `.test`, an address is its local part.
/// Nothing for what can't be a handle.
pub(super) fn handle(identifier: &str) -> Option<String> {
    let name = identifier
        .trim_start_matches('@')
        .split('@')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let label = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let full = if name.contains('.') {
        name
    } else {
        format!("{name}.test")
    };
    (full.len() <= 253 && full.split('.').all(label)).then_some(full)
}

/// The DID of a handle: `did:plc:` and 24 characters that the handle alone decides.
pub(super) fn did(handle: &str) -> String {
    format!(
        "did:plc:{}",
        base32(&sha256(format!("did of {handle}").as_bytes())[..15])
    )
}

fn seal(account: &str, scope: Scope, until: i64) -> String {
    hex(&sha256(format!("sandbox {account} {scope:?} {until}").as_bytes())[..8])
}

/// A token `sandbox-jwt.<account>.<end>-<seal>`.
pub(super) fn issue(account: &str, scope: Scope, now: DateTime<Utc>) -> String {
    let life = if scope == Scope::Access {
        ACCESS_LIFE
    } else {
        REFRESH_LIFE
    };
    let until = (now + life).timestamp();
    format!(
        "sandbox-jwt.{account}.{until}-{}",
        seal(account, scope, until)
    )
}

/// The handle of a token's account, whatever the token is worth.
pub(super) fn account_of(token: &str) -> Option<&str> {
    Some(token.strip_prefix("sandbox-jwt.")?.rsplit_once('.')?.0)
}

/// Checks a token; answers the handle.
pub(super) fn verify(
    token: Option<&str>,
    scope: Scope,
    now: DateTime<Utc>,
) -> Result<String, Refused> {
    let token = token.ok_or(Refused::Missing)?;
    if token.starts_with("sandbox-expired-") {
        return Err(Refused::Expired);
    }
    let account = account_of(token).ok_or(Refused::Invalid)?;
    let (_, number) = token.rsplit_once('.').ok_or(Refused::Invalid)?;
    let (until, sealed) = number.split_once('-').ok_or(Refused::Invalid)?;
    let until: i64 = until.parse().map_err(|_| Refused::Invalid)?;
    if seal(account, scope, until) != sealed {
        return Err(Refused::Invalid);
    }
    if now.timestamp() >= until {
        return Err(Refused::Expired);
    }
    Ok(account.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_checked_and_end() {
        let now = Utc::now();
        let token = issue("alice.test", Scope::Access, now);
        assert_eq!(
            verify(Some(&token), Scope::Access, now),
            Ok("alice.test".into())
        );
        assert_eq!(
            verify(Some(&token), Scope::Refresh, now),
            Err(Refused::Invalid)
        );
        assert_eq!(
            verify(Some(&token.replace("alice", "bob")), Scope::Access, now),
            Err(Refused::Invalid)
        );
        assert_eq!(
            verify(Some(&token), Scope::Access, now + ACCESS_LIFE),
            Err(Refused::Expired)
        );
        assert_eq!(
            verify(Some("sandbox-alice"), Scope::Access, now),
            Err(Refused::Invalid)
        );
        assert_eq!(verify(None, Scope::Access, now), Err(Refused::Missing));
    }

    #[test]
    fn identities_are_well_formed() {
        assert_eq!(handle("alice"), Some("alice.test".into()));
        assert_eq!(
            handle("Alice.Bsky.social"),
            Some("alice.bsky.social".into())
        );
        assert_eq!(handle("alice@example.com"), Some("alice.test".into()));
        assert_eq!(handle("a b"), None);
        assert_eq!(did("alice.test").len(), "did:plc:".len() + 24);
        assert_ne!(did("alice.test"), did("bob.test"));
    }
}
