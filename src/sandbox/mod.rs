//! A simulated internet: the wire formats of the platforms, with faults on request.
