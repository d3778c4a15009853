#!/usr/bin/env bash
# What a change must pass before it is merged: style, types, tests. Run it from anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."
make --no-print-directory lint
make --no-print-directory test
