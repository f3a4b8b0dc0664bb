//! A TCP proxy that adds latency, as a distant node has it: it delays all bytes and does not limit throughput.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use axum::http::Uri;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use crate::server::Server;

/// Bytes per read.
const PIECE: usize = 64 << 10;
/// Pieces in transit, at most: 64 MB, more than any request or response.
const PIECES: usize = 1_000;

/// A latency proxy in front of a node. It listens on its own port until it is dropped.
///
/// It runs in its own thread, so that it relays while a test waits for a process.
#[derive(Debug)]
pub struct LatencyProxy {
    server: Server,
}

impl LatencyProxy {
    /// Starts a proxy to the node at this `http://` or `ws://` URL; each byte takes `one_way` in either direction.
    ///
    /// # Errors
    /// If the URL has no host and port, or there is no free port.
    pub fn in_front_of(url: &str, one_way: Duration) -> Result<Self> {
        let uri: Uri = url.parse().context("the upstream URL is invalid")?;
        ensure!(uri.port_u16().is_some(), "the upstream URL has no port");
        let node = uri.authority().map(ToString::to_string).unwrap_or_default();
        let server = Server::start("latency", move |listener| serve(listener, node, one_way))?;
        Ok(Self { server })
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The address, for protocols other than HTTP.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

async fn serve(listener: TcpListener, node: String, one_way: Duration) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let node = node.clone();
            tokio::spawn(async move {
                // If the connection breaks, both ends have been closed by then.
                let _ = relay(stream, &node, one_way).await;
            });
        } else {
            // Probably out of file descriptors: retry later.
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn relay(program: TcpStream, node: &str, one_way: Duration) -> io::Result<()> {
    let node = TcpStream::connect(node).await?;
    for stream in [&program, &node] {
        // Otherwise the end of a message waits for the acknowledgement of its start.
        stream.set_nodelay(true)?;
    }
    // The local handshake takes no time; over a distance it takes a round trip.
    let connected = Instant::now() + 2 * one_way;
    let ((from_program, to_program), (from_node, to_node)) =
        (program.into_split(), node.into_split());
    let there = carry(from_program, to_node, connected, one_way);
    let back = carry(from_node, to_program, connected, one_way);
    tokio::try_join!(there, back).map(drop)
}

/// Copies all bytes and the end of the stream, each `one_way` after it arrived and none before `connected`.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    connected: Instant,
    one_way: Duration,
) -> io::Result<()> {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let take = async move {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let count = from.read_buf(&mut piece).await?;
            let due = Instant::now().max(connected) + one_way;
            // An empty piece marks the end. If the receiver is gone, it has reported the error.
            if sender.send((due, piece)).await.is_err() || count == 0 {
                return io::Result::Ok(());
            }
        }
    };
    let give = async move {
        while let Some((due, piece)) = under_way.recv().await {
            sleep_until(due).await;
            if piece.is_empty() {
                break;
            }
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(take, give).map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Starts an echo server.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    let _ = to.shutdown().await;
                });
            }
        });
        address
    }

    async fn connected(one_way: Duration) -> (LatencyProxy, TcpStream) {
        let delay =
            LatencyProxy::in_front_of(&format!("http://{}", echo().await), one_way).unwrap();
        let stream = TcpStream::connect(delay.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        (delay, stream)
    }

    #[tokio::test]
    async fn a_response_takes_a_round_trip_and_the_first_one_a_handshake_more() {
        let one_way = Duration::from_millis(40);
        let (_delay, mut stream) = connected(one_way).await;
        for ways in [4, 2, 2] {
            let sent = Instant::now();
            stream.write_all(b"?").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'?');
            let took = sent.elapsed();
            assert!(took >= ways * one_way - Duration::from_millis(5), "{ways} ways: {took:?}");
        }
    }

    #[tokio::test]
    async fn bytes_in_transit_do_not_wait_for_each_other() {
        let one_way = Duration::from_millis(200);
        let (_delay, mut stream) = connected(one_way).await;
        stream.write_all(b"!").await.unwrap();
        stream.read_u8().await.unwrap();
        // One byte every few milliseconds; the first returns while many more are in transit.
        let (mut from, mut to) = stream.split();
        let mut sent = 0;
        let sending = async {
            loop {
                to.write_all(b".").await.unwrap();
                sent += 1;
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = sending => {}
            first = from.read_u8() => assert_eq!(first.unwrap(), b'.'),
        }
        let first = Instant::now();
        for _ in 1..sent {
            assert_eq!(from.read_u8().await.unwrap(), b'.');
        }
        // The time that one byte after another would take.
        let with_script = one_way * 2 * (sent - 1);
        assert!(sent > 10 && first.elapsed() < with_script / 2, "{sent} in {:?}", first.elapsed());
    }

    #[tokio::test]
    async fn ten_megabytes_are_returned_complete_and_in_order() {
        let (_delay, stream) = connected(Duration::from_millis(10)).await;
        let sent: Vec<u8> = (0..10_u32 << 18).flat_map(u32::to_be_bytes).collect();
        let (mut from, mut to) = stream.into_split();
        let mut came = Vec::new();
        let sending = async {
            to.write_all(&sent).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(from.read_to_end(&mut came), sending);
        read.unwrap();
        assert!(came == sent, "{} of {} bytes", came.len(), sent.len());
    }

    #[tokio::test]
    async fn a_connection_ends_when_the_node_is_down() {
        let url = crate::stub::Stub::dead();
        let delay = LatencyProxy::in_front_of(&url, Duration::from_millis(1)).unwrap();
        let mut stream = TcpStream::connect(delay.address()).await.unwrap();
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    }
}
