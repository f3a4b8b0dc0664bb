#!/usr/bin/env bash
# Adds the wallets of your own tables to ethtally's, and reads those that are new. Run it on a schedule:
#
#   */5 * * * * set -a; . /etc/ethtally.env; set +a; new-wallets.sh
#
# APP_DATABASE_URL is the database of your tables; DATABASE_URL and ETH_RPC_URL are ethtally's settings.
# WALLETS_QUERY names the wallets; it may return one twice, and wallets that the table has.
set -euo pipefail

: "${APP_DATABASE_URL:?set it to the database of your own tables}"
query=${WALLETS_QUERY:-"select wallet from users where wallet is not null and created_at > now() - interval '1 day'"}

# In a file, so that a query that fails does not look like a short list; and an empty list is not an error.
list=$(mktemp)
trap 'rm -f "$list"' EXIT
psql "$APP_DATABASE_URL" --no-psqlrc --quiet --tuples-only --no-align -v ON_ERROR_STOP=1 -c "$query" >"$list"
[[ -s $list ]] || exit 0

# --resume skips wallets whose total is stored. To leave the reading to sweeps, use --placeholders instead.
ethtally backfill --from-csv - --resume --quiet <"$list"
