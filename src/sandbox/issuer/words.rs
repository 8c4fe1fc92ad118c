//! How the simulated issuer words an error.

use serde_json::json;

use super::super::exchange::Answer;

/// An error as the standard words it.
pub(super) fn refuse(status: u16, code: &str, why: &str) -> Answer {
    let body = json!({"error": code, "error_description": why});
    Answer::json(status, &body).with("cache-control", "no-store")
}
