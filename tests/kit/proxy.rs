//! A TCP proxy between the code under test and a server, which breaks on request.
//!
//! It runs on a thread and runtime of its own: a test that blocks doesn't stop it. Every control
//! has taken effect for bytes that arrive after its call has returned.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::port::Port;
use super::wait;

/// How long a control may take to have its effect.
const EFFECT: Duration = Duration::from_secs(10);
/// A drip comes in this many parts a second, where it has at least as many bytes.
const DRIPS_PER_S: u64 = 20;

/// Seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the client sends.
    Up,
    /// What the server answers.
    Down,
}
use Direction::{Down, Up};

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Pass,
    /// Nobody listens.
    Refuse,
    /// Accepts and swallows; answers nothing.
    BlackHole,
    /// Accepts and resets.
    Reset,
    /// The proxy is being dropped.
    End,
}

#[derive(Clone, Default)]
struct Rules {
    mode: Mode,
    severed: [bool; 2],
    /// Bytes per second; zero is as fast as it goes.
    drip: u64,
    /// Connections of earlier eras are reset.
    era: u64,
}

impl Rules {
    fn has_hole(&self, direction: Direction) -> bool {
        self.mode == Mode::BlackHole || self.severed[direction as usize]
    }
}

#[derive(Default)]
struct State {
    upstream: Mutex<Arc<str>>,
    /// How many bytes may still pass before the connection is cut.
    budget: Mutex<[Option<u64>; 2]>,
    /// The next COMMIT that passes is the last thing that passes on its connection.
    until_commit: AtomicBool,
    bytes: [AtomicU64; 2],
    accepted: AtomicU64,
    open: AtomicU64,
    listening: AtomicBool,
}

/// A proxy in front of one server. Dropped, it closes all connections.
pub struct Proxy {
    port: Port,
    rules: watch::Sender<Rules>,
    state: Arc<State>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    /// In front of `upstream`, such as `127.0.0.1:6379`, which need not listen yet.
    pub fn to(upstream: impl Into<String>) -> Proxy {
        let upstream: String = upstream.into();
        let port = Port::take();
        let (rules, seen) = watch::channel(Rules::default());
        let state = Arc::new(State {
            upstream: Mutex::new(upstream.into()),
            ..State::default()
        });
        let listen = Listen {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port.number())),
            rules: seen,
            state: state.clone(),
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be built");
            runtime.block_on(listen.run());
        });
        let proxy = Proxy {
            port,
            rules,
            state,
            thread: Some(thread),
        };
        proxy.wait_listening(true);
        proxy
    }

    /// In front of the server of a URL with a host and a port; and that URL, through the proxy.
    pub fn before(url: &str) -> (Proxy, String) {
        let mut url = url::Url::parse(url).expect("a URL");
        let host = url.host_str().expect("a URL with a host");
        let port = url.port_or_known_default().expect("a URL with a port");
        let proxy = Proxy::to(format!("{host}:{port}"));
        let address = proxy.addr();
        url.set_ip_host(address.ip()).expect("a URL with a host");
        url.set_port(Some(address.port()))
            .expect("a URL with a port");
        (proxy, url.into())
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.number()))
    }

    /// Lets `bytes` more pass in a direction, over all connections, then resets the connection on
    /// which the last of them passed; with zero, the one on which the next would have. `cut_after(Down, 0)`
    /// is a server that acted and whose answer is lost. It happens once; later connections pass.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        let mut budget = self.state.budget.lock().expect("no holder panics");
        budget[direction as usize] = Some(bytes);
    }

    /// Lets the next COMMIT of a Postgres client reach the server, which acts on it; then resets its
    /// connection instead of passing the answer. It happens once.
    pub fn cut_after_commit(&self) {
        self.state.until_commit.store(true, SeqCst);
    }

    /// Whether a COMMIT has passed since [`Proxy::cut_after_commit`].
    pub fn has_cut_commit(&self) -> bool {
        !self.state.until_commit.load(SeqCst)
    }

    /// Whether the last [`Proxy::cut_after`] of this direction has happened.
    pub fn has_cut(&self, direction: Direction) -> bool {
        self.state.budget.lock().expect("no holder panics")[direction as usize].is_none()
    }

    /// Swallows all that goes in one direction, while the other goes on and connections stay open.
    pub fn sever(&self, direction: Direction) {
        self.change(|it| it.severed[direction as usize] = true);
    }

    /// Accepts and swallows everything: nothing arrives, nothing ends.
    pub fn black_hole(&self) {
        self.change(|it| it.mode = Mode::BlackHole);
    }

    /// Lets that many bytes a second pass on each connection, in each direction.
    pub fn drip(&self, bytes_per_s: u64) {
        assert!(bytes_per_s > 0, "that is a black hole");
        self.change(|it| it.drip = bytes_per_s);
    }

    /// Closes the port and resets what is open: new connections are refused.
    pub fn refuse(&self) {
        self.change(|it| {
            it.mode = Mode::Refuse;
            it.era += 1;
        });
        self.wait_listening(false);
        self.wait_closed();
    }

    /// Resets what is open, and each new connection right after accepting it.
    pub fn reset(&self) {
        self.change(|it| {
            it.mode = Mode::Reset;
            it.era += 1;
        });
        self.wait_closed();
    }

    /// Resets what is open; new connections go to another server.
    pub fn turn(&self, upstream: impl Into<String>) {
        *self.state.upstream.lock().expect("no holder panics") = upstream.into().into();
        self.reset_open();
    }

    /// Resets what is open, once; new connections pass.
    pub fn reset_open(&self) {
        self.change(|it| it.era += 1);
    }

    /// Everything passes again. Connections of which something was swallowed are reset: a network
    /// doesn't deliver a stream with a hole.
    pub fn heal(&self) {
        *self.state.budget.lock().expect("no holder panics") = [None, None];
        self.change(|it| {
            let era = it.era;
            *it = Rules::default();
            it.era = era;
        });
        self.wait_listening(true);
    }

    /// Bytes that have passed in a direction, over all connections.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.state.bytes[direction as usize].load(SeqCst)
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> u64 {
        self.state.open.load(SeqCst)
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        self.rules.send_modify(change);
    }

    fn wait_listening(&self, wanted: bool) {
        let what = format!("the proxy to listen: {wanted}");
        let listening = || self.state.listening.load(SeqCst) == wanted;
        wait::until_blocking(&what, EFFECT, listening);
    }

    fn wait_closed(&self) {
        wait::until_blocking("connections to be closed", EFFECT, || self.open() == 0);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|it| it.mode = Mode::End);
        if let Some(thread) = self.thread.take() {
            // A panic on it has been printed; a second one in a drop would abort the process.
            let _ = thread.join();
        }
    }
}

struct Listen {
    address: SocketAddr,
    rules: watch::Receiver<Rules>,
    state: Arc<State>,
}

impl Listen {
    async fn run(mut self) {
        loop {
            let mode = self.rules.borrow_and_update().mode;
            match mode {
                Mode::End => return,
                Mode::Refuse => {
                    if self.rules.changed().await.is_err() {
                        return;
                    }
                }
                _ => self.listen().await,
            }
        }
    }

    /// Accepts until nobody shall listen any more.
    async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await;
        let listener = listener.expect("the proxy's port is held for it");
        self.state.listening.store(true, SeqCst);
        while !matches!(
            self.rules.borrow_and_update().mode,
            Mode::Refuse | Mode::End
        ) {
            tokio::select! {
                client = listener.accept() => {
                    let (client, _) = client.expect("a listening socket accepts");
                    self.accepted(client);
                }
                _ = self.rules.changed() => {}
            }
        }
        drop(listener);
        self.state.listening.store(false, SeqCst);
    }

    fn accepted(&self, client: TcpStream) {
        let connection = Connection {
            rules: self.rules.clone(),
            state: self.state.clone(),
            committed: Arc::default(),
        };
        self.state.accepted.fetch_add(1, SeqCst);
        self.state.open.fetch_add(1, SeqCst);
        tokio::spawn(async move {
            let state = connection.state.clone();
            connection.serve(client).await;
            state.open.fetch_sub(1, SeqCst);
        });
    }
}

/// We end the connection, with a reset; one that a side closes or breaks ends by itself.
struct Cut;

#[derive(Clone)]
struct Connection {
    rules: watch::Receiver<Rules>,
    state: Arc<State>,
    /// The COMMIT whose answer is to be lost has passed on it.
    committed: Arc<AtomicBool>,
}

impl Connection {
    async fn serve(mut self, mut client: TcpStream) {
        let rules = self.rules.borrow_and_update().clone();
        match rules.mode {
            Mode::BlackHole => return self.swallow(client).await,
            Mode::Pass => {}
            Mode::Reset | Mode::Refuse | Mode::End => return reset(&client),
        }
        let upstream = self
            .state
            .upstream
            .lock()
            .expect("no holder panics")
            .clone();
        let Ok(mut server) = TcpStream::connect(&*upstream).await else {
            // The nearest that can be had to a refusal, once it has been accepted.
            return reset(&client);
        };
        for stream in [&client, &server] {
            // It can only fail on a connection that is broken, which the first read shows.
            let _ = stream.set_nodelay(true);
        }
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let up = self.clone().pump(Up, &mut from_client, &mut to_server);
        let down = self.clone().pump(Down, &mut from_server, &mut to_client);
        // A half that is closed is passed on as such, and the connection ends with the second; a
        // cut ends it at once.
        let ended = tokio::select! {
            biased;
            cut = self.over(rules.era) => Err(cut),
            ended = async { tokio::try_join!(up, down) } => ended,
        };
        if let Err(Cut) = ended {
            reset(&client);
            reset(&server);
        }
    }

    /// Waits until the rules say that a connection of `era` is to be reset.
    async fn over(&mut self, era: u64) -> Cut {
        let over = |it: &Rules| it.era != era || it.mode == Mode::End;
        // An error is the proxy's own end.
        let _ = self.rules.wait_for(over).await;
        Cut
    }

    /// Takes what comes until the hole is healed, then resets.
    async fn swallow(mut self, mut client: TcpStream) {
        let take = async {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(1..) = client.read(&mut buffer).await {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = take => {}
            _ = self.rules.wait_for(|it| it.mode != Mode::BlackHole) => {}
        }
        reset(&client);
    }

    async fn pump(
        mut self,
        direction: Direction,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
    ) -> Result<(), Cut> {
        let mut buffer = vec![0; 16 * 1024];
        let mut has_hole = false;
        loop {
            let room = match self.rules.borrow().drip {
                0 => buffer.len(),
                rate => (rate / DRIPS_PER_S).clamp(1, buffer.len() as u64) as usize,
            };
            let read = tokio::select! {
                read = from.read(&mut buffer[..room]) => Some(read),
                _ = self.rules.changed() => None,
            };
            // What holds now counts, not what held when it began to wait.
            let rules = self.rules.borrow_and_update().clone();
            let hole = rules.has_hole(direction);
            if has_hole && !hole {
                return Err(Cut);
            }
            match read {
                None => {}
                Some(Ok(0) | Err(_)) if hole => return self.wait_for_heal(direction).await,
                Some(Ok(0) | Err(_)) => {
                    // Where the other side is gone too, there is nobody to tell.
                    let _ = to.shutdown().await;
                    return Ok(());
                }
                Some(Ok(_)) if hole => has_hole = true,
                Some(Ok(n)) => {
                    self.pass(direction, &buffer[..n], to).await?;
                    if rules.drip > 0 {
                        let pause = Duration::from_secs_f64(n as f64 / rules.drip as f64);
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
    }

    /// An end that comes in a hole isn't seen on the other side either.
    async fn wait_for_heal(mut self, direction: Direction) -> Result<(), Cut> {
        // An error is the proxy's own end.
        let _ = self.rules.wait_for(|it| !it.has_hole(direction)).await;
        Err(Cut)
    }

    /// Writes what the budget allows.
    async fn pass(
        &self,
        direction: Direction,
        bytes: &[u8],
        to: &mut WriteHalf<'_>,
    ) -> Result<(), Cut> {
        if direction == Down && self.committed.load(SeqCst) {
            return Err(Cut);
        }
        let is_commit = || bytes.windows(6).any(|it| it == b"COMMIT");
        if direction == Up && self.state.until_commit.load(SeqCst) && is_commit() {
            self.committed.store(true, SeqCst);
            self.state.until_commit.store(false, SeqCst);
        }
        let (allowed, cut) = self.spend(direction, bytes.len());
        // Counted first: who has read them may look at the count at once.
        self.state.bytes[direction as usize].fetch_add(allowed as u64, SeqCst);
        // A side that is gone shows at the next read from it.
        let _ = to.write_all(&bytes[..allowed]).await;
        if cut { Err(Cut) } else { Ok(()) }
    }

    /// How many of `wanted` bytes may pass, and whether the connection is to be cut after them.
    fn spend(&self, direction: Direction, wanted: usize) -> (usize, bool) {
        let mut budget = self.state.budget.lock().expect("no holder panics");
        let Some(left) = &mut budget[direction as usize] else {
            return (wanted, false);
        };
        let allowed = (*left).min(wanted as u64);
        *left -= allowed;
        let cut = *left == 0;
        if cut {
            budget[direction as usize] = None;
        }
        (allowed as usize, cut)
    }
}

/// Closing a socket that doesn't linger sends a reset instead of an orderly end.
fn reset(stream: &TcpStream) {
    // Where it is gone already, there is nothing to reset.
    let _ = stream.set_zero_linger();
}
