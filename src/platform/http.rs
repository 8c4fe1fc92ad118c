//! The one HTTP client: time-outs, byte caps, redaction, no redirects, no hidden retries.

/// The one HTTP client. Cloning shares its pool.
#[derive(Clone)]
pub struct Http;
