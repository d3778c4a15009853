#!/usr/bin/env bash
# The newcomer's first minutes: clone what is committed, set up, run the small chain, run the tests.
# Takes the folder to work in; by default a temporary one, which is deleted at the end.
set -euo pipefail
source_dir="$(cd "$(dirname "$0")/.." && pwd)"
work_dir="${1:-}"
if [[ -z "$work_dir" ]]; then
  work_dir="$(mktemp -d)"
  trap 'rm -rf "$work_dir"' EXIT
fi
git clone --quiet "$source_dir" "$work_dir/portable"
cd "$work_dir/portable"
make --no-print-directory setup
.venv/bin/portable --help
.venv/bin/portable run recipe=quickstart_mini
test -s runs/quickstart_mini/latest/report.html
make --no-print-directory test
