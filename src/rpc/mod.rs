//! One chain over several endpoints; knows no wallet.
//!
//! A request passes through [`Client`], which retries it and picks the endpoint, and `sender`, which makes one attempt
//! within the limits: JSON-RPC in `json`, down to one HTTP POST of a [`Transport`]. A failure comes back as a [`NodeError`], and its
//! [`ErrorKind`] decides what each layer does. What was learnt of an endpoint is kept in [`Endpoint`].

mod attempts;
mod block;
mod call;
mod checks;
mod client;
mod endpoint;
mod endpoint_id;
mod error;
mod failover;
mod freshness;
mod headers;
mod json;
mod kind;
mod learnt;
mod limiter;
mod memory;
mod origin;
mod preflight;
mod proof;
mod request;
mod request_log;
mod rules;
mod send;
mod sender;
mod transport;
mod trie;
mod wait;

pub(crate) use block::in_range;
pub use block::{BlockChoice, BlockChoiceError, BlockRef, Header};
pub use checks::{Clock, Contracts};
pub use client::{Ambient, Client, ClientSettings};
pub use endpoint::Endpoint;
pub use endpoint_id::EndpointId;
pub use error::{NodeError, RequestError};
pub use kind::{Action, ErrorKind};
pub use learnt::{Feature, Support};
pub use limiter::{Parked, Permit, RateLimits, UNITS_PER_CALL};
pub use memory::{Limit, SizeInUse};
pub use preflight::Needs;
pub use proof::Mapping;
pub use request::{Call, Freshness, Origin, OriginCheck, Override, Overrides, Request};
pub(crate) use rules::allowed_blocks;
pub use transport::{HeaderMap, HttpError, HttpResponse, Transport};
pub use trie::ProvenBlock;
