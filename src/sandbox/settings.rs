//! What a test may set about the simulated platforms beyond their faults: `POST /_sandbox/settings`.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::acts::held;

/// The values, by the names in the request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Values {
    /// How long X refuses the same text of the same account, in seconds; 0 switches the filter off.
    pub(super) x_duplicate_window_s: u32,
    /// Posts of an Instagram account within 24 hours.
    pub(super) instagram_quota: u32,
    /// How often a look at an Instagram container with a video still finds it in progress.
    pub(super) instagram_looks: u32,
    /// How long a container of Instagram is in progress, in milliseconds.
    pub(super) instagram_work_ms: u32,
    /// Its pictures come to nothing.
    pub(super) instagram_work_fails: bool,
    /// How long a response of OpenAI takes in the background, in milliseconds.
    pub(super) openai_work_ms: u32,
    /// How it ends.
    pub(super) openai_work_ends: Ends,
    /// Where OpenAI calls back, on this machine; without one, or a secret, it doesn't.
    pub(super) openai_hook_url: Option<String>,
    /// What its call-backs are signed with: `whsec_...`
    pub(super) openai_hook_secret: Option<String>,
    /// How it calls back.
    pub(super) openai_hook: Hook,
    /// How much later than the end, with `late`, in milliseconds.
    pub(super) openai_hook_late_ms: u32,
    /// How long the work of an endpoint takes, in milliseconds; 0: it answers with the result.
    pub(super) http_work_ms: u32,
    /// How it ends: `failed` may be tried again, `incomplete` not.
    pub(super) http_work_ends: Ends,
    /// It says where it can be asked about its work.
    pub(super) http_polled: bool,
    /// What its call-backs are signed with: `whsec_...`; without one it doesn't call back.
    pub(super) http_hook_secret: Option<String>,
    /// How it calls back.
    pub(super) http_hook: Hook,
    /// How long the issuer's access tokens live, in seconds.
    pub(super) issuer_access_s: u32,
    /// Each refresh gives another refresh token, and the one before is good for no more than the grace.
    pub(super) issuer_rotates: bool,
    /// How long a refresh token that was replaced is forgiven, once, in milliseconds.
    pub(super) issuer_grace_ms: u32,
    /// Who logs in at the issuer, it approves nothing.
    pub(super) issuer_denies: bool,
    /// Who logs in there.
    pub(super) issuer_account: String,
}

/// How a response ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ends {
    #[default]
    Completed,
    Failed,
    Incomplete,
}

impl Ends {
    /// The status that tells it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Ends::Completed => "completed",
            Ends::Failed => "failed",
            Ends::Incomplete => "incomplete",
        }
    }
}

/// How a platform calls back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Hook {
    /// As it should.
    #[default]
    Once,
    /// The same call-back again.
    Twice,
    /// Some time after the end.
    Late,
    /// Not at all.
    Never,
    /// With a signature that doesn't fit.
    Forged,
    /// Before the request itself is answered.
    Early,
}

impl Default for Values {
    fn default() -> Values {
        Values {
            x_duplicate_window_s: 86_400,
            // far above the real 100, so that a load test passes
            instagram_quota: 30_000,
            instagram_looks: 1,
            instagram_work_ms: 0,
            instagram_work_fails: false,
            openai_work_ms: 2_000,
            openai_work_ends: Ends::default(),
            openai_hook_url: None,
            openai_hook_secret: None,
            openai_hook: Hook::default(),
            openai_hook_late_ms: 0,
            http_work_ms: 0,
            http_work_ends: Ends::default(),
            http_polled: true,
            http_hook_secret: None,
            http_hook: Hook::default(),
            issuer_access_s: 7_200,
            issuer_rotates: true,
            issuer_grace_ms: 30_000,
            issuer_denies: false,
            issuer_account: "alice".to_owned(),
        }
    }
}

/// The values of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Settings(Mutex<Values>);

impl Settings {
    /// The values as they are.
    pub(super) fn now(&self) -> Values {
        held(&self.0).clone()
    }

    /// Sets them all: what a request doesn't name goes back to its default.
    pub(super) fn set(&self, values: Values) {
        *held(&self.0) = values;
    }
}
