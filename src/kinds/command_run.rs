//! `command.run`: a program of this host that the operator has configured, with the payload on its
//! standard input and the result on its standard output.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::budget::Price;
use crate::command::keeper::{End, Limits, Order};
use crate::command::{self, Ended, Ran, Told};
use crate::config::{Command, Config, Variable};
use crate::context::{Context, Permit, Stop, Wanted};
use crate::effect::{EffectClass, IN_FLIGHT, RESOLVED_BY, Receipt, Rule};
use crate::handler::{AGE_MAX_S, Defaults, Handler};
use crate::job::{Envelope, Progress};
use crate::json::{Violation, did_you_mean};
use crate::outcome::{Class, Failure, Held, Outcome, Scope};
use crate::platform::CallError;
use crate::retry::Policy;
use crate::telemetry::redact;

/// Which program, and what it works on.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Payload {
    /// The name of the program in `[commands]` of `jobs.toml`.
    command: String,
    /// What it finds on its standard input: any JSON.
    #[serde(default)]
    input: Value,
}

/// Where programs are looked for by the program.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What is told of the end of standard error, in bytes.
const TOLD_MAX: usize = 1_500;
/// How often one that may be repeated is run without a known end.
const RUNS_MAX: u32 = 20;
/// What ending a program and clearing up may take.
const CLEARING: Duration = Duration::from_secs(30);

/// The kind.
pub(super) struct CommandRun;

impl Handler for CommandRun {
    type Payload = Payload;
    const DEFAULTS: Defaults = Defaults {
        name: "command.run",
        about: "a program of this host, JSON in and JSON out",
        lane: "commands",
        retry: Policy {
            attempts_max: 5,
            base_ms: 2_000,
            cap_ms: 900_000,
        },
        // the command's own `timeout_s` is what counts
        timeout_s: 86_400,
        age_max_s: AGE_MAX_S,
        platforms: &[],
        example: r#"{"command": "resize", "input": {"file": "a.png", "width": 800}}"#,
    };
    const SENDS: &'static [&'static str] = &["command.run"];

    fn preflight(payload: &Payload, _: &Envelope, config: &Config) -> Vec<Violation> {
        let unknown = unknown(config, &payload.command);
        let unknown = unknown.map(|it| Violation::new("/command", it));
        unknown.into_iter().collect()
    }

    fn lane(payload: &Payload, config: &Config) -> Option<String> {
        config.commands.get(&payload.command)?.lane.clone()
    }

    async fn run(cx: &Context, payload: Payload) -> Result<Value, Outcome> {
        let Some(command) = cx.config.commands.get(&payload.command) else {
            let message = unknown(&cx.config, &payload.command).unwrap_or_default();
            let failure = Failure::permanent("no_command", message);
            return Err(Outcome::Held(Held::Policy, failure));
        };
        let wanted = Wanted {
            step: "run",
            ordinal: 0,
            op: "command.run",
            rule: rule(command),
            intent: json!({"command": payload.command, "input": payload.input}),
            keep: Value::Null,
            says: None,
            budget: command.timeout + CLEARING,
            price: Price::Free,
        };
        let payload = &payload;
        let send = |permit: Permit| async move { done(cx, payload, command, permit).await };
        let receipt = cx.effect(wanted, send).await.map_err(held)?;
        if let Some(who) = receipt.detail[RESOLVED_BY].as_str() {
            let message = format!("{who} says that it was done, but its result isn't here");
            return Err(Failure::permanent("receipt", message).into());
        }
        match receipt.detail["unfit"].as_str() {
            Some(why) => Err(Failure::permanent("output", why).into()),
            None => Ok(receipt.detail["result"].clone()),
        }
    }
}

/// Why there is no such command, if there is none.
fn unknown(config: &Config, name: &str) -> Option<String> {
    if config.commands.contains_key(name) {
        return None;
    }
    let known = config.commands.keys().map(String::as_str);
    let near = did_you_mean(name, known.clone());
    let known: Vec<&str> = known.collect();
    let all = match known.is_empty() {
        true => "none is configured".to_owned(),
        false => format!("configured: {}", known.join(", ")),
    };
    Some(format!("`{name}` is no command of jobs.toml{near} ({all})"))
}

/// What may follow where nobody knows how far it got: it is run again, or a person is asked.
fn rule(command: &Command) -> Rule {
    let class = match command.repeatable {
        true => EffectClass::P,
        false => EffectClass::C,
    };
    Rule {
        class,
        key_life: None,
        sends_max: RUNS_MAX,
        in_flight: IN_FLIGHT,
        looking: None,
    }
}

/// A host on which it can't be run is an operator's to mend, for all its jobs.
fn held(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed(it) if it.class == Class::Unauthorised => Outcome::Held(Held::Policy, it),
        other => other,
    }
}

/// Runs it, once.
async fn done(
    cx: &Context,
    payload: &Payload,
    command: &Command,
    permit: Permit,
) -> Result<Receipt, CallError> {
    let name = &payload.command;
    let order = order(cx, payload, command, &permit);
    let job = cx.job.id;
    let told = Told {
        progress: &|it: Progress| cx.progress(it.percent, it.message),
        line: &|line: &str| tracing::debug!(%job, "{name} says: {line}"),
        // whoever takes the job over doesn't wait for it
        grace: &|| cx.stopped() != Some(Stop::LeaseLost),
    };
    let (time, most) = (command.timeout, command.output_bytes_max);
    let ran = command::run(&order, time, most, &cx.cancelled, told).await;
    let ran = ran.map_err(|e| {
        let message = format!("{name} couldn't be started: {e}");
        CallError::Refused(Failure::new(
            Class::Transient,
            Scope::Handler,
            "spawn",
            message,
        ))
    })?;
    judged(command, name, ran, cx.stopped()).map(|detail| Receipt {
        remote_id: None,
        url: None,
        at: cx.http.now(),
        detail,
    })
}

fn order(cx: &Context, payload: &Payload, command: &Command, permit: &Permit) -> Order {
    let name = format!("presswork-command-{}", Uuid::new_v4().simple());
    let folder: PathBuf = std::env::temp_dir().join(name);
    let home = folder.display().to_string();
    let mut env = vec![
        ("PATH".to_owned(), PATH.to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("HOME".to_owned(), home.clone()),
        ("TMPDIR".to_owned(), home),
        ("PRESSWORK_JOB_ID".to_owned(), cx.job.id.to_string()),
        ("PRESSWORK_KEY".to_owned(), permit.id.to_string()),
        ("PRESSWORK_ATTEMPT".to_owned(), cx.attempt.to_string()),
    ];
    for (name, value) in &command.env {
        let value = match value {
            Variable::Plain(text) => text.clone(),
            Variable::Secret(secret) => secret.expose_secret().to_owned(),
        };
        env.retain(|it| it.0 != *name);
        env.push((name.clone(), value));
    }
    Order {
        program: command.program.clone(),
        args: command.args.clone(),
        env,
        folder,
        limits: Limits {
            memory: command.memory_mb.map(|it| it << 20),
            cpu_s: command.cpu_s,
            open_files: Some(command.open_files),
            file: Some(command.file_mb << 20),
        },
        input: payload.input.to_string(),
    }
}

/// What a run means: the receipt's detail, or why it failed.
fn judged(
    command: &Command,
    name: &str,
    ran: Ran,
    stopped: Option<Stop>,
) -> Result<Value, CallError> {
    let failure = |class, code: &str, message: String| {
        let message = format!("{name} {message}{}", words(&ran.said));
        Failure::new(class, Scope::Handler, code, message)
    };
    // what may be repeated is as good as not done
    let half_done = |code: &str, message: String| match command.repeatable {
        true => CallError::Refused(failure(Class::Transient, code, message)),
        false => CallError::Unknown(failure(Class::Unknown, code, message)),
    };
    match (ran.ended, ran.end) {
        // it ended well before it could be ended
        (_, Some(End::Code(0))) => match read(command, ran.result) {
            Ok(result) => Ok(json!({"result": result})),
            Err(why) if command.repeatable => {
                let message = format!("ended well, but {why}");
                Err(CallError::Refused(failure(
                    Class::Permanent,
                    "output",
                    message,
                )))
            }
            // it is done, whatever it says
            Err(why) => Ok(json!({"unfit": format!("{name} ended well, but {why}")})),
        },
        (Some(ended), _) => Err(match (ended, stopped) {
            (Ended::Late, _) | (_, Some(Stop::TimedOut)) => {
                let within = command.timeout.as_secs();
                half_done(
                    "command_timeout",
                    format!("took longer than {within} s and was killed"),
                )
            }
            (Ended::Stopped, _) => half_done(
                "stopped",
                "was killed, since its attempt had to stop".to_owned(),
            ),
        }),
        (None, Some(End::Code(code))) => Err(match exit(code) {
            Class::Unknown => half_done(
                "exit_76",
                "says that it may have acted (exit code 76)".to_owned(),
            ),
            class => {
                let code = format!("exit_{code}");
                let short = short_of(command, &ran.said);
                let message = format!("ended with {}{short}", code.replace('_', " code "));
                CallError::Refused(failure(class, &code, message))
            }
        }),
        (None, Some(End::Signal(signal))) => {
            let short = short_of(command, &ran.said);
            Err(match signal {
                24 => half_done(
                    "cpu_s",
                    format!("used more than cpu_s = {}", command.cpu_s.unwrap_or(0)),
                ),
                25 => half_done(
                    "file_mb",
                    format!("wrote a file of more than file_mb = {}", command.file_mb),
                ),
                _ => half_done("signal", format!("was ended by signal {signal}{short}")),
            })
        }
        (None, None) => Err(half_done("lost", "can't be seen any more".to_owned())),
    }
}

/// What an exit code means (sysexits.h, and shells' own where nothing could be run); others are failures
/// that may pass.
fn exit(code: i32) -> Class {
    match code {
        // usage, data, input, user, host
        64..=68 => Class::Permanent,
        // a remote protocol was broken amid the work
        76 => Class::Unknown,
        // no permission, wrong configuration, no program
        77 | 78 | 126 | 127 => Class::Unauthorised,
        _ => Class::Transient,
    }
}

/// A limit of memory isn't told by the system: the program finds out, and says so in its own words.
fn short_of(command: &Command, said: &str) -> String {
    let said = said.to_lowercase();
    let words = ["memory", "bad_alloc", "heap", "enomem"];
    match command.memory_mb {
        Some(most) if words.iter().any(|it| said.contains(it)) => {
            format!(", as it seems because it needed more than memory_mb = {most}")
        }
        _ => String::new(),
    }
}

/// The end of standard error, for people.
fn words(said: &str) -> String {
    let said = redact::text(said);
    if said.is_empty() {
        return String::new();
    }
    let from = said.ceil_char_boundary(said.len().saturating_sub(TOLD_MAX));
    let end = match said[from..].split_once(char::is_whitespace) {
        Some((_, rest)) if 0 < from => rest,
        _ => &said[from..],
    };
    format!(": {end}")
}

/// The result, or what is wrong with it.
fn read(command: &Command, result: command::output::Result) -> Result<Value, String> {
    if result.cut {
        let most = command.output_bytes_max;
        return Err(format!("printed more than {most} bytes (output_bytes_max)"));
    }
    if result.bytes.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&result.bytes).map_err(|e| {
        format!("what it printed is no JSON ({e}); words for people belong on standard error")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(repeatable: bool) -> Command {
        let text = format!(
            "[commands.x]\nprogram = \"/bin/x\"\nmemory_mb = 64\ncpu_s = 5\nrepeatable = {repeatable}\n"
        );
        let config = Config::parse(&text, None, &|_| None).unwrap();
        config.commands["x"].clone()
    }

    fn ran(end: End) -> Ran {
        Ran {
            end: Some(end),
            ended: None,
            result: Default::default(),
            said: String::new(),
        }
    }

    fn means(repeatable: bool, ran: Ran) -> (bool, Class, String) {
        match judged(&command(repeatable), "x", ran, None).unwrap_err() {
            CallError::Refused(it) => (false, it.class, it.code),
            CallError::Unknown(it) => (true, it.class, it.code),
        }
    }

    #[test]
    fn each_exit_code_has_its_meaning() {
        for code in 1..256 {
            let (acted, class, word) = means(false, ran(End::Code(code)));
            let expected = match code {
                64..=68 => Class::Permanent,
                76 => Class::Unknown,
                77 | 78 | 126 | 127 => Class::Unauthorised,
                _ => Class::Transient,
            };
            assert_eq!((acted, class), (code == 76, expected), "{code}");
            assert_eq!(word, format!("exit_{code}"));
        }
        assert_eq!(means(true, ran(End::Code(76))).1, Class::Transient);
    }

    #[test]
    fn what_was_killed_is_repeated_only_where_that_is_allowed() {
        for (signal, word) in [(9, "signal"), (24, "cpu_s"), (25, "file_mb")] {
            let it = || ran(End::Signal(signal));
            assert_eq!(means(true, it()), (false, Class::Transient, word.into()));
            assert_eq!(means(false, it()), (true, Class::Unknown, word.into()));
        }
        let late = || Ran {
            ended: Some(Ended::Late),
            ..ran(End::Signal(15))
        };
        assert_eq!(
            means(true, late()),
            (false, Class::Transient, "command_timeout".into())
        );
        assert_eq!(
            means(false, late()),
            (true, Class::Unknown, "command_timeout".into())
        );
    }

    #[test]
    fn what_is_done_is_done_whatever_it_printed() {
        let printed = |text: &str| {
            let mut it = ran(End::Code(0));
            it.result.bytes = text.into();
            it
        };
        let done = |text: &str| judged(&command(false), "x", printed(text), None).unwrap();
        assert_eq!(done(" \n"), json!({"result": null}));
        assert_eq!(done("{\"a\": 1}\n"), json!({"result": {"a": 1}}));
        assert!(done("\u{0}\u{1}").get("unfit").is_some());
        assert_eq!(
            means(true, printed("oops")),
            (false, Class::Permanent, "output".into())
        );
    }

    #[test]
    fn a_lack_of_memory_is_guessed_from_its_words() {
        let mut it = ran(End::Code(1));
        it.said = "Traceback\nMemoryError".to_owned();
        let e = judged(&command(true), "x", it, None)
            .unwrap_err()
            .to_string();
        assert!(
            e.contains("memory_mb = 64") && e.contains("MemoryError"),
            "{e}"
        );
    }
}
