#!/usr/bin/env bash
# Ray on this machine: make .venv-ray and run in it the tests of launcher=ray.
#
#   ci/ray-env.sh          make the environment, then run the tests
#   ci/ray-env.sh setup    make the environment only
#   ci/ray-env.sh test     run the tests only (further words go to pytest)
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv-ray
PYTHON=${PYTHON:-python3.11}
STAMP=$VENV/.installed
# TORCH_INDEX: an index with torch's builds without CUDA, where the default one gives a CUDA build.

export TORCH_DEVICE_BACKEND_AUTOLOAD=0 OMP_NUM_THREADS=1

setup() {
    [[ $STAMP -nt pyproject.toml && $STAMP -nt ci/constraints.txt ]] && return
    [[ -x $VENV/bin/python ]] || "$PYTHON" -m venv "$VENV"
    DS_BUILD_OPS=0 "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c ci/constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -e '.[dev,ray]'
    touch "$STAMP"
}

# Slow tests run too: lost workers are what it is for.
run_tests() {
    "$VENV/bin/python" -m pytest -m 'ray' tests/backends/launcher "$@"
}

case ${1:-all} in
    setup) setup ;;
    test) shift; run_tests "$@" ;;
    all) setup; run_tests ;;
    *) echo "ci/ray-env.sh: '$1' is not a step; use setup, test or nothing for both" >&2; exit 2 ;;
esac
