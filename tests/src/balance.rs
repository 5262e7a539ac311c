//! What stands before several authorities and before their database: a balancer that can leave one out, and a wire that can be cut.
//!
//! Both end with the test's process.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes connections on a port to any of the servers behind it that answers and isn't left out, in turn.
pub struct Balance {
    servers: Arc<Vec<Server>>,
}

struct Server {
    port: u16,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    left_out: bool,
    made: u64,
    /// The client's side of each connection.
    open: BTreeMap<u64, TcpStream>,
}

impl Balance {
    pub(crate) fn start(port: u16, behind: &[u16]) -> Self {
        let listener =
            TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|error| panic!("port {port}: {error}"));
        let servers = behind.iter().map(|port| Server { port: *port, state: Mutex::default() });
        let servers = Arc::new(servers.collect::<Vec<_>>());
        let (known, mut turn) = (Arc::clone(&servers), (0..behind.len()).collect::<VecDeque<_>>());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                turn.rotate_left(1);
                turn.iter().any(|which| join(&known, *which, &client));
            }
        });
        Self { servers }
    }

    /// Sends nobody there any more, and cuts whoever is connected, as a balancer does that finds a server not ready.
    pub fn leave_out(&self, which: usize) {
        let mut state = lock(&self.servers[which].state);
        state.left_out = true;
        for (_, client) in std::mem::take(&mut state.open) {
            // Gone already is as good.
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    /// Sends clients there again.
    pub fn take_in(&self, which: usize) {
        lock(&self.servers[which].state).left_out = false;
    }
}

/// Connects a client with this server, unless it is left out or doesn't answer.
fn join(servers: &Arc<Vec<Server>>, which: usize, client: &TcpStream) -> bool {
    let server = &servers[which];
    let mut state = lock(&server.state);
    if state.left_out {
        return false;
    }
    let Ok(there) = TcpStream::connect(("127.0.0.1", server.port)) else { return false };
    let clones = (client.try_clone(), client.try_clone(), client.try_clone(), there.try_clone());
    let (Ok(open), Ok(from), Ok(to), Ok(back)) = clones else { return true };
    let number = state.made;
    state.made += 1;
    state.open.insert(number, open);
    let servers = Arc::clone(servers);
    std::thread::spawn(move || carry(from, there));
    std::thread::spawn(move || {
        carry(back, to);
        lock(&servers[which].state).open.remove(&number);
    });
    true
}

/// Carries bytes until one side ends, and tells the other.
fn carry(mut from: TcpStream, mut to: TcpStream) {
    // A connection that breaks is what the clients are tested with.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// A way to a Unix socket. Cut, it carries nothing either way and says nothing of it; healed, it goes on where it stopped.
pub struct Wire {
    folder: TempDir,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    cut: Mutex<bool>,
    healed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut cut = lock(&self.cut);
        while *cut {
            cut = self.healed.wait(cut).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Wire {
    /// Listens under the socket's own name, in a directory of the wire's own.
    #[must_use]
    pub fn to(socket: &Path) -> Self {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("temporary directory: {error}"));
        let name = socket.file_name().unwrap_or_else(|| panic!("{} has no name", socket.display()));
        let listener = UnixListener::bind(folder.path().join(name));
        let listener = listener.unwrap_or_else(|error| panic!("{}: {error}", folder.path().display()));
        let (socket, gate) = (socket.to_owned(), Arc::<Gate>::default());
        let passing = Arc::clone(&gate);
        std::thread::spawn(move || {
            for here in listener.incoming().flatten() {
                let Ok(there) = UnixStream::connect(&socket) else { continue };
                let (Ok(from), Ok(to)) = (there.try_clone(), here.try_clone()) else { continue };
                let gates = [Arc::clone(&passing), Arc::clone(&passing)];
                let [onward, back] = gates;
                std::thread::spawn(move || trickle(&onward, here, there));
                std::thread::spawn(move || trickle(&back, from, to));
            }
        });
        Self { folder, gate }
    }

    /// Where it listens.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.folder.path()
    }

    /// Nothing passes from here on.
    pub fn cut(&self) {
        *lock(&self.gate.cut) = true;
    }

    /// Everything passes again, what was held back first.
    pub fn heal(&self) {
        *lock(&self.gate.cut) = false;
        self.gate.healed.notify_all();
    }
}

fn trickle(gate: &Gate, mut from: UnixStream, mut to: UnixStream) {
    let mut bytes = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        gate.pass();
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // The end of a connection is told no sooner than its last bytes.
    gate.pass();
    let _ = to.shutdown(Shutdown::Write);
}
