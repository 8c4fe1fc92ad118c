#![doc = include_str!("../ARCHITECTURE.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod crashpoint;

// what we talk about: pure, no IO
pub mod clock;
pub mod json;
pub mod outcome;
pub mod retry;
pub mod lifecycle;
pub mod job;
pub mod effect;
pub mod telemetry;
pub mod config;

// where things are kept: one door each
pub mod ledger;
pub mod queue;

// what the world looks like from here
pub mod platform;

// what work means
pub mod context;
pub mod handler;
pub mod kinds;

// who asks
pub mod sandbox;
