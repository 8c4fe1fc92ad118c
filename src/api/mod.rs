//! The HTTP API: jobs in, jobs looked at, probes, metrics.
