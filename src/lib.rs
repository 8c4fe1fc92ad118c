#![doc = include_str!("../ARCHITECTURE.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod crashpoint;
pub mod sabotage;
pub mod sync;

// what we talk about: pure, no IO
pub mod clock;
pub mod json;
pub mod reference;
pub mod tls;
pub mod outcome;
pub mod retry;
pub mod breaker;
pub mod lifecycle;
pub mod lateness;
pub mod content;
pub mod budget;
pub mod job;
#[cfg(test)]
mod sample;
pub mod effect;
pub mod finding;
pub mod token;
pub mod person;
pub mod account;
pub mod vault;
pub mod telemetry;
pub mod oauth;
pub mod config;
pub mod gate;
pub mod fallback;
pub mod fair;

// where things are kept: one door each
pub mod inbox;
pub mod ledger;
pub mod queue;
pub mod journal;
pub mod media;
pub mod backup;

// what the world looks like from here
pub mod platform;
pub mod stores;
pub mod fetch;
pub mod command;

// what work means
pub mod recovery;
pub mod testimony;
pub mod wanted;
pub mod protocol;
#[cfg(test)]
mod model;
pub mod results;
pub mod context;
pub mod adopt;
pub mod handler;
pub mod kinds;
pub mod intake;
pub mod together;
pub mod operate;

// what makes it go: one loop, one file
pub mod engine;

// who asks
pub mod api;
pub mod resp;
pub mod service;
pub mod daemon;
pub mod sandbox;
pub mod servers;
pub mod prove;
pub mod cli;
