-- Columns of eth_wallet_balances that hold a part of each total, as profiles name them. What writes a total sets the
-- parts that it read, and makes all other columns that are named here null.
create table if not exists eth_wallet_parts (
    column_name text primary key not null,
    holds       text not null                            -- function and contract
);
