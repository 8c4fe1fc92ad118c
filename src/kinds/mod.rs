//! The kinds: one file each, one list.
