//! Hosts in network namespaces of their own, on one bridge: a link that goes down swallows everything, as
//! a cable that is pulled does. Where a test may (root, `ip`, and a kernel that can).

use std::net::Ipv4Addr;
use std::process::Command;

use tokio::sync::{Mutex, MutexGuard};

/// The host's own names begin so; this process's number follows.
const NAME: &str = "presswork-";
const BRIDGE: &str = "pwb";
const PORT: &str = "pwp";

/// Names and addresses are this process's: one net at a time.
static ONE: Mutex<()> = Mutex::const_new(());

/// A bridge on which this process has an address, and hosts with an address each.
pub struct Net {
    pid: u32,
    hosts: u8,
    _one: MutexGuard<'static, ()>,
}

impl Net {
    /// Waits until no other test of this process has one.
    ///
    /// # Errors
    /// Why there can't be any here.
    pub async fn new() -> Result<Net, String> {
        let one = ONE.lock().await;
        let pid = std::process::id();
        sweep()?;
        let net = Net {
            pid,
            hosts: 0,
            _one: one,
        };
        let bridge = net.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        let address = format!("{}/24", net.address());
        ip(&["address", "add", &address, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        Ok(net)
    }

    /// Under which hosts reach this process.
    pub fn address(&self) -> Ipv4Addr {
        self.numbered(1)
    }

    /// All addresses on the bridge, as `10.1.2.0/24`.
    pub fn range(&self) -> String {
        format!("{}/24", self.numbered(0))
    }

    /// Another host; the words that a command has to begin with to run there, its pid its own.
    ///
    /// # Errors
    /// Why it can't be made.
    pub fn host(&mut self) -> Result<NetHost, String> {
        self.hosts += 1;
        let (name, port) = (self.name(self.hosts), self.port(self.hosts));
        ip(&["netns", "add", &name])?;
        let pair = ["link", "add", &port, "type", "veth", "peer", "name", "eth0"];
        ip(&[&pair[..], &["netns", &name]].concat())?;
        ip(&["link", "set", &port, "master", &self.bridge(), "up"])?;
        let address = format!("{}/24", self.numbered(self.hosts + 1));
        ip(&["-n", &name, "address", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        Ok(NetHost { name, port })
    }

    fn numbered(&self, last: u8) -> Ipv4Addr {
        let own = u8::try_from(self.pid % 250).unwrap_or(0) + 1;
        Ipv4Addr::new(10, 213, own, last)
    }

    fn bridge(&self) -> String {
        format!("{BRIDGE}{}", self.pid)
    }

    fn port(&self, host: u8) -> String {
        format!("{PORT}{}h{host}", self.pid)
    }

    fn name(&self, host: u8) -> String {
        format!("{NAME}{}-{host}", self.pid)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // a link goes with its namespace; what is left all the same goes with the next test's sweep
        for host in 1..=self.hosts {
            let _ = ip(&["netns", "delete", &self.name(host)]);
            let _ = ip(&["link", "delete", &self.port(host)]);
        }
        let _ = ip(&["link", "delete", &self.bridge()]);
    }
}

/// A host on a [`Net`].
pub struct NetHost {
    name: String,
    port: String,
}

impl NetHost {
    /// What a command begins with that runs there: it leaves the command its pid.
    pub fn enter(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// From now on all that is sent to it or by it is lost, without a word.
    pub fn unplug(&self) {
        let done = ip(&["link", "set", &self.port, "down"]);
        done.expect("a link can be put down");
    }

    pub fn plug_in(&self) {
        let done = ip(&["link", "set", &self.port, "up"]);
        done.expect("a link can be put up again");
    }
}

/// Removes what processes that are gone (killed amid a test) have left.
fn sweep() -> Result<(), String> {
    let is_gone = |pid: &str| !std::path::Path::new("/proc").join(pid).exists();
    for line in ip(&["netns", "list"])?.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let pid = name.strip_prefix(NAME).and_then(|it| it.split('-').next());
        if pid.is_some_and(is_gone) {
            // another test process may be sweeping, too
            let _ = ip(&["netns", "delete", name]);
        }
    }
    for line in ip(&["-o", "link", "show"])?.lines() {
        // such as `7: pwb123: <...>` or `8: pwp123h1@if2: <...>`
        let name = line.split(": ").nth(1).unwrap_or_default();
        let name = name.split('@').next().unwrap_or_default();
        let rest = [BRIDGE, PORT].iter().find_map(|it| name.strip_prefix(it));
        let pid = rest.and_then(|it| it.split('h').next());
        if pid.is_some_and(is_gone) {
            let _ = ip(&["link", "delete", name]);
        }
    }
    Ok(())
}

/// What `ip` says.
fn ip(args: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(args).output();
    let output = output.map_err(|e| format!("there is no `ip` here ({e}): install iproute2"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("`ip {}`: {}", args.join(" "), said.trim()))
}
