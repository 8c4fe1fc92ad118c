//! The sandbox over real sockets: each platform's good path and refusals, repeats, every fault, and restarts.

// the kit itself starts servers; of it only the waiting is needed here
#[allow(dead_code, reason = "this target uses one way of waiting")]
#[path = "../kit/wait.rs"]
mod wait;
mod bench;
mod signer;
mod platforms;
mod x;
mod instagram;
mod issuer;
mod responses;
mod s3;
mod faults;
