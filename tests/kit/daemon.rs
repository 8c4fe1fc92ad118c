//! The real `presswork` binary, as a child that a test may signal, kill and read.

use std::fs::File;
use std::io::{self, PipeWriter};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::{Process, dying_with_us, tail};
use super::wait;

/// How long a command that isn't the daemon may take.
const CLI: Duration = Duration::from_secs(60);

/// A folder with a configuration in it, in which the binary can be run as often as a test likes: as
/// a daemon, and as the commands of an operator.
pub struct Home {
    folder: TempDir,
    env: Vec<(String, String)>,
}

impl Home {
    /// Writes `config` to `jobs.toml` in a new folder, in which everything then runs.
    pub fn new(config: &str) -> Home {
        let folder = tempfile::Builder::new().prefix("presswork-home-").tempdir();
        let home = Home {
            folder: folder.expect("a temporary folder can be made"),
            env: Vec::new(),
        };
        home.configure(config);
        home
    }

    /// An environment variable for all that runs here from now on.
    pub fn env(mut self, name: &str, value: &str) -> Home {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn config(&self) -> PathBuf {
        self.path().join("jobs.toml")
    }

    /// Replaces the configuration, in one step as an editor does.
    pub fn configure(&self, config: &str) {
        let new = self.path().join("jobs.toml.new");
        std::fs::write(&new, config).expect("a configuration can be written");
        std::fs::rename(new, self.config()).expect("a configuration can be put in its place");
    }

    /// Starts the binary with `args` and doesn't wait for it.
    pub fn start(&self, args: &[&str]) -> Daemon {
        self.start_with(args, &[])
    }

    /// Starts it with further environment variables, such as `PRESSWORK_CRASH`.
    pub fn start_with(&self, args: &[&str], env: &[(&str, &str)]) -> Daemon {
        let mut command = dying_with_us(binary(), "KILL");
        command.args(args).envs(env.iter().copied());
        self.launch(command, Stdio::null())
    }

    /// Starts it with a standard input that a test writes to as it goes on.
    pub fn start_fed(&self, args: &[&str]) -> (Daemon, PipeWriter) {
        let (reader, writer) = io::pipe().expect("there are pipes");
        let mut command = dying_with_us(binary(), "KILL");
        command.args(args);
        (self.launch(command, reader.into()), writer)
    }

    /// Starts it through another program, such as `strace -D`, which must leave it its pid.
    pub fn start_through(&self, words: &[&str], args: &[&str]) -> Daemon {
        let mut command = dying_with_us(Path::new(words[0]), "KILL");
        command.args(&words[1..]).arg(binary()).args(args);
        self.launch(command, Stdio::null())
    }

    /// Runs it at a terminal of its own, which shows what is typed unless it is told not to; and then
    /// `after`, a command of the shell. What the terminal shows is its standard output.
    pub fn start_at_terminal(&self, args: &[&str], after: &str) -> (Daemon, PipeWriter) {
        let (reader, writer) = io::pipe().expect("there are pipes");
        let words = args.iter().map(|it| format!(" '{it}'"));
        let line = format!(
            "'{}'{}; {after}",
            binary().display(),
            words.collect::<String>()
        );
        let mut command = dying_with_us(Path::new("script"), "KILL");
        command.args(["-q", "-f", "-E", "always", "-c", &line, "/dev/null"]);
        (self.launch(command, reader.into()), writer)
    }

    fn launch(&self, mut command: Command, stdin: Stdio) -> Daemon {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.dress(&mut command);
        let stdout = self.path().join(format!("stdout-{number}.log"));
        let stderr = self.path().join(format!("stderr-{number}.log"));
        let create = |path: &Path| File::create(path).expect("a log can be made");
        command.stdin(stdin);
        command.stdout(create(&stdout)).stderr(create(&stderr));
        Daemon {
            process: Process::start(command, self.path()),
            stdout,
            stderr,
        }
    }

    /// Runs a command to its end: what an operator would see.
    ///
    /// # Panics
    /// Where it takes more than a minute.
    pub async fn cli(&self, args: &[&str]) -> Output {
        self.cli_with_input(args, "").await
    }

    /// As [`Home::cli`], with something on its standard input.
    pub async fn cli_with_input(&self, args: &[&str], input: &str) -> Output {
        let mut command = Command::new(binary());
        self.dress(&mut command);
        command.args(args).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("its standard input is piped");
        let feed = async move {
            // It may end without reading all of it, which is its own business.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
        };
        let run = async { tokio::join!(feed, child.wait_with_output()).1 };
        match tokio::time::timeout(CLI, run).await {
            Ok(output) => output.expect("a child's output can be read"),
            Err(_) => panic!("`presswork {}` takes more than {CLI:?}", args.join(" ")),
        }
    }

    /// Nothing of the developer's own settings may reach the binary.
    fn dress(&self, command: &mut Command) {
        command.current_dir(self.path());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let of_the_suite = text == "PRESSWORK_SABOTAGE";
            let ours = text.starts_with("PRESSWORK_") && !of_the_suite;
            if ours || text.starts_with("RUST_") {
                command.env_remove(&name);
            }
        }
        let own = self.env.iter().map(|(name, value)| (name, value));
        command.envs(own);
    }
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_presswork"))
}

/// The binary while it runs. Dropped, it is killed; if the test has failed by then, the end of what
/// it said on standard error is shown.
pub struct Daemon {
    process: Process,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it and its children without a goodbye. Returns when all are gone.
    pub fn kill9(&self) {
        self.process.kill9();
    }

    /// Sends a signal by its name: `TERM`, `INT`, `HUP`, `USR1`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Its exit status, if it has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// # Panics
    /// Where it doesn't end within `deadline`: with the end of its log.
    pub async fn wait_exit(&self, deadline: Duration) -> ExitStatus {
        let what = || format!("the daemon's end\n{}", tail(&self.stderr));
        wait::until_or(what, deadline, async || self.ended().is_some()).await;
        self.ended().expect("it has just been seen to have ended")
    }

    /// Waits until `GET /readyz` on `address` answers 200.
    ///
    /// # Panics
    /// Where it doesn't within `deadline`, or the daemon ends before: with the end of its log.
    pub async fn wait_ready(&self, address: SocketAddr, deadline: Duration) {
        let what = || format!("/readyz on {address}\n{}", tail(&self.stderr));
        wait::until_or(what, deadline, async || {
            if let Some(status) = self.ended() {
                panic!("the daemon ended ({status}):\n{}", tail(&self.stderr));
            }
            matches!(http_status(address, "/readyz").await, Ok(200))
        })
        .await;
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- the daemon's standard error ends in:\n{}",
                tail(&self.stderr)
            );
        }
    }
}

/// The status of a GET, by hand: the kit must not lean on the client that it helps to test.
async fn http_status(address: SocketAddr, path: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let ask = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
    status.ok_or_else(|| io::Error::other("no HTTP status"))
}

fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).expect("a log that we made can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}
