#!/usr/bin/env bash
# The quick start: installs Anvil with npm, builds, and runs examples/quickstart.rs. Needs Rust, npm and a C compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/testbed/install-anvil
echo 'Building (a few minutes the first time) …' >&2
cargo build --locked --quiet --bin ethtally --example quickstart
exec target/debug/examples/quickstart
