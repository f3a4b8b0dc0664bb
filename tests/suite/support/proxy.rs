//! A TCP proxy in front of a server, which can go silent, as networks and frozen servers do.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

/// A proxy on 127.0.0.1, until it is dropped.
pub(crate) struct Proxy {
    url: url::Url,
    state: Arc<State>,
}

struct State {
    target: Mutex<String>,
    /// Bytes of the server that each new connection lets through before it goes silent.
    freeze_after: AtomicU64,
    open: Mutex<Vec<Arc<AtomicBool>>>,
    is_over: AtomicBool,
}

impl Proxy {
    /// Starts one in front of the server of `url`.
    pub(crate) fn start(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut own: url::Url = url.parse().expect("a URL");
        let state = Arc::new(State {
            target: Mutex::new(place(url)),
            freeze_after: AtomicU64::new(u64::MAX),
            open: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        own.set_port(Some(listener.local_addr().expect("its address").port())).expect("a port");
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.is_over.load(Relaxed) {
                    break;
                }
                let state = Arc::clone(&accepting);
                thread::spawn(move || state.serve(client.expect("a connection")));
            }
        });
        Self { url: own, state }
    }

    pub(crate) fn url(&self) -> String {
        self.url.to_string()
    }

    /// New connections go silent after so many bytes from the server.
    pub(crate) fn freeze_after(&self, bytes: u64) {
        self.state.freeze_after.store(bytes, Relaxed);
    }

    /// The connections that are open now go silent.
    pub(crate) fn silence_open_connections(&self) {
        let mut open = self.state.open.lock().expect("no panic before");
        open.drain(..).for_each(|is_silent| is_silent.store(true, Relaxed));
    }

    /// New connections lead to the server of `url`.
    pub(crate) fn lead_to(&self, url: &str) {
        *self.state.target.lock().expect("no panic before") = place(url);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, Relaxed);
        self.silence_open_connections();
        let port = self.url.port().expect("a port");
        let _ = TcpStream::connect(("127.0.0.1", port));
    }
}

impl State {
    fn serve(&self, client: TcpStream) {
        let target = self.target.lock().expect("no panic before").clone();
        let Ok(server) = TcpStream::connect(target) else { return };
        let is_silent = Arc::new(AtomicBool::new(false));
        self.open.lock().expect("no panic before").push(Arc::clone(&is_silent));
        let limit = self.freeze_after.load(Relaxed);
        let streams =
            [client.try_clone().expect("a handle"), server.try_clone().expect("a handle")];
        let upwards = (client, server, Arc::clone(&is_silent));
        let up = thread::spawn(move || forward(upwards.0, upwards.1, &upwards.2, u64::MAX));
        let [client, server] = streams;
        forward(server, client, &is_silent, limit);
        let _ = up.join();
    }
}

/// Copies what comes, unless silent, and passes on the end; at most `limit` bytes.
fn forward(mut from: TcpStream, mut to: TcpStream, is_silent: &AtomicBool, limit: u64) {
    let mut buffer = [0; 16 * 1024];
    let mut left = limit;
    from.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                continue;
            }
            Err(_) => break,
        };
        let passed = read.min(usize::try_from(left).unwrap_or(usize::MAX));
        if is_silent.load(Relaxed) || passed == 0 {
            continue;
        }
        left -= passed as u64;
        if to.write_all(&buffer[..passed]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn place(url: &str) -> String {
    let url: url::Url = url.parse().expect("a URL");
    format!("{}:{}", url.host_str().expect("a host"), url.port().expect("a port"))
}
