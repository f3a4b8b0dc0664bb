//! A real chain and a real database for ethtally's tests.
//!
//! - [`contracts`]: our stand-ins for the Audius contracts, and the genuine Multicall3: addresses, bindings, code.
//! - [`freak`]: contracts that fail in every way, for the wallets that say so.
//! - [`genesis`]: which wallets there are and what they hold when the chain starts.
//! - [`chain`]: [`Chain`], an Anvil that starts with all of that, and what can be done to it.
//! - [`postgres`]: throw-away clusters; [`stub`]: a node with the faults that Anvil never shows; [`socket`]: the same for its
//!   WebSocket; [`delay`]: a node that is far away.

pub mod chain;
pub mod contracts;
pub mod delay;
pub mod freak;
pub mod genesis;
pub mod postgres;
mod server;
pub mod socket;
pub mod stub;

pub use chain::{Chain, Fault};
pub use delay::Delay;
pub use freak::Freak;
pub use genesis::{Holding, holding, wallet};
pub use socket::Socket;
