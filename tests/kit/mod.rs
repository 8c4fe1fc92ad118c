//! The test kit: private servers, a network that misbehaves on request, and the real binary.
//!
//! Nothing here needs Docker or a running service. Whatever is started dies with the test process,
//! also when that is killed (see `process.rs`).

// Each test binary includes the whole kit and uses a part of it.
#![allow(dead_code)]

pub mod wait;

pub mod port;
pub mod process;
pub mod languages;
pub mod server;

pub mod daemon;
pub mod net;
pub mod pki;
pub mod postgres;
pub mod pgbouncer;
pub mod proxy;
pub mod redis;
