//! A TCP stream that can be broken off and gagged: what a WebSocket would never do by itself.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    gagged: bool,
}

impl Line {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Else a small message waits for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        Self { stream, gagged: false }
    }

    /// While on, what is written goes nowhere: above all the answers to pings, which no WebSocket can be kept from giving.
    /// Before either switch all must be flushed, or else the other end gets half a frame.
    pub(super) fn gag(&mut self, on: bool) {
        self.gagged = on;
    }

    /// Throws away what is unsent and resets the connection.
    pub(super) fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.gagged {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
