//! Asks about a chunk of wallets through Multicall3: what is too large for one call is halved, down to one wallet.
//!
//! A wallet is called unreadable only when it fails alone, more than once, while the node works and the profile is
//! right.

use alloy::primitives::Bytes;

use super::{
    aggregate3::{Aggregator, Answers, Question, decode},
    calls::{Blame, Calls, ReadError},
};
use crate::{
    rpc::{Limit, RequestError},
    tally::Wallet,
};

/// What a chunk gave: its answers, and the error for those wallets that have none.
pub(super) type ChunkRead<T> = (Answers<T>, Option<ReadError>);

impl Calls<'_> {
    /// Asks through Multicall3, halving what fails until each wallet is answered or has failed alone. A chunk that is far too
    /// large is given back.
    pub(super) async fn ask<Q: Question>(
        &self,
        aggregator: &Aggregator,
        question: &Q,
        chunk: Vec<Wallet>,
    ) -> ChunkRead<Q::Answer> {
        let size = chunk.len();
        let mut done = Vec::with_capacity(size);
        let mut open = vec![chunk];
        // How often the wallet that is asked about alone has failed.
        let mut failures_alone = 0;
        while let Some(wallets) = open.pop() {
            if self.is_stopped() {
                break;
            }
            match self.aggregate(aggregator, question, &wallets).await {
                Ok(mut answers) => {
                    failures_alone = 0;
                    let first_failed = answers.iter().position(|(_, answer)| answer.is_err());
                    let mut behind = answers.split_off(first_failed.unwrap_or(answers.len()));
                    let none_read = answers.is_empty() && !behind.is_empty();
                    done.extend(answers);
                    let none_answered = behind.iter().all(|(_, answer)| answer.is_err());
                    if none_read
                        && none_answered
                        && let Err(error) = self.require_sane().await
                    {
                        return (done, Some(error));
                    }
                    if wallets.len() == 1 {
                        done.extend(behind);
                        continue;
                    }
                    // A sub-call that burns its gas fails its neighbours too, and a contract that is left
                    // with little may answer what it would not otherwise. So nothing behind a failure is
                    // believed, nor called unreadable, before it was read again: first, or alone.
                    behind.sort_by_key(|(_, answer)| answer.is_err());
                    let again: Vec<_> = behind.into_iter().map(|(wallet, _)| wallet).collect();
                    match none_read {
                        true => open.extend(halves(again)),
                        false if again.is_empty() => {}
                        false => open.push(again),
                    }
                }
                Err(error) => {
                    let limit = question.limit().filter(|_| wallets.len() == size);
                    let gives_back =
                        limit.is_some_and(|limit| self.gives_back(limit, &error, wallets.len()));
                    let Blame { reason, enough } =
                        match self.blame(error, wallets.len(), limit).await {
                            Ok(blame) => blame,
                            Err(error) => return (done, Some(error)),
                        };
                    if wallets.len() > 1 {
                        if gives_back {
                            break;
                        }
                        open.extend(halves(wallets));
                        continue;
                    }
                    failures_alone += 1;
                    if failures_alone < enough {
                        open.push(wallets);
                    } else {
                        failures_alone = 0;
                        done.push((wallets[0], Err(reason)));
                    }
                }
            }
        }
        (done, None)
    }

    /// True if a chunk that failed like this is to be read in other chunks.
    fn gives_back(&self, limit: Limit, error: &RequestError, wallets: usize) -> bool {
        let RequestError::Node(failure) = error else { return false };
        let endpoint = self.client().endpoint(&failure.endpoint);
        endpoint.limit(limit, |search| search.gives_back(wallets))
    }

    /// One `aggregate3` for these wallets.
    async fn aggregate<Q: Question>(
        &self,
        aggregator: &Aggregator,
        question: &Q,
        wallets: &[Wallet],
    ) -> Result<Answers<Q::Answer>, RequestError> {
        let call = aggregator.call(question, wallets);
        let read = |bytes: Bytes| decode(question, wallets, &bytes);
        let (answers, endpoint) = self.call(wallets.len() > 1, call.clone(), read).await?;
        if let Some(limit) = question.limit() {
            endpoint.limit(limit, |search| search.succeeded(wallets.len()));
        }
        let has_one = |answers: &Answers<_>| answers.iter().any(|(_, answer)| answer.is_ok());
        if !has_one(&answers)
            && let Some(other) = self.client().other_than(endpoint)
            && let Ok(others) = self.call_at(other, call, read).await
            && has_one(&others)
        {
            // The first endpoint lacks something that the other has.
            return Ok(others);
        }
        Ok(answers)
    }
}

/// The second half and the first, so that from a stack the first comes first.
pub(super) fn halves(mut wallets: Vec<Wallet>) -> [Vec<Wallet>; 2] {
    let second = wallets.split_off(wallets.len() / 2);
    [second, wallets]
}
