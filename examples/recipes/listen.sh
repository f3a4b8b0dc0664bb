#!/usr/bin/env bash
# Prints each change that changed-totals.sql records, as a JSON object per line, and takes it out of the table. Runs
# until it is stopped. Several may run at once: each change is printed by one of them.
#
#   DATABASE_URL=postgres://... listen.sh | while read -r change; do ...; done
set -euo pipefail

: "${DATABASE_URL:?set it to the database of ethtally}"

# A change that another reader has in hand is skipped. Totals are texts: most readers of JSON round large numbers.
take="with taken as (delete from wallet_changes where id in
        (select id from wallet_changes order by id limit 1000 for update skip locked) returning *)
    select json_build_object('id', id, 'wallet', wallet, 'old_total', old_total::text, 'new_total', new_total::text,
        'read_block', read_block, 'changed_at', changed_at)::text from taken order by id;"

coproc psql { exec psql "$DATABASE_URL" --no-psqlrc --quiet --tuples-only --no-align -v ON_ERROR_STOP=1; }
to=${psql[1]} from=${psql[0]}

# What was recorded before it listens is taken first.
echo "listen wallet_changes; $take" >&"$to"
while true; do
    if read -r -t 1 line <&"$from"; then
        case $line in
            "Asynchronous notification"*) echo "$take" >&"$to" ;;
            "{"*) printf '%s\n' "$line" ;;
        esac
    elif (($? > 128)); then
        # Nothing for a second. psql shows notifications after a statement, so it gets one that prints nothing.
        echo "select where false;" >&"$to"
    else
        echo "listen.sh: the connection is lost" >&2
        exit 1
    fi
done
