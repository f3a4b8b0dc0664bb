//! TCP connections that can be reset or cut short, which no HTTP server does on its own.

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

/// A handle with which the handler of a request breaks its connection.
#[derive(Debug, Clone)]
pub(super) struct ConnectionHandle(Arc<WriteLimit>);

#[derive(Debug)]
struct WriteLimit {
    /// Number of bytes that may still be sent to the client.
    allowance: AtomicU64,
    reset: AtomicBool,
}

impl ConnectionHandle {
    fn new() -> Self {
        Self(Arc::new(WriteLimit {
            allowance: AtomicU64::new(u64::MAX),
            reset: AtomicBool::new(false),
        }))
    }

    /// Sends nothing more and resets the connection.
    pub(super) fn reset(&self) {
        self.0.reset.store(true, Ordering::Release);
        self.0.allowance.store(0, Ordering::Release);
    }

    /// Closes the connection after this many more bytes.
    pub(super) fn break_off_after(&self, bytes: u64) {
        self.0.allowance.store(bytes, Ordering::Release);
    }
}

impl Connected<IncomingStream<'_, BreakableListener>> for ConnectionHandle {
    fn connect_info(stream: IncomingStream<'_, BreakableListener>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A listener that returns a [`ConnectionHandle`] in place of the peer's address.
#[derive(Debug)]
pub(super) struct BreakableListener(pub(super) TcpListener);

impl Listener for BreakableListener {
    type Io = LimitedStream;
    type Addr = ConnectionHandle;

    async fn accept(&mut self) -> (LimitedStream, ConnectionHandle) {
        loop {
            if let Ok((stream, _)) = self.0.accept().await {
                // Otherwise a small response waits for the acknowledgement of the previous one.
                let _ = stream.set_nodelay(true);
                let handle = ConnectionHandle::new();
                return (LimitedStream { stream, handle: handle.clone() }, handle);
            }
            // Probably out of file descriptors: retry later.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn local_addr(&self) -> io::Result<ConnectionHandle> {
        Ok(ConnectionHandle::new())
    }
}

/// A TCP stream that stops after the bytes its [`ConnectionHandle`] allows.
pub(super) struct LimitedStream {
    stream: TcpStream,
    handle: ConnectionHandle,
}

impl AsyncRead for LimitedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let state = Arc::clone(&self.handle.0);
        let allowance = state.allowance.load(Ordering::Acquire);
        if allowance == 0 {
            if state.reset.load(Ordering::Acquire) {
                // Closing now discards unsent data and resets.
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
