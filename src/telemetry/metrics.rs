//! The metrics: every name in one table, and one function for each thing that is counted.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in seconds, in buckets with these upper bounds.
    Histogram(&'static [f64]),
}

/// A metric of the table.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name in Prometheus.
    pub name: &'static str,
    /// What kind of number it is.
    pub shape: Shape,
    /// What it says, for people.
    pub help: &'static str,
}

/// From a millisecond to ten minutes: attempts wait for other people's servers.
const LONG: &[f64] = &[
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];
/// From half a millisecond to a minute: what should be quick.
const SHORT: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

macro_rules! table {
    ($($id:ident = $name:literal, $shape:expr, $help:literal;)+) => {
        $(const $id: &str = $name;)+
        /// Every metric.
        pub const TABLE: &[Metric] = &[$(Metric { name: $name, shape: $shape, help: $help }),+];
    };
}

table! {
    ACCEPTED = "presswork_jobs_accepted_total", Shape::Counter, "Jobs committed by intake, by door.";
    REFUSED = "presswork_intake_refused_total", Shape::Counter, "Envelopes that intake refused or put into quarantine, by door and reason.";
    SETTLED = "presswork_jobs_settled_total", Shape::Counter, "Attempts settled, by lane and outcome.";
    ATTEMPT = "presswork_attempt_seconds", Shape::Histogram(LONG), "How long an attempt ran, by kind.";
    FALLBACKS = "presswork_fallbacks_total", Shape::Counter, "Jobs that another account than their own was chosen for, by kind.";
    LATE = "presswork_late_total", Shape::Counter, "Jobs that came later than they may, or than their account's grace, by what became of them: publish, skip, ask.";
    BUDGET_FULL = "presswork_budget_full_total", Shape::Counter, "Requests that a budget held back, by budget.";
    CLOSURES = "presswork_closures", Shape::Gauge, "What is closed for this host's dispatch, by cause: stop, account, credentials, breaker, learned, budget.";
    BREAKER_OPENED = "presswork_breaker_opened_total", Shape::Counter, "Times that this host opened a server's breaker, by server.";
    PICKUP = "presswork_pickup_seconds", Shape::Histogram(SHORT), "From the time a job was due to the start of its attempt.";
    JOBS = "presswork_jobs", Shape::Gauge, "Unfinished jobs, by lane and state.";
    RUNNING = "presswork_running", Shape::Gauge, "Jobs that run on this host, by lane.";
    REBUILDS = "presswork_queue_rebuilds_total", Shape::Counter, "Times the queue was rebuilt from the ledger.";
    CLAIMS_STALE = "presswork_claims_stale_total", Shape::Counter, "Hints of the queue that the ledger refused at the claim.";
    SETTLES_STALE = "presswork_settles_stale_total", Shape::Counter, "Outcomes refused because the lease had gone to another run.";
    RECLAIMED = "presswork_reclaimed_total", Shape::Counter, "Expired leases taken back.";
    EFFECTS = "presswork_effects_total", Shape::Counter, "Effects that reached a state, by operation and state.";
    CALLS = "presswork_calls_total", Shape::Counter, "Call-backs of platforms that came in, by what they led to.";
    PROMOTED = "presswork_ledger_takeovers_total", Shape::Counter, "Times this daemon permitted effects again after another server took the ledger over.";
    TESTIFIED = "presswork_sends_testified_total", Shape::Counter, "Sends that the send journals here told a ledger that had lost them.";
    EXPOSURE = "presswork_inbox_exposure_seconds", Shape::Histogram(SHORT), "How long an envelope was in Redis only, before intake committed it.";
    INBOX_WAITING = "presswork_inbox_waiting", Shape::Gauge, "Envelopes that wait to be taken in, by door: in the Redis inbox (a tenant's own by tenant, too), or in rows that SQL committed.";
    REFRESHED = "presswork_token_refreshes_total", Shape::Counter, "Requests to renew an account's token, by what came of them: granted, lost, later, refused.";
    LEDGER_UP = "presswork_ledger_up", Shape::Gauge, "1 when the ledger answers, 0 when it is away.";
    QUEUE_UP = "presswork_queue_up", Shape::Gauge, "1 when the queue answers, 0 when it is away.";
    MEMORY = "presswork_memory_bytes", Shape::Gauge, "Memory that the daemon holds.";
    LEASE_REMAINING = "presswork_lease_remaining_seconds", Shape::Gauge, "What is left of this host's leases since the last heartbeat that was written.";
}

/// What renders the metrics. Cloning shares the same numbers.
#[derive(Clone, Debug)]
pub struct Handle(PrometheusHandle);

impl Handle {
    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Moves samples of histograms into their buckets. Call it every few seconds: without a
    /// scraper samples would pile up otherwise.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

/// Installs the recorder, once a process; later calls return the same handle.
///
/// # Panics
/// When another library has installed a recorder of its own: then nothing would be counted.
pub fn install() -> Handle {
    static HANDLE: OnceLock<Handle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = TABLE
                .iter()
                .fold(PrometheusBuilder::new(), |builder, it| match it.shape {
                    Shape::Histogram(buckets) => builder
                        .set_buckets_for_metric(Matcher::Full(it.name.to_owned()), buckets)
                        .expect("no histogram of the table is without buckets"),
                    Shape::Counter | Shape::Gauge => builder,
                })
                .build_recorder();
            let handle = Handle(recorder.handle());
            metrics::set_global_recorder(recorder).expect("only this function sets a recorder");
            for it in TABLE {
                match it.shape {
                    Shape::Counter => metrics::describe_counter!(it.name, it.help),
                    Shape::Gauge => metrics::describe_gauge!(it.name, it.help),
                    Shape::Histogram(_) => {
                        metrics::describe_histogram!(it.name, metrics::Unit::Seconds, it.help);
                    }
                }
            }
            handle
        })
        .clone()
}

/// Jobs that intake committed, new ones only.
pub fn accepted(door: &'static str, jobs: u64) {
    counter!(ACCEPTED, "door" => door).increment(jobs);
}

/// An envelope that intake refused or put into quarantine. `reason` is a word, not a sentence.
pub fn refused(door: &'static str, reason: &'static str) {
    counter!(REFUSED, "door" => door, "reason" => reason).increment(1);
}

/// An attempt that was settled.
pub fn settled(lane: &str, outcome: &'static str) {
    counter!(SETTLED, "lane" => lane.to_owned(), "outcome" => outcome).increment(1);
}

/// How long an attempt ran.
pub fn attempt(kind: &'static str, took: Duration) {
    histogram!(ATTEMPT, "kind" => kind).record(took);
}

/// A request that a budget held back.
pub fn budget_full(budget: &str) {
    counter!(BUDGET_FULL, "budget" => budget.to_owned()).increment(1);
}

/// A job went to another account than its own.
pub fn fallback(kind: &str) {
    counter!(FALLBACKS, "kind" => kind.to_owned()).increment(1);
}

/// So much is closed for a cause.
pub fn closures(cause: &'static str, closures: usize) {
    gauge!(CLOSURES, "cause" => cause).set(closures as f64);
}

/// A server's breaker opened.
pub fn breaker_opened(server: &str) {
    counter!(BREAKER_OPENED, "server" => server.to_owned()).increment(1);
}

/// How long a due job waited for its attempt.
pub fn pickup(waited: Duration) {
    histogram!(PICKUP).record(waited);
}

/// Unfinished jobs of a lane in a state.
pub fn jobs(lane: &str, state: &'static str, jobs: u64) {
    gauge!(JOBS, "lane" => lane.to_owned(), "state" => state).set(jobs as f64);
}

/// A job that runs on this host, counted until it is dropped.
pub struct Running(metrics::Gauge);

/// Counts a job of a lane that begins to run on this host.
#[must_use]
pub fn running(lane: &str) -> Running {
    let gauge = gauge!(RUNNING, "lane" => lane.to_owned());
    gauge.increment(1.0);
    Running(gauge)
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// The queue was rebuilt from the ledger.
pub fn queue_rebuilt() {
    counter!(REBUILDS).increment(1);
}

/// Hints that the ledger refused at the claim.
pub fn claims_stale(hints: u64) {
    counter!(CLAIMS_STALE).increment(hints);
}

/// Outcomes refused because the lease had gone to another run.
pub fn settles_stale(outcomes: u64) {
    counter!(SETTLES_STALE).increment(outcomes);
}

/// Expired leases taken back.
pub fn reclaimed(leases: u64) {
    counter!(RECLAIMED).increment(leases);
}

/// A job that came late. `policy` is what became of it: `publish`, `skip`, `ask`.
pub fn late(policy: &'static str) {
    counter!(LATE, "policy" => policy).increment(1);
}

/// An effect that reached a state. `op` is one of the program's operations: `mastodon.status`.
pub fn effect(op: &str, state: &'static str) {
    counter!(EFFECTS, "op" => op.to_owned(), "state" => state).increment(1);
}

/// A call-back of a platform. `led_to` is a word: `woken`, `heard`, `repeated`, `nobody`, `busy`, `refused`.
pub fn call(led_to: &'static str) {
    counter!(CALLS, "led_to" => led_to).increment(1);
}

/// Effects are permitted again after another server took the ledger over.
pub fn promoted() {
    counter!(PROMOTED).increment(1);
}

/// Sends that a ledger which had lost them was told.
pub fn testified(sends: u64) {
    counter!(TESTIFIED).increment(sends);
}

/// How long an envelope was in Redis only.
pub fn inbox_exposure(exposed: Duration) {
    histogram!(EXPOSURE).record(exposed);
}

/// Envelopes that wait in an inbox; `tenant`: in one of that tenant's own.
pub fn inbox_waiting(door: &'static str, tenant: Option<&str>, envelopes: u64) {
    let gauge = match tenant {
        Some(tenant) => gauge!(INBOX_WAITING, "door" => door, "tenant" => tenant.to_owned()),
        None => gauge!(INBOX_WAITING, "door" => door),
    };
    gauge.set(envelopes as f64);
}

/// A request to renew an account's token. `outcome` is a word: `granted`, `lost`, `later`, `refused`.
pub fn refreshed(outcome: &'static str) {
    counter!(REFRESHED, "outcome" => outcome).increment(1);
}

/// Whether the ledger answers.
pub fn ledger_up(up: bool) {
    gauge!(LEDGER_UP).set(f64::from(u8::from(up)));
}

/// Whether the queue answers.
pub fn queue_up(up: bool) {
    gauge!(QUEUE_UP).set(f64::from(u8::from(up)));
}

/// The memory that the daemon holds, in bytes.
pub fn memory(bytes: u64) {
    // a float is exact up to 8 PiB
    gauge!(MEMORY).set(bytes as f64);
}

/// What is left of this host's leases.
pub fn lease_remaining(left: Duration) {
    gauge!(LEASE_REMAINING).set(left.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_of_the_table_is_rendered_with_its_help_and_labels() {
        let handle = install();
        accepted("http", 2);
        refused("inbox", "schema");
        settled("default", "completed");
        attempt("generate.text", Duration::from_millis(30));
        pickup(Duration::from_millis(3));
        budget_full("posts");
        fallback("generate.text");
        late("skip");
        closures("stop", 2);
        breaker_opened("x at https://api.x.com");
        jobs("default", "ready", 7);
        let one = running("default");
        drop(running("default"));
        queue_rebuilt();
        claims_stale(4);
        settles_stale(5);
        reclaimed(6);
        effect("mastodon.status", "confirmed");
        call("woken");
        promoted();
        testified(3);
        inbox_exposure(Duration::from_millis(4));
        inbox_waiting("inbox", None, 8);
        inbox_waiting("inbox", Some("acme"), 9);
        refreshed("granted");
        ledger_up(true);
        queue_up(false);
        memory(4_096);
        lease_remaining(Duration::from_millis(1_500));
        install().upkeep();
        let text = handle.render();
        for it in TABLE {
            assert!(
                text.contains(&format!("# HELP {} {}", it.name, it.help)),
                "{}",
                it.name
            );
        }
        for line in [
            "presswork_jobs_accepted_total{door=\"http\"} 2",
            "presswork_intake_refused_total{door=\"inbox\",reason=\"schema\"} 1",
            "presswork_jobs_settled_total{lane=\"default\",outcome=\"completed\"} 1",
            "presswork_attempt_seconds_bucket{kind=\"generate.text\",le=\"0.05\"} 1",
            "presswork_closures{cause=\"stop\"} 2",
            "presswork_fallbacks_total{kind=\"generate.text\"} 1",
            "presswork_late_total{policy=\"skip\"} 1",
            "presswork_breaker_opened_total{server=\"x at https://api.x.com\"} 1",
            "presswork_jobs{lane=\"default\",state=\"ready\"} 7",
            "presswork_effects_total{op=\"mastodon.status\",state=\"confirmed\"} 1",
            "presswork_inbox_waiting{door=\"inbox\"} 8",
            "presswork_inbox_waiting{door=\"inbox\",tenant=\"acme\"} 9",
            "presswork_ledger_takeovers_total 1",
            "presswork_sends_testified_total 3",
            "presswork_running{lane=\"default\"} 1",
            "presswork_queue_rebuilds_total 1",
            "presswork_token_refreshes_total{outcome=\"granted\"} 1",
            "presswork_ledger_up 1",
            "presswork_queue_up 0",
            "presswork_memory_bytes 4096",
            "presswork_lease_remaining_seconds 1.5",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        drop(one);
    }
}
