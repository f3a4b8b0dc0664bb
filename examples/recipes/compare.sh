#!/usr/bin/env bash
# Compares ethtally's totals with those of another table, such as the original indexer's, before you switch to them.
# Prints a summary, and the rows that differ as CSV to differences.csv. Exits with 1 if one differs or is missing.
#
#   1. Let the other program run, and give ethtally a database of its own, with the same wallets:
#        psql "$ORIGINAL_URL" -Atc "select wallet from eth_wallet_balances" | ethtally backfill --from-csv -
#   2. ORIGINAL_URL=postgres://... DATABASE_URL=postgres://... compare.sh
#   3. `ethtally verify ADDR` compares a row that differs with the chain: it says whose total is right.
#
# Some rows differ because the wallet has changed since one of the two has read it: their times are in the file.
set -euo pipefail

: "${ORIGINAL_URL:?set it to the database to compare with}" "${DATABASE_URL:?set it to the database of ethtally}"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
run() { psql "$1" --no-psqlrc --quiet --tuples-only --no-align -v ON_ERROR_STOP=1 "${@:2}"; }

# Placeholders of either side have no total yet: the original dates them 1970, and ethtally has no read_block for them.
run "$ORIGINAL_URL" -c "copy (select lower(wallet), balance, updated_at from eth_wallet_balances
    where updated_at > '1970-01-01') to stdout with (format csv)" >"$folder/original.csv"

run "$DATABASE_URL" >"$folder/summary" <<SQL
create temporary table original (wallet text primary key, total numeric, updated_at timestamp);
\\copy original from '$folder/original.csv' with (format csv)
create temporary view compared as
    select coalesce(original.wallet, ours.wallet) as wallet, original.total as original_total,
        ours.balance as ethtally_total, ours.balance - original.total as difference,
        original.updated_at as original_updated_at, ours.updated_at as ethtally_updated_at, ours.read_block
    from original
    full join (select * from eth_wallet_balances where read_block is not null) ours using (wallet);
\\copy (select * from compared where difference is distinct from 0 order by abs(difference) desc nulls first, wallet) to 'differences.csv' with (format csv, header)
select format('same:%s different:%s only_original:%s only_ethtally:%s',
    count(*) filter (where difference = 0), count(*) filter (where difference <> 0),
    count(*) filter (where ethtally_total is null), count(*) filter (where original_total is null)) from compared;
SQL
cat "$folder/summary"
[[ $(<"$folder/summary") == *" different:0 only_original:0 "* ]]
