//! `presswork kinds`: what jobs can be, and their schemas.

use serde_json::json;

use super::cx::{Cx, kinds};
use super::out::{Cell, CliError, Table, Tone};
use crate::handler::Kind;
use crate::job::schema::{envelope_schema, envelope_schema_of};
use crate::json::did_you_mean;

const AFTER: &str = "\
Examples:
  presswork kinds
  presswork kinds schema                          the envelope, whatever its kind
  presswork kinds schema post.mastodon            with that kind's payload
  presswork kinds --json | jq -r '.[].kind'

Exit codes: 0 done, 2 asked wrongly, 3 no such kind";

/// What jobs can be, and their JSON Schemas
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All kinds, with what holds for them under the configuration (the default)
    List,
    /// The JSON Schema (2020-12) of the envelope, or of the envelopes of one kind
    Schema {
        /// The kind
        kind: Option<String>,
    },
}

/// Runs it.
///
/// # Errors
/// When there is no such kind.
pub async fn run(cx: &Cx, args: Args) -> Result<(), CliError> {
    match args.command {
        None | Some(Command::List) => list(cx),
        Some(Command::Schema { kind: None }) => cx.out.document(&envelope_schema()),
        Some(Command::Schema { kind: Some(name) }) => {
            let kind = find(&name)?;
            let payload = kind.schema().to_value();
            let of = &kind.defaults;
            let needs_account = !of.platforms.is_empty();
            cx.out.document(&envelope_schema_of(
                of.name,
                payload,
                of.example,
                needs_account,
            ))
        }
    }
}

fn find(name: &str) -> Result<Kind, CliError> {
    let all = kinds();
    let found = all.iter().find(|it| it.name() == name).cloned();
    found.ok_or_else(|| {
        let near = did_you_mean(name, all.iter().map(Kind::name));
        CliError::missing(format!("`{name}` is no kind that this program knows{near}"))
            .hint("`presswork kinds` lists them")
    })
}

fn list(cx: &Cx) -> Result<(), CliError> {
    let all = kinds();
    if cx.out.json {
        let all: Vec<serde_json::Value> = all.iter().map(|it| told(cx, it)).collect();
        return cx.out.document(&all);
    }
    let mut table = Table::new(&["KIND", "LANE", "PLATFORM", "ATTEMPTS", "TIMEOUT", "ABOUT"]);
    for kind in &*all {
        let settings = kind.settings(&cx.config);
        table.row([
            Cell::toned(Tone::Busy, kind.name()),
            settings.lane.into(),
            match kind.defaults.platforms {
                [] => "-".to_owned(),
                of => of.join(", "),
            }
            .into(),
            Cell::number(settings.retry.attempts_max),
            Cell::number(format!("{} s", settings.timeout_s)),
            kind.defaults.about.into(),
        ]);
    }
    table.print(&cx.out)
}

fn told(cx: &Cx, kind: &Kind) -> serde_json::Value {
    let settings = kind.settings(&cx.config);
    json!({
        "kind": kind.name(),
        "about": kind.defaults.about,
        "lane": settings.lane,
        "platforms": kind.defaults.platforms,
        "attempts": settings.retry.attempts_max,
        "base_ms": settings.retry.base_ms,
        "cap_ms": settings.retry.cap_ms,
        "timeout_s": settings.timeout_s,
        "age_max_s": settings.age_max_s,
        "example": serde_json::from_str::<serde_json::Value>(kind.defaults.example).ok(),
    })
}
