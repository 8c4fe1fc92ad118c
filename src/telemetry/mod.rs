//! What people see of a running daemon: log lines without secrets, and metrics.
//!
//! One event is one line on stderr, for people or as JSON. Its own fields come first, then those
//! of the spans around it, so that `job`, `lane` and `attempt` needn't be repeated at each call.
//! Their names are those of [`fields::FIELDS`].
//! Every line passes [`redact::text`] before it is written.

pub mod fields;
pub mod metrics;
pub mod redact;
mod line;

use std::io::{self, IsTerminal as _, Write};
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::clock::Clock;
use crate::json::did_you_mean;
use crate::outcome::words;

use line::{Fields, Line};

pub use line::escaped;

words! {
    /// How log lines look.
    Format {
        /// For people on a terminal, JSON otherwise.
        Auto = "auto",
        /// One JSON object a line.
        Json = "json",
        /// For people.
        Human = "human",
    }
}

/// Changes the level of a running daemon. Cloning shares the same log.
#[derive(Clone, Debug)]
pub struct LogHandle(reload::Handle<EnvFilter, Registry>);

impl LogHandle {
    /// From now on, log by this level: `info`, or `info,presswork::engine=debug`.
    ///
    /// # Errors
    /// What is wrong with the level; the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        let filter = filter(level)?;
        self.0
            .reload(filter)
            .map_err(|e| format!("the log is gone: {e}"))
    }
}

/// Sends log lines to stderr: colour on a terminal only, unless `NO_COLOR` is set and not empty.
///
/// # Errors
/// What is wrong with the level; or that there is a log already.
pub fn init(format: Format, level: &str) -> Result<LogHandle, String> {
    let terminal = io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
    let json = match format {
        Format::Auto => !terminal,
        Format::Json => true,
        Format::Human => false,
    };
    let log = Log::new(io::stderr(), json, colour && !json);
    let (filter, handle) = reload::Layer::new(filter(level)?);
    tracing_subscriber::registry()
        .with(filter)
        .with(log)
        .try_init()
        .map_err(|e| format!("there is a log already: {e}"))?;
    Ok(LogHandle(handle))
}

/// What is wrong with a level, if anything is.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn check_level(level: &str) -> Result<(), String> {
    filter(level).map(drop)
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Libraries that speak of their inner life at `info`; a level for them said after it holds.
const QUIET: &str = "apalis_core=error,sqlx=error,";

/// tracing takes an unknown level for a target's name and then logs nothing; here it is refused.
fn filter(level: &str) -> Result<EnvFilter, String> {
    for part in level.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        let word = part.rsplit_once('=').map_or(part, |(_, word)| word);
        if word.parse::<LevelFilter>().is_err() {
            let near = did_you_mean(&word.to_ascii_lowercase(), LEVELS);
            let levels = LEVELS.join(", ");
            let word = if redact::looks_random(word) {
                redact::HIDDEN
            } else {
                word
            };
            return Err(format!(
                "`{word}` is no level; one of {levels}, or target=level, with commas between{near}"
            ));
        }
    }
    // what libraries tell of their own doings is for who asks for it
    let off = level.split(',').any(|it| it.trim() == "off");
    let quiet = if off { "" } else { QUIET };
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(format!("{quiet}{level}"))
        .map_err(|e| format!("is no level: {e}; write `info`, or `info,presswork::engine=debug`"))
}

/// Panics become log lines, so that what they say passes the redactor too. A program without a
/// log still says it on stderr.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let (message, place) = told(info);
        if tracing::dispatcher::has_been_set() {
            tracing::error!(target: "panic", place, "panicked: {message}");
        } else {
            let text = escaped(&format!("panicked at {place}: {message}"));
            // a closed stderr leaves nobody to tell
            let _ = writeln!(io::stderr(), "{}", redact::text(&text));
        }
    }));
}

fn told(info: &PanicHookInfo<'_>) -> (String, String) {
    let message = info.payload_as_str().unwrap_or("no message").to_owned();
    let place = info.location().map_or("?".to_owned(), ToString::to_string);
    (message, place)
}

/// Writes events as lines, redacted, each in one piece.
struct Log<W> {
    out: Mutex<W>,
    json: bool,
    colour: bool,
}

impl<W: Write + Send + 'static> Log<W> {
    fn new(out: W, json: bool, colour: bool) -> Self {
        let out = Mutex::new(out);
        Self { out, json, colour }
    }

    fn write(&self, line: &Line<'_>) {
        let redact = |it: &str| redact::text(it).into_owned();
        let text = match self.json {
            true => line.json(redact),
            false => line.human(redact, self.colour),
        };
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // a full disk or a closed pipe must not stop jobs
        let _ = out.write_all((text + "\n").as_bytes());
    }
}

impl<S, W> Layer<S> for Log<W>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    W: Write + Send + 'static,
{
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        id: &tracing::span::Id,
        cx: Context<'_, S>,
    ) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = cx.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(
        &self,
        id: &tracing::span::Id,
        values: &tracing::span::Record<'_>,
        cx: Context<'_, S>,
    ) {
        if let Some(span) = cx.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, cx: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in cx.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.surround(outer);
            }
        }
        let message = fields.take("message").unwrap_or_default();
        // records of the `log` crate carry their target as a field
        let target = fields.take("log.target");
        for name in ["log.module_path", "log.file", "log.line"] {
            fields.take(name);
        }
        self.write(&Line {
            at: Clock::System.now(),
            level: *event.metadata().level(),
            target: target.as_deref().unwrap_or(event.metadata().target()),
            message: &message,
            fields: &fields,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use secrecy::SecretString;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool, colour: bool, level: &str, work: impl FnOnce(&LogHandle)) -> String {
        let kept = Kept::default();
        let (filter, handle) = reload::Layer::new(filter(level).unwrap());
        let log = Log::new(kept.clone(), json, colour);
        let subscriber = tracing_subscriber::registry().with(filter).with(log);
        tracing::subscriber::with_default(subscriber, || work(&LogHandle(handle)));
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_carry_the_fields_of_their_spans_and_no_secret() {
        redact::register(&SecretString::from("correct horse battery"));
        let text = logged(true, false, "info", |_| {
            let span = tracing::info_span!(
                "attempt",
                job = "j1",
                attempt = 2,
                ms = tracing::field::Empty
            );
            let _in = span.enter();
            span.record("ms", 17);
            tracing::info!(
                attempt = 3,
                access_token = "x9",
                note = "correct horse battery",
                "two\nlines"
            );
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["message"], "two\nlines");
        assert_eq!(json["job"], "j1");
        assert_eq!(json["attempt"], 3);
        assert_eq!(json["ms"], 17);
        assert_eq!(json["access_token"], "***");
        assert_eq!(json["note"], "***");
        assert_eq!(json["level"], "info");
    }

    proptest::proptest! {
        #[test]
        fn a_json_line_is_json_whatever_it_hides(
            before in "[a-z\\\\\"\u{7f}\u{202e} ]{0,9}", after in "\\PC{0,30}", name in "(authorization|token|password|cookie)[:=]\\\\*\"?",
        ) {
            let said = format!("{before}{name}canary5canary{after}");
            let text = logged(true, false, "info", |_| tracing::info!(said, pin_token = 12345, "{said}"));
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            proptest::prop_assert!(!text.contains("canary5"), "{text}");
            proptest::prop_assert_eq!(&json["pin_token"], "***");
            proptest::prop_assert_eq!(text.lines().count(), 1);
        }
    }

    #[test]
    fn human_lines_are_single_and_escaped_and_plain_without_a_terminal() {
        let text = logged(false, false, "info", |_| {
            tracing::warn!(
                job = "j1",
                bad = "\u{1b}[2J\u{202e}x",
                "password=canary5 and\nmore"
            );
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(r"password=***"), "{text}");
        assert!(
            !text.contains("canary5") && !text.contains('\u{1b}') && !text.contains('\u{202e}')
        );
        assert!(text.contains(" WARN ") && text.contains("job=j1"), "{text}");
    }

    #[test]
    fn colour_is_on_the_level_only() {
        let text = logged(false, true, "info", |_| tracing::error!(token = "x9", "no"));
        assert!(text.contains("\u{1b}[31mERROR\u{1b}[0m"), "{text}");
        assert!(text.contains("token=***"), "{text}");
    }

    #[test]
    fn the_level_changes_while_it_runs_and_a_bad_one_changes_nothing() {
        let text = logged(false, false, "info", |handle| {
            tracing::debug!("first");
            handle.set_level("debug").unwrap();
            tracing::debug!("second");
            let wrong = handle.set_level("debgu").unwrap_err();
            assert!(wrong.contains("did you mean `debug`?"), "{wrong}");
            tracing::debug!("third");
        });
        assert!(!text.contains("first") && text.contains("second") && text.contains("third"));
    }

    #[test]
    fn levels_are_checked() {
        for good in ["info", "WARN", "info,presswork::engine=debug", "off"] {
            assert_eq!(check_level(good), Ok(()), "{good}");
        }
        assert!(check_level("presswork=loud").is_err());
    }
}
