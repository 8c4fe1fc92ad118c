//! The names of everything that Presswork keeps in Redis.

use uuid::Uuid;

use crate::inbox::INBOX;

/// Several installations may share one Redis, each with a prefix of its own.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Empty, or the prefix and a colon.
    prefix: String,
}

/// The keys of a lane, in the order of every lane script's KEYS.
pub(super) type LaneKeys = [String; 6];

/// The inbox and what belongs to it. Its lists carry the inbox' whole key as their hash tag, so
/// that all of them share a slot of a cluster.
#[derive(Clone, Debug)]
pub(super) struct InboxKeys {
    /// Any program may append to it.
    pub(super) inbox: String,
    /// Whose lists hold something.
    pub(super) holders: String,
}

impl Names {
    /// Bounds: a prefix has letters, digits, `_`, `-`, `.` and `:` only, and at most 64 of them. A
    /// brace would change the hash tags.
    pub(super) fn new(prefix: Option<&str>) -> Result<Self, String> {
        let prefix = prefix.unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
        if 64 < prefix.len() || !prefix.chars().all(fits) {
            return Err(format!(
                "the key prefix `{prefix}` isn't made of letters, digits, `_`, `-`, `.` and `:` \
                 (64 at most): write one such as `staging`, or leave it out"
            ));
        }
        let colon = if prefix.is_empty() { "" } else { ":" };
        Ok(Self {
            prefix: format!("{prefix}{colon}"),
        })
    }

    /// `{pw:lane:<lane>}:...`. The generation is a field of `held`: were it a key of its own, `held`
    /// could be lost alone, and with it the lane's concurrency.
    pub(super) fn lane(&self, lane: &str) -> LaneKeys {
        let key = |name: &str| format!("{{{}pw:lane:{lane}}}:{name}", self.prefix);
        [
            key("held"),
            key("ready"),
            key("clock"),
            key("turns:0"),
            key("turns:1"),
            key("turns:2"),
        ]
    }

    /// `presswork:inbox`, or `presswork:inbox:<tenant>`, and what belongs to it.
    pub(super) fn inbox(&self, tenant: Option<&str>) -> InboxKeys {
        let inbox = match tenant {
            Some(tenant) => format!("{}{INBOX}:{tenant}", self.prefix),
            None => format!("{}{INBOX}", self.prefix),
        };
        InboxKeys {
            holders: format!("{{{inbox}}}:holders"),
            inbox,
        }
    }

    /// `presswork:reply:<token>`, where the token could have come from an envelope.
    pub(super) fn reply(&self, token: &str) -> Option<String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let good = !token.is_empty() && token.len() <= 64 && token.chars().all(fits);
        good.then(|| format!("{}{token}", self.replies()))
    }

    /// What the lists of receipts begin with.
    pub(super) fn replies(&self) -> String {
        format!("{}presswork:reply:", self.prefix)
    }

    /// What belongs to it behind hash tags, as patterns of an access list: lanes, and what the inboxes'
    /// entries were moved to.
    pub(super) fn tagged(&self) -> [String; 2] {
        ["pw:lane:", INBOX].map(|it| format!("{{{}{it}*", self.prefix))
    }

    /// A name that is this installation's own.
    pub(super) fn own(&self, name: &str) -> String {
        format!("{}{name}", self.prefix.replace(':', "-"))
    }

    /// The channel on which dispatchers are woken.
    pub(super) fn wake(&self) -> String {
        format!("{}presswork:wake", self.prefix)
    }
}

impl InboxKeys {
    /// The list of a run's slot.
    pub(super) fn taken(&self, run: Uuid, slot: u32) -> String {
        format!("{{{}}}:taken:{run}:{slot}", self.inbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_documented() {
        let names = Names::new(None).unwrap();
        assert_eq!(names.inbox(None).inbox, "presswork:inbox");
        assert_eq!(names.inbox(None).holders, "{presswork:inbox}:holders");
        assert_eq!(
            names.inbox(None).taken(Uuid::nil(), 3),
            "{presswork:inbox}:taken:00000000-0000-0000-0000-000000000000:3"
        );
        assert_eq!(names.inbox(Some("acme")).inbox, "presswork:inbox:acme");
        assert_eq!(
            names.inbox(Some("acme")).holders,
            "{presswork:inbox:acme}:holders"
        );
        assert_eq!(names.lane("posts")[1], "{pw:lane:posts}:ready");
        assert_eq!(names.wake(), "presswork:wake");
        let names = Names::new(Some("staging")).unwrap();
        assert_eq!(names.inbox(None).inbox, "staging:presswork:inbox");
        assert_eq!(names.lane("posts")[1], "{staging:pw:lane:posts}:ready");
    }

    #[test]
    fn a_prefix_or_token_that_could_reach_other_keys_is_refused() {
        for prefix in ["a}b", "{", "a b", "ü", &"x".repeat(65)] {
            assert!(Names::new(Some(prefix)).is_err(), "{prefix}");
        }
        let names = Names::new(None).unwrap();
        assert_eq!(names.reply("r-1").unwrap(), "presswork:reply:r-1");
        for token in ["", "a:b", "a b", "}", &"x".repeat(65)] {
            assert_eq!(names.reply(token), None, "{token}");
        }
    }
}
