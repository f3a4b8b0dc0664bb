//! A server in its own thread, so that it responds while a test waits for a process.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{runtime, sync::oneshot};

/// A server on its own port. It stops when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Server {
    /// Binds a free port and runs `serve` on it, in threads of this name.
    pub(crate) fn start<S>(
        name: &str,
        serve: impl FnOnce(tokio::net::TcpListener) -> S + Send + 'static,
    ) -> Result<Self>
    where
        S: Future<Output = ()>,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .with_context(|| format!("no free port for the {name}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(name)
            .enable_all()
            .build()
            .with_context(|| format!("cannot start the {name}"))?;

        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)
                    .expect("the listener is bound and non-blocking");
                tokio::select! {
                    () = serve(listener) => {}
                    _ = stopped => {}
                }
            });
            // Hanging requests never end on their own.
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        Ok(Self { address, running: Some((stop, thread)) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}
