//! Child processes that never outlive the process that made them, and the signals to them.
//!
//! Dropped, a child is killed. Should this process be killed itself, a *janitor* does it: a shell that
//! reads from a pipe which only we hold, and is told of each child as it comes and goes. When the pipe
//! ends without a word of good-bye it kills those that are left, and removes their folder. So nothing is
//! left for a later run to clean up, and no process is killed that may be somebody else's by then.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

/// An orderly end first, where a program knows one: PostgreSQL gives its shared memory back.
const JANITOR: &str = r#"
    trap '' INT TERM HUP
    pids=
    while read -r word pid; do
        case $word in
            add) pids="$pids $pid" ;;
            drop) left=; for it in $pids; do [ "$it" = "$pid" ] || left="$left $it"; done; pids=$left ;;
            done) exit 0 ;;
        esac
    done
    if [ -n "$pids" ]; then
        kill -QUIT $pids 2>/dev/null
        sleep 1
        kill -CONT $pids 2>/dev/null
        kill -KILL $pids 2>/dev/null
    fi
    rm -rf "$1"
"#;

/// Cleans up when this process is killed.
#[derive(Debug)]
struct Janitor {
    shell: Mutex<Option<(Child, ChildStdin)>>,
}

impl Janitor {
    fn hire(folder: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", JANITOR, "janitor"]).arg(folder);
        command.current_dir("/").process_group(0);
        command.stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = command.spawn().context("`sh` doesn't start")?;
        let pipe = shell.stdin.take().context("a shell without an input")?;
        Ok(Self {
            shell: Mutex::new(Some((shell, pipe))),
        })
    }

    fn tell(&self, word: &str, pid: u32) {
        let mut shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pipe)) = shell.as_mut() {
            // one that somebody has killed can't be told, and does nothing
            let _ = writeln!(pipe, "{word} {pid}");
        }
    }

    fn dismiss(&self) {
        let mut shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((mut shell, mut pipe)) = shell.take() {
            let _ = pipe.write_all(b"done\n");
            drop(pipe);
            let _ = shell.wait();
        }
    }
}

/// A folder that is removed at the end, with the processes that live in it.
#[derive(Debug)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    janitor: Arc<Janitor>,
}

impl Folder {
    /// Makes one below the system's temporary folder; `name` tells what for.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn make(name: &str) -> anyhow::Result<Self> {
        let name = format!("presswork-{name}-{}", uuid::Uuid::new_v4().simple());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("can't make {}", path.display()))?;
        let janitor = Arc::new(Janitor::hire(&path)?);
        Ok(Self { path, janitor })
    }

    /// Starts a process that ends with this one, whichever way. Its signals are its own: a Ctrl-C of the
    /// terminal doesn't reach it.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(&self, mut command: Command) -> anyhow::Result<Process> {
        command.process_group(0).stdin(Stdio::null());
        let program = command.get_program().to_owned();
        let child = command.spawn();
        let child = child.with_context(|| format!("{} can't be started", program.display()))?;
        self.janitor.tell("add", child.id());
        Ok(Process {
            child,
            janitor: Arc::clone(&self.janitor),
            ended: None,
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        self.janitor.dismiss();
    }
}

/// A process that dies with us.
#[derive(Debug)]
pub struct Process {
    child: Child,
    janitor: Arc<Janitor>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it writes to its standard output, once.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap_or_default();
            if self.ended.is_some() {
                self.janitor.tell("drop", self.child.id());
            }
        }
        self.ended
    }

    /// Waits for its end.
    pub fn wait(&mut self) {
        if self.ended().is_none() {
            self.ended = self.child.wait().ok();
            self.janitor.tell("drop", self.child.id());
        }
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            send(self.pid(), signal);
        }
    }

    /// Kills it with all its descendants; none is left when this returns. It is stopped first, so that it
    /// makes no other child between the look and the blow.
    pub fn kill9(&mut self) {
        self.signal(Signal::STOP);
        let family = match self.ended() {
            Some(_) => Vec::new(),
            None => family(self.pid()),
        };
        for pid in &family {
            send(*pid, Signal::KILL);
        }
        self.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // it may have ended by itself meanwhile
        let _ = kill_process(pid, signal);
    }
}

/// A process and all its descendants, where there is a /proc; itself elsewhere.
pub(super) fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children = children.split_whitespace().filter_map(|it| it.parse().ok());
            all.extend(children.collect::<Vec<u32>>());
        }
        next += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn alive(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(')').map_or("", |it| it.1).trim();
        !state.is_empty() && !state.starts_with(['Z', 'X'])
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let by = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < by, "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_kill_takes_the_children_along() {
        let folder = Folder::make("test").unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & sleep 1000"]);
        let mut process = folder.spawn(command).unwrap();
        until("two sleepers", || family(process.pid()).len() == 3);
        let all = family(process.pid());
        process.kill9();
        until("all are gone", || !all.iter().any(|it| alive(*it)));
    }

    #[test]
    fn the_janitor_ends_what_nobody_dropped() {
        let folder = Folder::make("test").unwrap();
        let mut command = Command::new("sleep");
        command.arg("1000");
        let process = folder.spawn(command).unwrap();
        let (pid, path) = (process.pid(), folder.path.clone());
        // as if this process had been killed: the pipe ends without a word
        let shell = folder.janitor.shell.lock().unwrap().take();
        drop(shell.map(|it| it.1));
        until("the child is killed", || !alive(pid));
        until("its folder is gone", || !path.exists());
        drop(process);
    }
}
