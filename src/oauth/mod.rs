//! OAuth 2: how platforms let a person grant access, and how a grant is kept alive. Pure, but for the random
//! bytes of a login.
//!
//! A **client** is a `[oauth.NAME]` section: an app that somebody registered with a platform. A **grant** is
//! what a person gave it for an account: a token that works for a while, and what renews it. What an
//! issuer's answer means is one total function ([`answer`]); what follows from it another ([`refresh`]).

pub mod issuer;
pub mod client;
pub mod login;
pub mod begun;
pub mod answer;
pub mod refresh;

pub use answer::{Grant, Verdict};
pub use begun::Begun;
pub use client::{Ask, Client, What};
pub use issuer::Issuer;
pub use login::Login;
