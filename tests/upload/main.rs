//! `upload.object` by the real daemon: into moto's S3, which verifies signatures, through a network that
//! misbehaves, and into a folder.
//!
//! What needs moto is skipped, with a line that says so, where `scripts/test` couldn't install it.

#[path = "../kit/mod.rs"]
mod kit;
mod moto;
mod rig;
mod answers;
mod folder;
mod large;
#[cfg(feature = "crashpoints")]
mod killed;
mod network;
mod stopped;

mod stored;
