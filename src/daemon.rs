//! The daemon as a process: its lock, its run, its engine, its API, its signals.
