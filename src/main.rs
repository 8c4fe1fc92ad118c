//! Parse, run, exit: the only place that exits.

fn main() {}
