#!/usr/bin/env bash
# On a machine with a GPU or an NPU: run the contract tests there, by the same ids as everywhere, and write a dated row into
# docs/support.md.
#
#   ci/device.sh cuda [words for pytest]      also: rocm, ascend, or a third party's backend
#
# PYTHON names the Python of an environment that has Portable with its dev extra, and torch's build for the device.
set -euo pipefail
cd "$(dirname "$0")/.."
backend=${1:?"name a backend: ci/device.sh cuda"}
shift
python=${PYTHON:-.venv/bin/python}
results="$(mktemp)"
trap 'rm -f "$results"' EXIT
export TORCH_DEVICE_BACKEND_AUTOLOAD=0
code=0
"$python" -m pytest tests/contract --backend "$backend" -m "not ascend_emulation" --junitxml "$results" "$@" || code=$?
"$python" ci/device_row.py "$backend" "$results"
exit "$code"
