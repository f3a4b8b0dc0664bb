#!/usr/bin/env bash
# The benchmark: installs Anvil and PostgreSQL if missing, makes a release build, and runs it with these arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/testbed/install-anvil
tests/testbed/install-postgres
cargo build --locked --quiet --release --bin ethtally --example bench
exec target/release/examples/bench "$@"
