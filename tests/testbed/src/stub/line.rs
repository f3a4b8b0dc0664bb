//! Connections that can be cut: what an HTTP server would never do to its client by itself.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// A hand on a connection, by which the handler of a request breaks it.
#[derive(Debug, Clone)]
pub(super) struct Line(Arc<State>);

#[derive(Debug)]
struct State {
    /// How many bytes may still go to the client.
    allowance: AtomicU64,
    reset: AtomicBool,
}

impl Line {
    fn new() -> Self {
        Self(Arc::new(State { allowance: AtomicU64::new(u64::MAX), reset: AtomicBool::new(false) }))
    }

    /// Sends nothing more, and answers the client with a TCP reset.
    pub(super) fn reset(&self) {
        self.0.reset.store(true, Ordering::Release);
        self.0.allowance.store(0, Ordering::Release);
    }

    /// Sends this many bytes more, then closes.
    pub(super) fn break_off_after(&self, bytes: u64) {
        self.0.allowance.store(bytes, Ordering::Release);
    }
}

impl Connected<IncomingStream<'_, Lines>> for Line {
    fn connect_info(stream: IncomingStream<'_, Lines>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A listener whose connections come with a [`Line`] in place of an address.
#[derive(Debug)]
pub(super) struct Lines(pub(super) TcpListener);

impl Listener for Lines {
    type Io = Connection;
    type Addr = Line;

    async fn accept(&mut self) -> (Connection, Line) {
        loop {
            if let Ok((stream, _)) = self.0.accept().await {
                // Else a small answer waits for the client's acknowledgement of the one before.
                let _ = stream.set_nodelay(true);
                let line = Line::new();
                return (Connection { stream, line: line.clone() }, line);
            }
            // Out of file descriptors, most likely: some will come back.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn local_addr(&self) -> io::Result<Line> {
        Ok(Line::new())
    }
}

pub(super) struct Connection {
    stream: TcpStream,
    line: Line,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let state = Arc::clone(&self.line.0);
        let allowance = state.allowance.load(Ordering::Acquire);
        if allowance == 0 {
            if state.reset.load(Ordering::Acquire) {
                // Closing now throws away what is unsent and resets.
                self.stream.set_zero_linger()?;
            }
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let most = usize::try_from(allowance).unwrap_or(usize::MAX).min(buf.len());
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &buf[..most]))?;
        if allowance != u64::MAX {
            state.allowance.fetch_sub(written as u64, Ordering::AcqRel);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
