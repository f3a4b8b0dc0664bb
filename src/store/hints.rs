//! The record of what endpoints took, whatever the dialect.

use async_trait::async_trait;

use super::{
    backend::Backend,
    dialect::{Purpose, Value},
    hint_log::HintLog,
    rows::bigint,
    sql_store::SqlStore,
};
use crate::tally::{NodeHint, RunError};

/// A row of `eth_wallet_node_hints`: endpoint, kind, accepted, refused, whether it is to be stored again.
type RawHint = (String, String, i64, Option<i64>, bool);

#[async_trait]
impl<D: Backend> HintLog for SqlStore<D> {
    async fn hints(&self) -> Result<Vec<NodeHint>, RunError> {
        let rows: Vec<RawHint> = self.fetch(D::SQL.hints, &[]).await?;
        let hint = |(endpoint, kind, accepted, refused, is_old): RawHint| NodeHint {
            endpoint,
            kind,
            accepted: accepted.unsigned_abs(),
            refused: refused.map(i64::unsigned_abs),
            is_old,
        };
        Ok(rows.into_iter().map(hint).collect())
    }

    async fn record_hints(&self, hints: &[NodeHint]) -> Result<(), RunError> {
        let recorded = || async {
            let mut session = self.database.begin(Purpose::Write).await?;
            let recorded = async {
                for NodeHint { endpoint, kind, accepted, refused, .. } in hints {
                    let values = [
                        Value::Text(endpoint),
                        Value::Text(kind),
                        Value::Number(bigint(*accepted)?),
                        Value::NumberOrNull(refused.map(bigint).transpose()?),
                    ];
                    session.execute(D::SQL.record_hint, &values).await?;
                }
                session.execute(D::SQL.forget_hints, &[]).await.map(drop)
            };
            let recorded = recorded.await;
            session.end(recorded).await
        };
        self.retried(recorded).await
    }
}
