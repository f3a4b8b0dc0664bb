//! Exit status and examples: one text for the help, the manual pages and the tests.

/// What the exit status means, indented.
pub(super) fn exit_status() -> &'static str {
    EXIT_STATUS.trim_matches('\n')
}

const EXIT_STATUS: &str = r"
  0    Success.
  1    The command ran and the answer is no: verify found a row that differs, status
       found a row past --max-age, a check of doctor failed, snapshot --check found a
       difference, the table it checked is empty, or with --strict a wallet could not
       be read or stored.
  2    The settings are wrong: usage, profile, chain, contracts or tables. Trying again
       does not help.
  3    The node failed, or none of the wallets could be read.
  4    The database failed, or refuses every row.
  5    Another sweep is running, with --fail-if-locked.
  130  Stopped by SIGINT, or 143 by SIGTERM, after storing what was read.
";

/// The examples of ethtally itself, then of each of its commands.
const EXAMPLES: [(&str, &str); 13] = [
    ("ethtally", ETHTALLY),
    ("migrate", MIGRATE),
    ("sweep", SWEEP),
    ("refresh", REFRESH),
    ("backfill", BACKFILL),
    ("verify", VERIFY),
    ("watch", WATCH),
    ("status", STATUS),
    ("doctor", DOCTOR),
    ("snapshot", SNAPSHOT),
    ("profile", PROFILE),
    ("completions", COMPLETIONS),
    ("man", MAN),
];

/// The names of the commands.
pub(super) fn command_names() -> impl Iterator<Item = &'static str> {
    EXAMPLES.into_iter().skip(1).map(|(name, _)| name)
}

/// Command lines, indented, each with a remark where it needs one.
pub(super) fn examples_of(command: &str) -> &'static str {
    let found = EXAMPLES.into_iter().find(|(name, _)| *name == command);
    found.map_or("", |(_, examples)| examples.trim_matches('\n'))
}

const ETHTALLY: &str = r"
  ethtally backfill --from-csv wallets.csv --rpc-url http://127.0.0.1:8545
  ethtally sweep --batch 5000 --rpc-url http://127.0.0.1:8545
  ethtally status
";

const MIGRATE: &str = r"
  ethtally migrate --database-url postgres://app@db/audius
  ethtally migrate --profile mine.toml --adopt-profile    mine.toml has changed what a total is
";

const SWEEP: &str = r"
  ethtally sweep --batch 5000                      the 5,000 stalest wallets, from cron
  ethtally sweep --all --max-duration 50s          as many as possible, every minute
  ethtally sweep --all --older-than 6h --rps 20    rows older than 6 hours, slowly
  ethtally sweep --all --shard 0/4                 the first of four parallel sweeps
  ethtally sweep --all --not-covered               only what watch does not keep current
  ethtally sweep --all --dry-run --rps 20          calls and time that a sweep would take
";

const REFRESH: &str = r"
  ethtally refresh 0xe6D97B2099F142513be7A2a068bE040656Ae4591
  ethtally refresh --json $(cat wallets.txt) | jq -r '.wallets[] | [.wallet, .total] | @tsv'
";

const BACKFILL: &str = r"
  ethtally backfill --from-csv wallets.csv
  ethtally backfill --from-csv users.csv --column eth_address --rejects bad-rows.csv
  ethtally backfill --from-csv wallets.csv --resume          continue a run that was stopped
  ethtally backfill --from-csv wallets.csv --placeholders    leave the reading to sweeps
  psql -c '\copy (select wallet from users) to stdout csv' | ethtally backfill --from-csv -
";

const VERIFY: &str = r"
  ethtally verify 0xe6D97B2099F142513be7A2a068bE040656Ae4591
  ethtally verify 0xe6D97B2099F142513be7A2a068bE040656Ae4591 --fix
  ethtally verify 0xe6D97B2099F142513be7A2a068bE040656Ae4591 --proof --profile erc20.toml
  ethtally verify --sample 500 --json | jq .drifted
  ethtally verify --sample 500 --ignore-moved        exit 1 only for rows that were never right
";

const WATCH: &str = r"
  ethtally watch
  ethtally watch --listen 1325                       with /healthz, /readyz and /metrics
  ethtally watch --listen 0.0.0.0:1325 --json        in a container
  ethtally watch --confirmations 3                   three blocks behind the newest
  ethtally watch --changes changes.jsonl             each total that changed, as a JSON line
  ethtally watch --track all --from-block 21000000   new wallets too, from that block on
  ethtally watch --once --max-duration 50s           from cron, every minute
";

const SNAPSHOT: &str = r"
  ethtally snapshot --block finalized --out totals.csv.zst
  ethtally snapshot --block 21000000 --out totals.csv --resume    continue a run that was stopped
  ethtally snapshot --block 21000000 --out airdrop.csv --from-csv wallets.csv --root
  ethtally snapshot --block finalized --dry-run --rps 20          calls and time that it would take
  ethtally snapshot --check totals.csv.zst --all                  every row against the chain
  ethtally snapshot --proof 0xe6D97B2099F142513be7A2a068bE040656Ae4591 airdrop.csv
  ethtally snapshot --since last-week.csv today.csv --out changes.csv
";

const STATUS: &str = r"
  ethtally status
  ethtally status --max-age 3d || echo 'the table is stale'
";

const DOCTOR: &str = r"
  ethtally doctor
  ethtally doctor --json | jq -r '.checks[].remedy | values'
";

const PROFILE: &str = r"
  ethtally profile > mine.toml
  ethtally profile --profile mine.toml
";

const COMPLETIONS: &str = r"
  ethtally completions bash > /etc/bash_completion.d/ethtally
";

const MAN: &str = r"
  ethtally man > ethtally.1
  ethtally man sweep > ethtally-sweep.1
";
