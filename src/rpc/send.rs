//! Sends requests that are the same for every endpoint.

use std::{marker::PhantomData, time::Duration};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    client::Client,
    endpoint::Endpoint,
    error::RequestError,
    failover::Attempt,
    request::{Freshness, Request},
    sender::{Rejected, Sender},
};

/// How long an endpoint is asked for a block that it had, or that is named by its hash: another backend may be behind.
pub(super) const LAG: Duration = Duration::from_secs(2);

impl Client {
    /// Sends a request until it is answered; `read` decodes the answer. Returns also which endpoint answered.
    ///
    /// # Errors
    /// [`RequestError::Node`] when every retry is spent; of a request that can be split, as soon as that may help.
    pub async fn send<P, R, T>(
        &self,
        request: Request<P>,
        read: impl Fn(R) -> Result<T, String> + Sync,
    ) -> Result<(T, &Endpoint), RequestError>
    where
        P: Serialize + Send + Sync,
        R: DeserializeOwned + Send,
        T: Send,
    {
        self.send_strictly(request, |result| read(result).map_err(Rejected::from)).await
    }

    /// As [`Client::send`]; `read` may also reject the answer because the endpoint lacks the block.
    pub(super) async fn send_strictly<P, R, T>(
        &self,
        request: Request<P>,
        read: impl Fn(R) -> Result<T, Rejected> + Sync,
    ) -> Result<(T, &Endpoint), RequestError>
    where
        P: Serialize + Send + Sync,
        R: DeserializeOwned + Send,
        T: Send,
    {
        self.attempt(&AnyRequest { sender: &self.sender, request, read, form: PhantomData }).await
    }
}

/// A request that is the same for every endpoint.
struct AnyRequest<'a, P, R, F> {
    sender: &'a Sender,
    request: Request<P>,
    read: F,
    form: PhantomData<fn(R)>,
}

#[async_trait]
impl<P, R, T, F> Attempt for AnyRequest<'_, P, R, F>
where
    P: Serialize + Send + Sync,
    R: DeserializeOwned + Send,
    T: Send,
    F: Fn(R) -> Result<T, Rejected> + Sync,
{
    type Answer = T;

    async fn at(&self, endpoint: &Endpoint) -> Result<T, RequestError> {
        let Request { method, params, freshness, .. } = &self.request;
        let answer = self.sender.ask(endpoint, method, params, &self.read).await?;
        self.sender.require_fresh(endpoint, *freshness).await?;
        Ok(answer)
    }

    fn method(&self) -> &'static str {
        self.request.method
    }

    fn can_split(&self) -> bool {
        self.request.can_split
    }

    fn patience(&self, endpoint: &Endpoint) -> Option<Duration> {
        match self.request.freshness {
            Freshness::Any | Freshness::HasHash(_) => Some(LAG),
            Freshness::HasBlock(block) => endpoint.had_block(block).then_some(LAG),
        }
    }
}
