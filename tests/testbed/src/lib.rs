//! A real chain and a real database for ethtally's tests.
//!
//! - [`contracts`]: stand-ins for the Audius contracts, and the original Multicall3: addresses, bindings, code.
//! - [`adversarial`]: contracts that fail in every way, each for the wallets that encode it.
//! - [`genesis`]: the wallets and what they hold at genesis.
//! - [`chain`]: [`Chain`], an Anvil that starts with all of that, and the ways to change it.
//! - [`postgres`]: temporary clusters.
//! - [`stub`]: an HTTP proxy that injects faults which Anvil never shows; [`socket`]: the same for WebSocket;
//!   [`latency`]: a TCP proxy that adds latency.

pub mod adversarial;
pub mod chain;
pub mod contracts;
pub mod genesis;
pub mod latency;
pub mod postgres;
mod server;
pub mod socket;
pub mod stub;

pub use adversarial::Behaviour;
pub use chain::{Chain, TokenFault};
pub use genesis::{Holding, holding, wallet};
pub use latency::LatencyProxy;
pub use socket::Socket;
