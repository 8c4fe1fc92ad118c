//! The sandbox over real sockets: each platform's good path and refusals, repeats, every fault, and restarts.

mod bench;
mod platforms;
mod faults;
