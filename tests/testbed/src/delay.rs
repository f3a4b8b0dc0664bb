//! A long way to the node: a TCP relay that holds what goes through it for a while, as a distance does. What is on its way at the
//! same time does not wait for each other: it costs time and no throughput.

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

/// What is read at once.
const PIECE: usize = 64 << 10;
/// Pieces on their way, at most: 64 MB, more than any request or answer has.
const PIECES: usize = 1_000;

/// A way to a node that takes time. It relays on a port of its own until it is dropped.
///
/// It runs in a thread of its own, so that it relays while a test waits for a process.
#[derive(Debug)]
pub struct Delay {
    server: Server,
}

impl Delay {
    /// Starts a relay to the node at this `http://` or `ws://` URL; each byte takes `one_way` there, and each byte back.
    ///
    /// # Errors
    /// If the URL names no host and port, or there is no port to listen on.
    pub fn in_front_of(url: &str, one_way: Duration) -> Result<Self> {
        let uri: Uri = url.parse().context("the URL behind the delay is none")?;
        ensure!(uri.port_u16().is_some(), "the URL behind the delay has no port");
        let node = uri.authority().map(ToString::to_string).unwrap_or_default();
        let server = Server::start("delay", move |listener| serve(listener, node, one_way))?;
        Ok(Self { server })
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The same for what is no HTTP.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

async fn serve(listener: TcpListener, node: String, one_way: Duration) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let node = node.clone();
            tokio::spawn(async move {
                // A connection that breaks has been closed towards both ends by then.
                let _ = relay(stream, &node, one_way).await;
            });
        } else {
            // Out of file descriptors, most likely: some will come back.
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn relay(program: TcpStream, node: &str, one_way: Duration) -> io::Result<()> {
    let node = TcpStream::connect(node).await?;
    for stream in [&program, &node] {
        // Else the end of a message waits for the acknowledgement of its beginning.
        stream.set_nodelay(true)?;
    }
    // The machine has shaken hands at once; over a distance that takes a way there and a way back.
    let connected = Instant::now() + 2 * one_way;
    let ((from_program, to_program), (from_node, to_node)) =
        (program.into_split(), node.into_split());
    let there = carry(from_program, to_node, connected, one_way);
    let back = carry(from_node, to_program, connected, one_way);
    tokio::try_join!(there, back).map(drop)
}

/// Carries all bytes from one end to the other, and the end of them, each `one_way` after it came and none before `connected`.
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
            // An empty piece is the end; a receiver that is gone has said why.
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

    /// Answers each byte at once with itself, until it ends.
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

    async fn connected(one_way: Duration) -> (Delay, TcpStream) {
        let delay = Delay::in_front_of(&format!("http://{}", echo().await), one_way).unwrap();
        let stream = TcpStream::connect(delay.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        (delay, stream)
    }

    #[tokio::test]
    async fn an_answer_takes_the_way_there_and_back_and_the_first_one_a_handshake_more() {
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
    async fn what_is_on_its_way_does_not_wait_for_each_other() {
        let one_way = Duration::from_millis(200);
        let (_delay, mut stream) = connected(one_way).await;
        stream.write_all(b"!").await.unwrap();
        stream.read_u8().await.unwrap();
        // One byte every few milliseconds; the first comes back when many more are under way.
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
        // Each by itself would have taken so long.
        let one_by_one = one_way * 2 * (sent - 1);
        assert!(sent > 10 && first.elapsed() < one_by_one / 2, "{sent} in {:?}", first.elapsed());
    }

    #[tokio::test]
    async fn ten_megabytes_come_back_whole_in_order_and_with_their_end() {
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
    async fn a_connection_ends_when_the_node_has_gone() {
        let url = crate::stub::Stub::dead();
        let delay = Delay::in_front_of(&url, Duration::from_millis(1)).unwrap();
        let mut stream = TcpStream::connect(delay.address()).await.unwrap();
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    }
}
