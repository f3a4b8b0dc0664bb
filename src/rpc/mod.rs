//! One chain over several endpoints; knows no wallet.
//!
//! A request passes through [`Client`], which limits its rate, retries it and picks the endpoint, down to one
//! HTTP POST. A failure comes back as a [`NodeError`], and its [`ErrorKind`] decides what each layer does.

mod block;
mod checks;
mod client;
mod endpoint;
mod error;
mod limiter;
mod request;
mod rules;
mod transport;

pub use block::{BlockChoice, BlockChoiceError, BlockRef, Header};
pub use checks::{Contracts, Freshness, MULTICALL3};
pub use client::{Client, ClientSettings};
pub use endpoint::{Endpoint, EndpointId, Feature, Limit, SizeInUse, Support};
pub use error::{Action, ErrorKind, NodeError, RequestError};
pub use limiter::{Permit, RateLimits, UNITS_PER_CALL};
pub use request::{Call, Override, Overrides, Request};
pub(crate) use rules::allowed_blocks;
