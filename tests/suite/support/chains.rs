//! Chains and proxies in front of them. Nothing here runs the program.

use alloy::primitives::U256;
use ethtally_testbed::{
    Chain, Socket, TokenFault,
    stub::{Fault, Stub, When},
    wallet,
};
use tokio::sync::OnceCell;

/// Wallets on [`wide_chain`].
pub(crate) const WIDE_CHAIN_WALLETS: u64 = 20_000;

/// A shared chain of a thousand wallets at block 0, for tests that do not change it.
pub(crate) async fn still_chain() -> &'static Chain {
    static CHAIN: OnceCell<Chain> = OnceCell::const_new();
    CHAIN.get_or_init(async || Chain::builder().start().await.expect("a chain")).await
}

/// A shared chain that accepts large calls, for tests that do not change it.
pub(crate) async fn wide_chain() -> &'static Chain {
    static CHAIN: OnceCell<Chain> = OnceCell::const_new();
    let start = async || {
        let chain = Chain::builder().wallets(WIDE_CHAIN_WALLETS).gas_limit(550_000_000);
        chain.arg("--no-request-size-limit").start().await.expect("a chain")
    };
    CHAIN.get_or_init(start).await
}

/// A stub in front of a chain.
pub(crate) fn stub_of(chain: &Chain) -> Stub {
    Stub::in_front_of(&chain.url()).expect("a stub")
}

/// A stub in front of [`still_chain`].
pub(crate) async fn still_stub() -> Stub {
    stub_of(still_chain().await)
}

/// A stub in front of [`wide_chain`].
pub(crate) async fn wide_stub() -> Stub {
    stub_of(wide_chain().await)
}

/// Makes a stub in front of a chain give this block as the newest.
pub(crate) async fn newest_is(chain: &Chain, block: u64) -> Fault {
    Fault::Answer(chain.header(block).await.expect("a block"))
}

/// Requests for the newest block.
pub(crate) fn asks_for_newest() -> When {
    When::method("eth_getBlockByNumber").mentioning("latest")
}

/// A new chain and a stub in front of it.
pub(crate) async fn chain_and_stub() -> (Chain, Stub) {
    let chain = Chain::builder().start().await.expect("a chain");
    let stub = stub_of(&chain);
    (chain, stub)
}

/// A WebSocket proxy and a stub in front of a chain.
pub(crate) fn socket_and_stub_of(chain: &Chain) -> (Socket, Stub) {
    (Socket::in_front_of(&chain.ws_url()).expect("a WebSocket proxy"), stub_of(chain))
}

/// A new chain on which `balanceOf` of these wallets fails.
pub(crate) async fn faulty_chain(faults: impl IntoIterator<Item = (u64, TokenFault)>) -> Chain {
    let chain = Chain::builder().faulty().start().await.expect("a chain");
    for (n, fault) in faults {
        chain.set_fault(wallet(n), fault).await.expect("the chain takes faults");
    }
    chain
}

/// Mines a block with a transfer of this many wei between these wallets; returns its number.
pub(crate) async fn transfer(chain: &Chain, from: u64, to: u64, wei: U256) -> u64 {
    chain.transfer(wallet(from), wallet(to), wei).await.expect("the chain takes transfers");
    chain.block_number().await.expect("the chain responds")
}
