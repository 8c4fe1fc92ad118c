//! Child processes that never outlive the test process, and the signals to them.
//!
//! Two things see to it, whichever way the test process ends (`exit` without drops, a panic, a
//! `kill -9`): the kernel's parent-death signal where `setpriv` is there (Linux), and a *janitor*, a
//! shell in a process group of its own that reads from a pipe which only we hold; when the pipe ends
//! without a word it kills the child and removes its folder. So nothing is left for a later run to
//! clean up, and no pid is ever killed that may belong to somebody else by then.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::Duration;

use super::wait;

/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(20);

/// A child that dies with us.
pub struct Process {
    pid: u32,
    child: Mutex<Child>,
    janitor: Mutex<Option<(Child, ChildStdin)>>,
}

/// A command for `program` that gets `signal` (a name such as `KILL`) when we die, where the
/// system can do that. Add arguments, environment and user to it, then [`Process::start`] it.
pub fn dying_with_us(program: &Path, signal: &str) -> Command {
    static CAN: OnceLock<bool> = OnceLock::new();
    let can = *CAN.get_or_init(|| {
        let tried = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "true"])
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|it| it.success())
    });
    if !can {
        return Command::new(program);
    }
    // `setpriv` replaces itself by the program, so the pid stays.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}

impl Process {
    /// Starts `command`. If this test process dies, the child is killed and `folder` removed.
    ///
    /// # Panics
    /// Where the program can't be started.
    pub fn start(command: Command, folder: &Path) -> Process {
        let program = format!("{command:?}");
        let child = spawn(command).unwrap_or_else(|error| panic!("{program}: {error}"));
        let pid = child.id();
        Process {
            pid,
            child: Mutex::new(child),
            janitor: Mutex::new(Some(janitor(pid, folder))),
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its exit status, once it has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().expect("no holder of this lock panics");
        let status = child.try_wait().expect("our own child can be waited for");
        drop(child);
        if status.is_some() {
            self.dismiss_janitor();
        }
        status
    }

    /// Sends a signal by its name (`TERM`, `HUP`, `STOP` ...), unless the child has ended.
    pub fn signal(&self, name: &str) {
        if self.ended().is_none() {
            send(name, &[self.pid]);
        }
    }

    /// Waits for the end, blocking.
    ///
    /// # Panics
    /// Where it doesn't come within `deadline`.
    #[track_caller]
    pub fn wait(&self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of process {}", self.pid);
        wait::until_blocking(&what, deadline, || self.ended().is_some());
        self.ended().expect("it has just been seen to have ended")
    }

    /// Kills it together with all its descendants, and returns when none is left. It is stopped
    /// first, so that it can't make another child between the look and the blow.
    pub fn kill9(&self) {
        if self.ended().is_some() {
            return;
        }
        send("STOP", &[self.pid]);
        let mut family = descendants(self.pid);
        family.push(self.pid);
        send("KILL", &family);
        self.wait(GONE);
        wait::until_blocking("killed processes to be gone", GONE, || {
            family.iter().all(|pid| !alive(*pid))
        });
    }

    fn dismiss_janitor(&self) {
        let mut janitor = self.janitor.lock().expect("no holder of this lock panics");
        if let Some((mut shell, mut pipe)) = janitor.take() {
            // Where the shell is gone already, there is nobody to dismiss.
            let _ = pipe.write_all(b"done\n");
            drop(pipe);
            let _ = shell.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill9();
        }
    }
}

/// The parent-death signal comes when the *thread* ends that made the child, and the test harness
/// runs each test on a thread of its own: so a thread that lives as long as the process makes them.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in orders {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (sender, answer) = mpsc::channel();
    spawner.send((command, sender)).expect("the spawner lives");
    answer.recv().expect("the spawner answers")
}

fn janitor(pid: u32, folder: &Path) -> (Child, ChildStdin) {
    // An orderly end first, where a program knows one (PostgreSQL gives its System V memory back).
    const SCRIPT: &str = r#"
        trap '' INT TERM HUP
        read -r word && exit 0
        kill -QUIT "$1" 2>/dev/null
        for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$1" 2>/dev/null || break; sleep 0.2; done
        kill -9 "$1" 2>/dev/null
        rm -rf "$2" || { sleep 1; rm -rf "$2"; }
    "#;
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "janitor", &pid.to_string()]);
    command.arg(folder).current_dir("/").process_group(0);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut shell = command.spawn().expect("`sh` starts");
    let pipe = shell.stdin.take().expect("its standard input is piped");
    (shell, pipe)
}

/// By the shell's own `kill`: the program of that name is missing on slim systems.
fn send(signal: &str, pids: &[u32]) {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let script = format!("kill -{signal} {} 2>/dev/null", pids.join(" "));
    let sent = Command::new("sh").args(["-c", &script]).status();
    // Not its exit code: one of the processes may have ended by itself in the meantime.
    sent.expect("`sh` starts");
}

fn descendants(of: u32) -> Vec<u32> {
    let pairs = parents();
    let mut found = vec![of];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        let children = pairs.iter().filter(|(_, it)| *it == parent);
        found.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// Every process with its parent: from `/proc`, or from `ps` where there is none.
fn parents() -> Vec<(u32, u32)> {
    if let Ok(entries) = std::fs::read_dir("/proc/") {
        let pids = entries.filter_map(|it| it.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let pairs: Vec<(u32, u32)> = pids.filter_map(|pid| Some((pid, stat(pid)?.1))).collect();
        if !pairs.is_empty() {
            return pairs;
        }
    }
    let listed = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output();
    let listed = listed.expect("without /proc there is a `ps`").stdout;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let pair = |line: &str| {
        let mut fields = line.split_whitespace().map(str::parse);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    };
    listed.lines().filter_map(pair).collect()
}

/// State letter and parent. The name before them stands in brackets and may hold anything.
fn stat(pid: u32) -> Option<(String, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// A dead process whom nobody has waited for (a zombie) is not alive.
pub fn alive(pid: u32) -> bool {
    if Path::new("/proc/self/stat").exists() {
        return stat(pid).is_some_and(|(state, _)| state != "Z" && state != "X");
    }
    parents().iter().any(|(it, _)| *it == pid)
}

/// The program `name`: in PATH, else in one of `folders`.
pub fn find_program(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let all = in_path.iter().chain(folders);
    all.map(|it| it.join(name)).find(|it| it.is_file())
}

/// Where `scripts/test` puts the programs of a server that it takes from a registry of packages.
pub fn installed_by_scripts(server: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("..");
    target.join("servers").join(server).join("bin")
}

/// `bin` folders of Homebrew's packages whose name starts with `package`, newest version first.
pub fn homebrew(package: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["/opt/homebrew", "/usr/local", "/home/linuxbrew/.linuxbrew"]
        .iter()
        .filter_map(|prefix| std::fs::read_dir(Path::new(prefix).join("opt")).ok())
        .flat_map(|entries| entries.filter_map(|it| Some(it.ok()?.path())))
        .filter(|it| {
            it.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(package))
        })
        .map(|it| it.join("bin"))
        .collect();
    found.sort();
    found.reverse();
    found
}

/// What the end of a log says, for a panic's message.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
