-- How the runs of commands that write ended: the newest thousand of each command.
create table if not exists eth_wallet_runs (
    id          bigint generated always as identity primary key,
    command     text not null,
    shard       text,                                    -- `1/4`; null for a run over all wallets
    started_at  timestamp not null,
    ended_at    timestamp not null,                      -- while it is running: when it last said so
    outcome     text not null,                           -- running, complete, partial, skipped, cut_short, interrupted, failed
    exit_status bigint,                                  -- null while it is running
    counts      text,                                    -- JSON, the numbers of its result; null if it had none
    error       text
);

create index if not exists eth_wallet_runs_command_idx on eth_wallet_runs (command, id);
