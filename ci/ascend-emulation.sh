#!/usr/bin/env bash
# The real torch_npu on an emulated CANN runtime: make .venv-ascend and run in it what needs torch_npu.
#
#   ci/ascend-emulation.sh          make the environment, then run the tests
#   ci/ascend-emulation.sh setup    make the environment only
#   ci/ascend-emulation.sh test     run the tests only (further words go to pytest)
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv-ascend
PYTHON=${PYTHON:-python3.11}    # torch_npu 2.13.0 has x86-64 wheels for 3.11
STAMP=$VENV/.installed
# TORCH_INDEX: an index with torch's builds without CUDA, where the default one gives a CUDA build.

# Without a driver torch_npu must not load itself at `import torch`; the emulator loads it when it is asked for.
export TORCH_DEVICE_BACKEND_AUTOLOAD=0 OMP_NUM_THREADS=1

setup() {
    [[ $STAMP -nt pyproject.toml && $STAMP -nt ci/constraints.txt ]] && return
    [[ -x $VENV/bin/python ]] || "$PYTHON" -m venv "$VENV"
    local pip=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c ci/constraints.txt)
    # First: torch drives one kind of accelerator a process, and in a CUDA build that is not the NPU.
    "${pip[@]}" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch numpy
    "${pip[@]}" -e '.[dev,accelerate]' torch_npu==2.13.0
    # DeepSpeed compiles nothing here: its operators are written for other chips. Its setup.py imports torch.
    DS_BUILD_OPS=0 "${pip[@]}" --no-build-isolation deepspeed==0.19.8
    touch "$STAMP"
}

# Four devices, as the largest case of the contract has four ranks. Slow tests run too: lost and stalled ranks,
# third-party scripts and the chain are what the emulator is for. The contract's are a process of their own.
run_tests() {
    emulated python -m pytest --backend ascend -m 'not device' tests/backends/ascend tests/contract "$@"
    # Of the strategies' own tests only those about the chip: the others expect a machine without one.
    emulated python -m pytest -m ascend_emulation tests/portable/parallel/strategies "$@"
}

emulated() {
    "$VENV/bin/python" -m backends.ascend.emulation.run --memory 4GiB --devices 4 -- "$@"
}

case ${1:-all} in
    setup) setup ;;
    test) shift; run_tests "$@" ;;
    all) setup; run_tests ;;
    *) echo "ci/ascend-emulation.sh: '$1' is not a step; use setup, test or nothing for both" >&2; exit 2 ;;
esac
