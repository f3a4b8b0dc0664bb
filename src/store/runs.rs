//! The record of runs, whatever the dialect.

use async_trait::async_trait;
use chrono::NaiveDateTime;

use super::{
    backend::Backend,
    dialect::{Purpose, Value},
    run_log::{Run, RunLog, RunRecord},
    sql_store::SqlStore,
};
use crate::tally::RunError;

/// How many runs of a command are kept.
const KEPT: i64 = 1_000;

/// A row of `eth_wallet_runs`, without its key.
type RawRun = (
    String,
    Option<String>,
    NaiveDateTime,
    NaiveDateTime,
    String,
    Option<i64>,
    Option<String>,
    Option<String>,
);

impl Run {
    fn of(raw: RawRun) -> Self {
        let (command, shard, started_at, ended_at, outcome, exit_status, counts, error) = raw;
        Self {
            command,
            shard,
            started_at: started_at.and_utc(),
            ended_at: ended_at.and_utc(),
            outcome,
            exit_status,
            counts: counts.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
            error,
        }
    }
}

#[async_trait]
impl<D: Backend> RunLog for SqlStore<D> {
    async fn record_run(&self, id: Option<i64>, run: &RunRecord<'_>) -> Result<i64, RunError> {
        let forget = "delete from eth_wallet_runs where command = $1 and id < (
                 select min(id) from (
                     select id from eth_wallet_runs where command = $1 order by id desc limit $2
                 ) newest
             )";
        let elapsed = i64::try_from(run.elapsed.as_millis()).unwrap_or(i64::MAX);
        let (outcome, counts) = (Value::Text(run.outcome), Value::TextOrNull(run.counts));
        let exit_status = Value::NumberOrNull(run.exit_status.map(i64::from));
        let error = Value::TextOrNull(run.error);
        let recorded = || async {
            let mut session = self.database.begin(Purpose::Write).await?;
            let recorded = async {
                if let Some(id) = id {
                    let values = [Value::Number(id), outcome, exit_status, counts, error];
                    if session.execute(D::SQL.update_run, &values).await? > 0 {
                        return Ok(id);
                    }
                }
                let (command, shard) = (Value::Text(run.command), Value::TextOrNull(run.shard));
                let elapsed = Value::Number(elapsed);
                let values = [command, shard, elapsed, outcome, exit_status, counts, error];
                let ids: Vec<(i64,)> = session.fetch(D::SQL.insert_run, &values).await?;
                session.execute(forget, &[command, Value::Number(KEPT)]).await?;
                Ok(ids.first().map_or(0, |(id,)| *id))
            };
            let recorded = recorded.await;
            session.end(recorded).await
        };
        self.retried(recorded).await
    }

    async fn last_runs(&self) -> Result<Vec<Run>, RunError> {
        let last =
            "select command, shard, started_at, ended_at, outcome, exit_status, counts, error
             from (
                 select runs.*, row_number() over (
                     partition by command, outcome order by ended_at desc, id desc) as place
                 from eth_wallet_runs runs
             ) placed
             where place = 1
             order by command, ended_at desc, id desc";
        let runs: Vec<RawRun> = self.fetch(last, &[]).await?;
        Ok(runs.into_iter().map(Run::of).collect())
    }

    async fn recent_runs(&self, command: &str, limit: u32) -> Result<Vec<Run>, RunError> {
        let recent =
            "select command, shard, started_at, ended_at, outcome, exit_status, counts, error
             from eth_wallet_runs
             where command = $1
             order by id desc
             limit $2";
        let values = [Value::Text(command), Value::Number(limit.into())];
        let runs: Vec<RawRun> = self.fetch(recent, &values).await?;
        Ok(runs.into_iter().map(Run::of).collect())
    }
}
