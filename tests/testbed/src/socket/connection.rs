//! A TCP stream that can be reset and muted, which no WebSocket library does on its own.

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
pub(super) struct FaultyStream {
    stream: TcpStream,
    muted: bool,
}

impl FaultyStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Otherwise a small message waits for the acknowledgement of the previous one.
        let _ = stream.set_nodelay(true);
        Self { stream, muted: false }
    }

    /// While on, discards everything written, including the pongs that a WebSocket library always sends.
    /// Flush before each switch, otherwise the other end gets half a frame.
    pub(super) fn mute(&mut self, on: bool) {
        self.muted = on;
    }

    /// Discards unsent data and resets the connection.
    pub(super) fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }
}

impl AsyncRead for FaultyStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for FaultyStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.muted {
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
