#!/usr/bin/env bash
# The benchmark: gets Anvil and PostgreSQL, builds for release, and runs examples/bench with these arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/testbed/install-anvil
tests/testbed/install-postgres
cargo build --quiet --release --bin ethtally --example bench
exec target/release/examples/bench "$@"
