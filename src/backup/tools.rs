//! PostgreSQL's own programs: found on this machine, told where the server is, heard when they fail.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::telemetry::redact;

/// Where Debian and Ubuntu keep the programs of each version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// So much of what a program says in the end is kept.
const SAID_MAX: usize = 4 << 10;
/// Parameters of a URL that libpq knows, too.
const LIBPQ: [&str; 12] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "connect_timeout",
    "options",
    "target_session_attrs",
];

/// Why a program of PostgreSQL didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// There is none that would do.
    #[error(
        "{program} of PostgreSQL {least} or newer is neither in PATH nor in {DEBIAN}/*/bin{found}"
    )]
    Missing {
        /// The program.
        program: &'static str,
        /// The oldest version that would do.
        least: u32,
        /// What was found instead.
        found: String,
    },
    /// It ended with an error.
    #[error("{program} failed: {said}")]
    Failed {
        /// The program.
        program: &'static str,
        /// Its own last words, without secrets.
        said: String,
    },
    /// It couldn't be run, or listened to.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A program of a known version.
#[derive(Clone, Debug)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// Its major version.
    pub major: u32,
}

impl Tool {
    /// The program of this name whose major version is `least`, or the next one.
    ///
    /// # Errors
    /// [`ToolError::Missing`].
    pub fn find(name: &'static str, least: u32) -> Result<Self, ToolError> {
        let mut folders: Vec<PathBuf> = match std::fs::read_dir(DEBIAN) {
            Ok(all) => all.flatten().map(|it| it.path().join("bin")).collect(),
            Err(_) => Vec::new(),
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        folders.extend(std::env::split_paths(&path));
        let mut found: Vec<(u32, PathBuf)> = folders
            .iter()
            .map(|it| it.join(name))
            .filter_map(|it| Some((major(&it)?, it)))
            .collect();
        // stable: of equals the first, which is the program itself and not Debian's wrapper
        found.sort_by_key(|it| it.0);
        let newest = found.last().map(|it| it.0);
        match found.into_iter().find(|it| least <= it.0) {
            Some((major, path)) => Ok(Self { name, path, major }),
            None => Err(ToolError::Missing {
                program: name,
                least,
                found: newest.map_or_else(String::new, |it| format!(" (only that of {it})")),
            }),
        }
    }

    /// The program, told where the server is; the password goes by the environment, where `ps` doesn't
    /// show it.
    ///
    /// # Errors
    /// When the URL can't be read.
    pub fn at(&self, server: &SecretString) -> Result<Command, ToolError> {
        let mut url = Url::parse(server.expose_secret())
            .map_err(|_| io::Error::other("the ledger's URL can't be read"))?;
        let mut command = Command::new(&self.path);
        let mut password = url.password().map(unescaped);
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        url.set_query(None);
        for (name, value) in pairs {
            // sqlx takes both spellings
            let name = name.replace("ssl-", "ssl").replace("root-cert", "rootcert");
            match name.as_str() {
                "password" => password = Some(value),
                it if LIBPQ.contains(&it) => {
                    url.query_pairs_mut().append_pair(it, &value);
                }
                _ => {}
            }
        }
        let _ = url.set_password(None);
        if let Some(password) = password {
            command.env("PGPASSWORD", password);
        }
        command.env("PGAPPNAME", "presswork-backup");
        command.env("PGCONNECT_TIMEOUT", "10");
        command
            .arg("--no-password")
            .arg("--dbname")
            .arg(url.as_str());
        Ok(command)
    }

    /// The program by itself.
    pub fn alone(&self) -> Command {
        Command::new(&self.path)
    }

    /// Starts it with pipes, and listens to what it says.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(&self, command: &mut Command) -> Result<Running, ToolError> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let heard = child.stderr.take().map(listen).transpose()?;
        Ok(Running {
            name: self.name,
            child,
            heard,
        })
    }
}

/// A program while it runs. Dropped, it is ended.
#[derive(Debug)]
pub struct Running {
    name: &'static str,
    child: Child,
    heard: Option<JoinHandle<String>>,
}

impl Running {
    /// What it prints.
    pub fn stdout(&mut self) -> Option<impl Read + Send + use<>> {
        self.child.stdout.take()
    }

    /// What it reads.
    pub fn stdin(&mut self) -> Option<impl Write + Send + use<>> {
        self.child.stdin.take()
    }

    /// Waits for its end. Its input is closed first.
    ///
    /// # Errors
    /// [`ToolError::Failed`] with its last words, unless it ended well.
    pub fn done(mut self) -> Result<(), ToolError> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        let heard = self.heard.take().and_then(|it| it.join().ok());
        if status.success() {
            return Ok(());
        }
        let said = heard.unwrap_or_default();
        let said = match said.trim() {
            "" => status.to_string(),
            it => it.to_owned(),
        };
        Err(ToolError::Failed {
            program: self.name,
            said,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // of one that has ended there is nothing left to end
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of what a program says.
fn listen(mut from: ChildStderr) -> io::Result<JoinHandle<String>> {
    std::thread::Builder::new()
        .name("said".to_owned())
        .spawn(move || {
            let (mut said, mut chunk) = (Vec::new(), [0; 1 << 10]);
            while let Ok(n @ 1..) = from.read(&mut chunk) {
                said.extend_from_slice(&chunk[..n]);
                let over = said.len().saturating_sub(SAID_MAX);
                said.drain(..over);
            }
            redact::text(&String::from_utf8_lossy(&said)).into_owned()
        })
}

fn unescaped(text: &str) -> String {
    let pairs = format!("p={}", text.replace('+', "%2B"));
    let mut read = url::form_urlencoded::parse(pairs.as_bytes());
    read.next().map(|it| it.1.into_owned()).unwrap_or_default()
}

/// The major version of a program, such as `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major(program: &Path) -> Option<u32> {
    let output = Command::new(program)
        .arg(OsStr::new("--version"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split_once("(PostgreSQL) ")?.1;
    version
        .split(|it: char| !it.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_in_no_argument() {
        let tool = Tool {
            name: "psql",
            path: PathBuf::from("psql"),
            major: 15,
        };
        let url =
            "postgres://me:s3%2Bcr%40et@h:5433/d?sslmode=require&pgbouncer=true&ssl-root-cert=/ca";
        let command = tool.at(&url.into()).unwrap();
        let args: Vec<&OsStr> = command.get_args().collect();
        let expected = "postgres://me@h:5433/d?sslmode=require&sslrootcert=%2Fca";
        assert_eq!(args, ["--no-password", "--dbname", expected]);
        let password = command
            .get_envs()
            .find(|it| it.0 == "PGPASSWORD")
            .and_then(|it| it.1);
        assert_eq!(password, Some(OsStr::new("s3+cr@et")));
    }

    #[test]
    fn a_program_that_is_too_old_is_missing() {
        let missing = Tool::find("pg_dump", 4_000).unwrap_err();
        assert!(missing.to_string().contains("PostgreSQL 4000"), "{missing}");
    }
}
