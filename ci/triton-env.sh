#!/usr/bin/env bash
# Triton without a GPU: make .venv-triton, run the Triton kernels there through Triton's interpreter, and compile them.
#
#   ci/triton-env.sh          make the environment, then run the tests
#   ci/triton-env.sh setup    make the environment only
#   ci/triton-env.sh test     run the tests only (further words go to pytest)
#   ci/triton-env.sh all      make the environment, then run the slow tests as well
#
# On a machine with a GPU the same tests run compiled: python -m pytest -m triton_interpreter tests/backends/triton tests/backends/liger
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv-triton
PYTHON=${PYTHON:-python3.11}
STAMP=$VENV/.installed
MARK="triton_interpreter and not slow"
# TORCH_INDEX: an index with torch's builds without CUDA, where the default one gives a CUDA build.

setup() {
    [[ $STAMP -nt pyproject.toml && $STAMP -nt ci/constraints.txt ]] && return
    [[ -x $VENV/bin/python ]] || "$PYTHON" -m venv "$VENV"
    local pip=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c ci/constraints.txt)
    "${pip[@]}" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch numpy
    "${pip[@]}" triton==3.9.0
    "${pip[@]}" -e '.[dev]'
    # Without what it depends on: it asks for a torch with CUDA.
    "${pip[@]}" --no-deps liger_kernel==0.8.5
    touch "$STAMP"
}

run_tests() {
    # Read by triton.jit when a kernel's file is imported, so it is set before Python starts.
    TRITON_INTERPRET=1 OMP_NUM_THREADS=1 TORCH_DEVICE_BACKEND_AUTOLOAD=0 \
        "$VENV/bin/python" -m pytest -m "$MARK" tests/backends/triton tests/backends/liger "$@"
}

case ${1:-both} in
    setup) setup ;;
    test) shift; run_tests "$@" ;;
    both) setup; run_tests ;;
    all) setup; MARK=triton_interpreter; run_tests ;;
    *) echo "ci/triton-env.sh: '$1' is not a step; use setup, test, all, or nothing for setup and test" >&2; exit 2 ;;
esac
