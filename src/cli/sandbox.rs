//! `presswork sandbox`: a simulated internet.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::out::{CliError, Exit, Out, Tone};
use crate::sandbox::{Options, Sandbox};

const AFTER: &str = r#"It never calls anything outside. What it really did stands in DIR/acts.jsonl, and on its page.
Base URLs are its address and /openai, /mastodon, /bluesky, /x, /instagram or /s3. A token
sandbox-NAME is the account NAME; of S3, NAME is the access key and sandbox-NAME its secret, every
bucket exists but those named missing-..., and those named public-... may be read by anybody. A team's
endpoint is /http/NAME: calls are signed with whsec_cHJlc3N3b3JrLXNhbmRib3gtc2lnbmluZy1rZXktMzI=

A text may ask for trouble: [[fault:503 times=2]], [[fault:429 times=1 retry_after=2]] (`presswork
dev` does so); of Instagram it is the caption, played when it is published, and of S3 the key. The
faults: refuse, 401, 403, 404, 429, 500, 503, hang, drop, reset, truncate, lie, slow, drip, huge,
redirect, empty; those that act first: act_500, act_503, act_504, act_hang, act_reset,
act_truncate, act_lie, act_late, act_refuse; and lag, by which a post shows in lists later. More
words: times=N or times=always, delay_ms=N, lag_ms=N (with any fault), status=N, retry_after=N,
date, op=NAME (only for that operation). Without a word in the texts:

  POST /_sandbox/faults    {"platform": "x", "op": "post.create", "fault": "act_hang", "times": 2}
  POST /_sandbox/settings  {"x_duplicate_window_s": 0, "instagram_quota": 25, "instagram_looks": 3,
                            "instagram_work_ms": 5000, "instagram_work_fails": true,
                            "openai_work_ms": 60000,
                            "openai_work_ends": "completed" (failed, incomplete),
                            "openai_hook_url": "http://127.0.0.1:8787/v1/hooks/NAME",
                            "openai_hook_secret": "whsec_...", "openai_hook_late_ms": 0,
                            "openai_hook": "once" (twice, late, never, forged, early),
                            "http_work_ms": 5000, "http_work_ends": "completed", "http_polled": true,
                            "http_hook_secret": "whsec_...", "http_hook": "once",
                            "issuer_access_s": 7200, "issuer_rotates": true, "issuer_grace_ms": 30000,
                            "issuer_denies": false, "issuer_account": "alice"}
  POST /_sandbox/clock     {"advance_s": 86400}
  POST /_sandbox/reset     GET /_sandbox/acts, /_sandbox/requests, /_sandbox/calls

Examples:
  presswork sandbox
  presswork sandbox --listen 127.0.0.1:0 --dir /tmp/sandbox --json
  presswork sandbox --seed 7 --fault-rate 0.1     bends every tenth request, the same ones each time

The OAuth issuer is at /issuer/authorize (which approves at once), /issuer/token and
/issuer/revoke; its apps are sandbox-app (secret sandbox-app-secret) and sandbox-public (none, with
PKCE). X and Mastodon take its tokens until they end.

Exit codes: 0 ended, 1 it can't start, 2 asked wrongly"#;

/// Run the sandbox: OpenAI, Mastodon, Bluesky, X, Instagram, S3 and endpoints on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Where its log and the media live
    #[arg(long, value_name = "DIR", default_value = ".presswork/sandbox")]
    dir: PathBuf,
    /// Makes the faults of --fault-rate the same each time
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The share of requests that are bent, 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.0, requires = "seed")]
    fault_rate: f64,
    /// Write DIR/requests.jsonl, too: when each request came, and when it ended
    #[arg(long)]
    requests: bool,
}

/// Serves until it is stopped.
///
/// # Errors
/// When it can't start.
pub async fn run(out: Out, args: Args) -> Result<(), CliError> {
    if !(0.0..=1.0).contains(&args.fault_rate) {
        return Err(CliError::usage(format!(
            "--fault-rate {} must lie between 0 and 1",
            args.fault_rate
        )));
    }
    let dir = args.dir.display().to_string();
    let options = Options {
        listen: args.listen,
        dir: args.dir,
        seed: args.seed,
        fault_rate: args.fault_rate,
        requests: args.requests,
    };
    let started = Sandbox::start(options).await;
    let sandbox = started.map_err(|e| CliError::new(Exit::Failed, format!("{e:#}")))?;
    let url = sandbox.url();
    if out.json {
        out.json_line(&serde_json::json!({"url": url, "dir": dir}))?;
    } else {
        out.line(&format!("the sandbox: {}", out.paint(Tone::Strong, &url)))?;
        out.line(&format!(
            "what it really did: the page above, and {dir}/acts.jsonl"
        ))?;
        out.line("accounts for jobs.toml; any token that begins with `sandbox-` will do:")?;
        for (name, platform, more) in ACCOUNTS {
            out.line(&format!(
                "  [accounts.{name}]\n  platform = \"{platform}\"\n  base_url = \"{url}/{platform}\"{more}\n  secret = {{ env = \"{}_SECRET\" }}",
                name.to_uppercase()
            ))?;
        }
        out.line("Ctrl-C ends it")?;
    }
    sandbox.wait().await;
    Ok(())
}

/// Names, platforms, and what else their accounts need.
const ACCOUNTS: [(&str, &str, &str); 5] = [
    ("studio", "openai", ""),
    ("alice", "mastodon", ""),
    (
        "bella",
        "bluesky",
        "\n  identifier = \"bella.sandbox.test\"",
    ),
    ("xenia", "x", ""),
    ("iris", "instagram", "\n  identifier = \"me\""),
];
