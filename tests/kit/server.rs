//! What the private servers have in common: a port that may be taken meanwhile, a start that is
//! waited for, and an end without or with a goodbye.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tempfile::TempDir;

use super::port::Port;
use super::process::{Process, tail};
use super::wait;

/// An orderly end may take so long.
const STOPPED: Duration = Duration::from_secs(20);

/// A server program on a port of its own, in a folder of its own.
pub struct Server {
    name: &'static str,
    port: Port,
    folder: TempDir,
    process: Mutex<Option<Process>>,
}

impl Server {
    /// A server that doesn't run yet.
    pub fn new(name: &'static str, folder: TempDir) -> Server {
        Server {
            name,
            port: Port::take(),
            folder,
            process: Mutex::new(None),
        }
    }

    /// The first of a few servers that `launch` can start: another program may take a port between
    /// our look at it and the server's.
    ///
    /// # Panics
    /// Where none starts: with the last one's log.
    pub fn first<T>(
        what: &str,
        make: impl Fn() -> T,
        launch: impl Fn(&T) -> Result<(), String>,
    ) -> T {
        let mut last = String::new();
        for _ in 0..5 {
            let server = make();
            match launch(&server) {
                Ok(()) => return server,
                Err(error) => last = error,
            }
        }
        panic!("{what} doesn't start: {last}");
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// What it has logged, for messages.
    pub fn log(&self) -> PathBuf {
        self.folder().join(format!("{}.log", self.name))
    }

    /// Starts `command`, and waits until `is_ready` says so of its pid, `within` at most.
    ///
    /// # Errors
    /// The end of its log, where it ends or isn't ready in time.
    pub fn launch(
        &self,
        mut command: Command,
        within: Duration,
        is_ready: impl Fn(u32) -> bool,
    ) -> Result<(), String> {
        let log = File::options().append(true).create(true).open(self.log());
        let log = log.map_err(|error| format!("its log can't be opened: {error}"))?;
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(|error| error.to_string())?);
        command.stderr(log);
        let process = Process::start(command, self.folder());
        let answered = wait::within(within, || {
            process.ended().is_some() || is_ready(process.pid())
        });
        if !answered || process.ended().is_some() {
            return Err(tail(&self.log()));
        }
        *self.lock() = Some(process);
        Ok(())
    }

    /// Ends it with all its children, without a goodbye. Returns when all are gone.
    pub fn kill9(&self) {
        if let Some(process) = self.lock().take() {
            process.kill9();
        }
    }

    /// An orderly end by the signal of this name.
    ///
    /// # Panics
    /// Where it takes longer than 20 s.
    pub fn stop(&self, signal: &str) {
        if let Some(process) = self.lock().take() {
            process.signal(signal);
            process.wait(STOPPED);
        }
    }

    /// As [`Server::stop`]; where that takes too long it is killed.
    pub fn stop_or_kill(&self, signal: &str) {
        if let Some(process) = self.lock().take() {
            process.signal(signal);
            // the drop of `process` kills it
            wait::within(STOPPED, || process.ended().is_some());
        }
    }

    /// Sends a signal by its name, if it runs.
    pub fn signal(&self, name: &str) {
        self.lock().iter().for_each(|it| it.signal(name));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        // A failed assertion in one test must not fail those that share the server.
        self.process.lock().unwrap_or_else(|it| it.into_inner())
    }
}
