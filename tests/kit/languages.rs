//! Programs of other languages, with the packages that a test wants: those in PATH, else in a folder of
//! our own, kept for the next time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::process::find_program;

/// How long a program may take that does nothing.
const SOON: Duration = Duration::from_secs(90);
/// How long a package may take to be installed.
const INSTALLED: Duration = Duration::from_secs(180);

pub fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a program to its end, without the developer's own settings and proxies.
pub async fn done(mut command: Command, most: Duration) -> Output {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PRESSWORK_") {
            command.env_remove(name);
        }
    }
    command
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let what = format!("{command:?}");
    let run = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(most, run).await {
        Ok(output) => output.unwrap_or_else(|e| panic!("{what}: {e}")),
        Err(_) => panic!("{what} takes more than {most:?}"),
    }
}

/// Node 18 or newer.
pub async fn node() -> Option<PathBuf> {
    let node = find_program("node", &[])?;
    let mut command = Command::new(&node);
    command.arg("--version");
    let version = text_of(&done(command, SOON).await.stdout);
    let major = version.trim().trim_start_matches('v').split('.').next()?;
    (18 <= major.parse().unwrap_or(0)).then_some(node)
}

async fn run(program: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(args);
    done(command, INSTALLED).await
}

/// One installs at a time, also of several test programs.
fn alone(folder: &Path) -> File {
    fs::create_dir_all(folder).expect("a folder can be made");
    let lock = File::create(folder.join("lock")).expect("a lock can be made");
    lock.lock().expect("a lock can be taken");
    lock
}

fn folder(language: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(language)
}

fn installed(package: &str, output: &Output) -> Result<(), String> {
    if output.status.success() {
        return Ok(());
    }
    let last = text_of(&output.stderr).lines().last().map(str::to_owned);
    let why = last.unwrap_or_else(|| output.status.to_string());
    Err(format!("the `{package}` package can't be installed: {why}"))
}

/// A Python with this package.
///
/// # Errors
/// Why it can't be had here.
pub async fn python_with(package: &str) -> Result<PathBuf, String> {
    let python = find_program("python3", &[]).ok_or("there is no python3")?;
    let folder = folder("python");
    let _lock = alone(&folder);
    let own = folder.join("venv/bin/python");
    let import = format!("import {package}");
    for it in [&python, &own] {
        if it.is_file() && run(it, &["-c", &import]).await.status.success() {
            return Ok(it.clone());
        }
    }
    let venv = folder.join("venv");
    let venv = venv.to_string_lossy();
    for (program, args) in [
        (&python, vec!["-m", "venv", &venv]),
        (&own, vec!["-m", "pip", "install", "--quiet", package]),
    ] {
        installed(package, &run(program, &args).await)?;
    }
    Ok(own)
}

/// Node, and the folder of modules in which this package is.
///
/// # Errors
/// Why it can't be had here.
pub async fn node_with(package: &str) -> Result<(PathBuf, PathBuf), String> {
    let node = node().await.ok_or("there is no Node 18 or newer")?;
    let npm = find_program("npm", &[]).ok_or("there is no npm")?;
    let folder = folder("node");
    let _lock = alone(&folder);
    let modules = folder.join("node_modules");
    if !modules.join(package).join("package.json").is_file() {
        let prefix = folder.to_string_lossy();
        let args = [
            "install",
            "--prefix",
            &prefix,
            "--silent",
            "--no-audit",
            "--no-fund",
            package,
        ];
        installed(package, &run(&npm, &args).await)?;
    }
    Ok((node, modules))
}
