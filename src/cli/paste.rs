//! Credentials as people give them: never as an argument, which every process of the host may read.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use crate::account::Credentials;
use crate::telemetry::redact;

/// The most that is read.
const MOST: u64 = 64 * 1024;

/// Where they come from.
pub enum Source {
    /// Standard input: asked for, and not shown, where it is a terminal.
    Standard,
    /// A variable of the environment.
    Variable(String),
    /// A file.
    File(PathBuf),
}

/// Reads credentials; `is_bucket`: their key has two halves, and a person is asked for both.
///
/// # Errors
/// What is wrong with them, without any of them.
pub fn credentials(source: &Source, is_bucket: bool) -> Result<Credentials, String> {
    let text = match source {
        Source::Variable(name) => std::env::var(name)
            .map_err(|_| format!("the variable {name} isn't set, or is no text"))?,
        Source::File(path) => {
            let told = |e: io::Error| format!("{} can't be read: {e}", path.display());
            limited(std::fs::File::open(path).map_err(told)?).map_err(told)?
        }
        Source::Standard if io::stdin().is_terminal() => return asked(is_bucket),
        Source::Standard => {
            let told = |e: io::Error| format!("standard input can't be read: {e}");
            limited(io::stdin().lock()).map_err(told)?
        }
    };
    parsed(&Zeroizing::new(text))
}

fn limited(from: impl io::Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(MOST + 1).read_to_string(&mut text)?;
    match text.len() as u64 <= MOST {
        true => Ok(text),
        false => Err(io::Error::other(format!("it is larger than {MOST} bytes"))),
    }
}

/// A secret on a line, or JSON.
fn parsed(text: &str) -> Result<Credentials, String> {
    let text = text.trim();
    let read = match text.starts_with('{') {
        true => Credentials::from_json(text.as_bytes()).map_err(|_| {
            "the credentials are no JSON of the form {\"secret\": \"...\"}, with access_key_id, webhook_secret and previous_secret beside it where the platform has them".to_owned()
        })?,
        false if text.is_empty() => {
            return Err("there are no credentials: paste the secret, or pass it on standard input".to_owned());
        }
        false if text.contains(['\n', '\r']) => {
            return Err("the credentials have several lines: pass a secret on one, or JSON".to_owned());
        }
        false => Credentials::of(text.into()),
    };
    hidden(&read);
    Ok(read)
}

/// Whatever is told from here on, they aren't.
fn hidden(it: &Credentials) {
    redact::register(&it.secret);
    let rest = [
        &it.access_key_id,
        &it.webhook_secret,
        &it.previous_secret,
        &it.refresh_token,
    ];
    rest.into_iter().flatten().for_each(redact::register);
}

fn asked(is_bucket: bool) -> Result<Credentials, String> {
    let id = match is_bucket {
        true => Some(line("Access key id: ")?),
        false => None,
    };
    let mut read = Credentials::of(line("Secret: ")?);
    read.access_key_id = id;
    hidden(&read);
    Ok(read)
}

/// A line that isn't shown while it is typed.
fn line(prompt: &str) -> Result<SecretString, String> {
    let told = |e: io::Error| format!("the terminal can't be read: {e}");
    let quiet = Quiet::begin().map_err(told)?;
    let mut out = io::stderr();
    write!(out, "{prompt}")
        .and_then(|()| out.flush())
        .map_err(told)?;
    let mut text = Zeroizing::new(String::new());
    let read = io::stdin().read_line(&mut text);
    drop(quiet);
    // its line break wasn't shown either
    let _ = writeln!(out);
    read.map_err(told)?;
    match text.trim() {
        "" => Err("nothing was pasted; nothing was changed".to_owned()),
        text => Ok(text.into()),
    }
}

/// While it lives, the terminal doesn't show what is typed.
struct Quiet(rustix::termios::Termios);

impl Quiet {
    fn begin() -> io::Result<Self> {
        let was = tcgetattr(io::stdin())?;
        let mut is = was.clone();
        is.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &is)?;
        Ok(Self(was))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // a terminal that went away has nothing to show
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn a_secret_is_a_line_or_json_and_is_never_repeated() {
        let read = parsed("  a-pasted-secret\n").unwrap();
        assert_eq!(read.secret.expose_secret(), "a-pasted-secret");
        let read =
            parsed("{\"secret\": \"s3cret-one\", \"access_key_id\": \"id-of-it\"}\n").unwrap();
        assert_eq!(read.secret.expose_secret(), "s3cret-one");
        assert_eq!(read.access_key_id.unwrap().expose_secret(), "id-of-it");
        for bad in [
            "",
            " \n",
            "two\nlines-of-hunter2",
            "{\"secret\": hunter2}",
            "{\"hunter2\": 1}",
        ] {
            let e = parsed(bad).unwrap_err();
            assert!(!e.contains("hunter2"), "{e}");
        }
    }
}
