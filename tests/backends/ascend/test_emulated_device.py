"""The device over the real torch_npu, on the emulated runtime; ``make ascend-emulation`` runs it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.ascend_emulation


def emulated(code, *options, words=()):
    """Run ``code`` in a process of its own under the emulator, and return what it printed."""
    command = [sys.executable, "-m", "backends.ascend.emulation.run", *options, "--", sys.executable, "-c"]
    done = subprocess.run([*command, code, *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


PROBE = """
from backends.ascend.backend import AscendBackend
probe = AscendBackend().probe()
print(probe.usable, probe.hardware)
"""


@pytest.mark.parametrize(
    ("soc", "hardware"), [("910b", "ascend_910b"), ("910c", "ascend_910c"), ("310p", "ascend")]
)
def test_the_probe_sees_the_chip(soc, hardware):
    assert emulated(PROBE, "--soc", soc)[-1] == f"True {hardware}"


WALK = """
import torch
from backends.ascend.backend import AscendBackend
from portable.device.protocol import Dtype
device = AscendBackend().device()
device.set_index(1)
there = device.torch_device(1)
before = device.memory(1).used_bytes
kept = torch.ones(2**20, device=there)
print("used", device.memory(1).used_bytes - before >= 4 * 2**20, device.memory(1).peak_bytes >= 4 * 2**20)
state = device.rng_state()
first = torch.rand(4, device=there)
device.set_rng_state(state)
print("random", torch.equal(first, torch.rand(4, device=there)))
side = device.new_stream()
side.wait_stream(device.current_stream())
with device.use_stream(side):
    doubled = kept * 2
    print("stream", device.current_stream() == side)
device.current_stream().wait_stream(side)
device.record_stream(doubled, device.current_stream())
print("sum", doubled.sum().item() == 2**21)
print("plain", device.to_portable(kept) is kept)
print("pinned", device.pin(torch.ones(2)).is_pinned())
with device.autocast(Dtype.bf16):
    print("autocast", (torch.ones(4, 4, device=there) @ torch.ones(4, 4, device=there)).dtype)
info = device.info(1)
print("info", info.name, info.num_cores, info.total_bytes // 2**30)
"""


def test_a_walk_through_the_device():
    printed = emulated(WALK, "--soc", "910b", "--memory", "2GiB", "--devices", "2")
    told = dict(line.split(" ", 1) for line in printed if " " in line)
    assert told["used"] == "True True"
    for name in ("random", "stream", "sum", "plain", "pinned"):
        assert told[name] == "True", name
    assert told["autocast"] == "torch.bfloat16"
    assert told["info"] == "Ascend910B2 24 2"


def test_deterministic_as_environment_sets_it():
    code = (
        "import os; from backends.ascend.backend import AscendBackend; b = AscendBackend();"
        "os.environ.update(b.environment(deterministic=True)); d = b.device(); d.set_deterministic(True);"
        "import torch; print(torch.are_deterministic_algorithms_enabled())"
    )
    assert emulated(code)[-1] == "True"


STEPS = """
import sys
import torch
from pathlib import Path
from portable.core.record import Batch
from portable.train.next_token import next_token_loss
from portable.train.trainer import Trainer
from tests.portable.train.support import RowSource, TinyModel, make_runtime, train_config, workspace

runtime = make_runtime(backend="ascend")
source = RowSource(4, 1)
trainer = Trainer(
    TinyModel(), next_token_loss, source, train_config(3), runtime, workspace(Path(sys.argv[1]))
)
batches = source.next_batches()
many = [Batch(*(tensor.repeat(20_000, 1) for tensor in batches[0].tensors()))]
print("first", float(trainer.train_step(batches).loss_mean))
kept = runtime.device.memory().used_bytes
try:
    trainer.train_step(many)
except torch.OutOfMemoryError as error:
    print("told", str(error).splitlines()[0])
print("left", runtime.device.memory().used_bytes - kept)
print("again", float(trainer.train_step(batches).loss_mean))
"""


def test_a_training_step_that_is_too_large_ends_in_torchs_error_and_the_next_one_runs(tmp_path):
    printed = emulated(STEPS, "--memory", "64MiB", words=[str(tmp_path)])
    told = dict(line.split(" ", 1) for line in printed)
    assert told["told"].startswith("NPU out of memory. Tried to allocate")
    assert "NPU 0; 64.00 MiB total capacity" in told["told"]
    assert int(told["left"]) == 0
    assert float(told["again"]) < float(told["first"])
