//! The tables that the original indexer leaves in PostgreSQL.

use ethtally_testbed::postgres;

use crate::support::database::Database;

/// The tables as the original creates them, with its checkpoint.
const TABLES: &str = "
    CREATE TABLE eth_wallet_balances (
        wallet      TEXT PRIMARY KEY,
        balance     NUMERIC NOT NULL DEFAULT 0,
        blocknumber BIGINT,
        updated_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
        created_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);
    CREATE INDEX eth_wallet_balances_updated_at_idx ON eth_wallet_balances (updated_at);
    CREATE TABLE eth_indexer_checkpoints (
        name        TEXT PRIMARY KEY,
        last_block  BIGINT NOT NULL,
        updated_at  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP);
    INSERT INTO eth_indexer_checkpoints VALUES ('audio_transfers', 21000000, '2025-12-31 23:59:59.123456');";

/// A new database with the original's tables, after this statement has filled them.
pub(crate) fn original_database(fill: &str) -> Database {
    let database = Database::postgres();
    postgres::psql(&database.url, &format!("{TABLES}\n{fill}")).expect("the original's tables");
    database
}
