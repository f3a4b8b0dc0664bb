-- What the totals are made of: one profile a table. A run with another one is refused.
create table if not exists eth_wallet_profile (
    id          smallint primary key check (id = 1),     -- there is one row
    name        text not null,                           -- of the profile, for people
    identity    text not null,                           -- JSON: chain id and reads, which all totals have in common
    recorded_at timestamp not null
);

-- Sweeps take failures in the order in which their retries are due.
create index if not exists eth_wallet_read_failures_due_idx on eth_wallet_read_failures (next_try_at, wallet);
