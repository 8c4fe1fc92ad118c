//! The keeper of a command: this program once more, as the parent of the one that runs. It clears up
//! behind it whatever happens, since its standard input is the daemon's lifeline: when that ends, because
//! the attempt was given up or the daemon was killed, all that the command started is killed.
//!
//! Two steps, so that nothing needs `unsafe`: `__keep` gathers, waits and clears up; `__exec`, its child,
//! makes itself what the command is to be (session, limits, no privileges) and then becomes it.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, getppid, getrlimit,
    kill_process, kill_process_group, setrlimit, setsid, wait, waitid,
};
use serde::{Deserialize, Serialize};

/// The argument by which this program is a keeper.
pub const KEEP: &str = "__keep";
/// The argument by which it becomes the command.
const EXEC: &str = "__exec";
/// What the daemon writes to have the command asked to end.
pub const TERM: &str = "term";
/// The exit code of a keeper that couldn't start anything.
pub const NOT_KEPT: u8 = 125;
/// The exit code where the program can't be run, as shells have it.
const NOT_RUN: u8 = 126;
/// The exit code where it isn't there, as shells have it.
const NOT_FOUND: u8 = 127;

/// What is to be run: the first line of a keeper's standard input, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// All of its variables.
    pub env: Vec<(String, String)>,
    /// Its folder, which is made and removed.
    pub folder: PathBuf,
    /// What it may use.
    pub limits: Limits,
    /// Its standard input.
    pub input: String,
}

/// What each process of a command may use.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of address space.
    pub memory: Option<u64>,
    /// Seconds of processor time.
    pub cpu_s: Option<u64>,
    /// Files open at once.
    pub open_files: Option<u64>,
    /// Bytes of a file that it writes.
    pub file: Option<u64>,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// The program's path, as it stands in this process: also when the file has been replaced since.
pub fn itself() -> io::Result<PathBuf> {
    match cfg!(target_os = "linux") {
        true => Ok(PathBuf::from("/proc/self/exe")),
        false => std::env::current_exe(),
    }
}

/// What a process does that was started with these arguments (the first names the program), if it is one
/// of these; its exit code.
pub fn called(args: &[OsString]) -> Option<u8> {
    match args.get(1)?.to_str()? {
        KEEP => Some(keep()),
        EXEC => Some(exec(args.get(2..).unwrap_or_default())),
        _ => None,
    }
}

/// Ends as the program did.
fn keep() -> u8 {
    close_strangers();
    match kept() {
        Ok(End::Code(code)) => u8::try_from(code).unwrap_or(NOT_KEPT),
        Ok(End::Signal(signal)) => {
            // by then nothing of it is left
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            u8::try_from(128 + signal).unwrap_or(NOT_KEPT)
        }
        Err(e) => {
            said(&format!("nothing could be started: {e}"));
            NOT_KEPT
        }
    }
}

fn said(message: &str) {
    // nobody else can be told when that is closed
    let _ = writeln!(io::stderr(), "presswork: {message}");
}

/// Files that the daemon itself was started with are nobody's here: std's own close at each exec.
fn close_strangers() {
    let folder = match cfg!(target_os = "linux") {
        true => "/proc/self/fd",
        false => "/dev/fd",
    };
    let Ok(open) = std::fs::read_dir(folder) else {
        return;
    };
    let numbers = open.filter_map(|it| it.ok()?.file_name().to_str()?.parse::<i32>().ok());
    // the list's own is closed by the time that it is complete
    let numbers: Vec<i32> = numbers.filter(|it| 2 < *it).collect();
    for number in numbers {
        let _ = nix::unistd::close(number);
    }
}

fn kept() -> io::Result<End> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let order: Order = serde_json::from_str(&line)?;
    // a stop of the whole service is the daemon's to tell
    for signal in signal_hook::consts::TERM_SIGNALS {
        signal_hook::flag::register(*signal, Arc::new(AtomicBool::new(false)))?;
    }
    adopt_all()?;
    DirBuilder::new().mode(0o700).create(&order.folder)?;
    let ended = run(&order);
    // what was made unreadable there stays, which is all that can be done
    let _ = std::fs::remove_dir_all(&order.folder);
    ended
}

fn run(order: &Order) -> io::Result<End> {
    let mut command = Command::new(itself()?);
    command.arg0("presswork").arg(EXEC);
    command.arg(serde_json::to_string(&order.limits)?);
    command.arg(getpid().as_raw_pid().to_string());
    command.arg(&order.program).args(&order.args);
    command.env_clear().envs(order.env.iter().cloned());
    command.current_dir(&order.folder).stdin(Stdio::piped());
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the child has no number"))?;
    let input = order.input.clone();
    if let Some(mut stdin) = child.stdin.take() {
        // one that never reads keeps this thread, and nothing else
        thread::spawn(move || stdin.write_all(input.as_bytes()));
    }
    let ended = Arc::new(Mutex::new(false));
    let over = ended.clone();
    thread::spawn(move || obey(pid, &over));
    let end = awaited(pid)?;
    *ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
    // it isn't reaped yet: its number is still its group's
    let _ = kill_process_group(pid, Signal::KILL);
    clear_up();
    Ok(end)
}

/// Passes on what the daemon asks for, until it is gone.
fn obey(pid: Pid, ended: &Mutex<bool>) {
    let mut stdin = io::stdin().lock();
    loop {
        let mut line = String::new();
        let goes_on = stdin.read_line(&mut line).is_ok_and(|it| 0 < it);
        let signal = match line.trim_end() {
            TERM if goes_on => Signal::TERM,
            _ => Signal::KILL,
        };
        let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
        // before its session is made there is no group
        if !*ended && kill_process_group(pid, signal).is_err() {
            let _ = kill_process(pid, signal);
        }
        if !goes_on {
            return;
        }
    }
}

/// Waits for the end of the program without reaping it.
fn awaited(pid: Pid) -> io::Result<End> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    loop {
        let status = match waitid(WaitId::Pid(pid), options) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let Some(status) = status else { continue };
        if let Some(code) = status.exit_status() {
            return Ok(End::Code(code));
        }
        if let Some(signal) = status.terminating_signal() {
            return Ok(End::Signal(signal));
        }
    }
}

/// Whatever a command leaves behind becomes a child of this process, also what left its session.
fn adopt_all() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_child_subreaper(Some(getpid()))?;
        rustix::thread::set_no_new_privs(true)?;
    }
    Ok(limit(Resource::Core, Some(0), 0)?)
}

/// Kills what is left, generation by generation.
fn clear_up() {
    loop {
        let left = children();
        if left.is_empty() {
            return;
        }
        for pid in left {
            let _ = kill_process(pid, Signal::KILL);
        }
        // one is sure to end; what it leaves behind is seen at the next look
        while let Err(rustix::io::Errno::INTR) = wait(WaitOptions::empty()) {}
    }
}

/// The processes whose parent this is, those that have ended included.
fn children() -> Vec<Pid> {
    let Ok(all) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = getpid().as_raw_pid();
    let child = |name: &str| {
        let pid = name.parse::<i32>().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
        // the name in parentheses may hold anything
        let (_, rest) = stat.rsplit_once(')')?;
        let parent = rest.split_whitespace().nth(1)?.parse::<i32>().ok()?;
        Pid::from_raw(pid).filter(|_| parent == own)
    };
    let names = all.filter_map(|it| it.ok()?.file_name().into_string().ok());
    names.filter_map(|it| child(&it)).collect()
}

/// Becomes the program; the exit code is of one that couldn't.
fn exec(args: &[OsString]) -> u8 {
    let text = |at: usize| args.get(at).and_then(|it| it.to_str());
    let limits = text(0).and_then(|it| serde_json::from_str(it).ok());
    let keeper = text(1).and_then(|it| it.parse().ok());
    let (Some(limits), Some(keeper), Some(program)) = (limits, keeper, args.get(2)) else {
        said("this is no command for people");
        return NOT_KEPT;
    };
    let mut command = Command::new(program);
    command.args(args.get(3..).unwrap_or_default());
    if let Err(e) = confined(&limits, keeper) {
        said(&format!("the command's limits can't be set: {e}"));
        return NOT_KEPT;
    }
    let e = command.exec();
    said(&format!("{} can't be run: {e}", program.to_string_lossy()));
    match e.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_RUN,
    }
}

/// A session and a group of its own, an end with the keeper's, and the limits; memory last, since it holds
/// for this process, too.
fn confined(limits: &Limits, keeper: i32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid().map(Pid::as_raw_pid) != Some(keeper) {
        return Err(io::Error::other("its keeper is gone"));
    }
    setsid()?;
    // a second more, in which it may say something
    limit(Resource::Cpu, limits.cpu_s, 1)?;
    limit(Resource::Nofile, limits.open_files, 0)?;
    limit(Resource::Fsize, limits.file, 0)?;
    limit(Resource::As, limits.memory, 0)?;
    Ok(())
}

/// Sets a limit, and one above it that can't be raised; never more than there was.
fn limit(of: Resource, most: Option<u64>, above: u64) -> rustix::io::Result<()> {
    let Some(most) = most else { return Ok(()) };
    let was = getrlimit(of).maximum.unwrap_or(u64::MAX);
    let new = Rlimit {
        current: Some(most.min(was)),
        maximum: Some(most.saturating_add(above).min(was)),
    };
    setrlimit(of, new)
}
