import pytest
import torch

from backends.cpu.device import CpuDevice
from portable.core.registry import load_target
from portable.kernel.bench.measure import measure
from portable.kernel.bench.problem import DIMS, PROBLEMS, Dims, Size, make_problem
from portable.kernel.bench.roofline import Roofline
from portable.kernel.bench.run import bench_op
from portable.kernel.bench.work import forward_work, training_work
from portable.kernel.op import OPS, find_op

TINY = Dims(8, 64, 4, 2, 8, 40, 2, 32, 4, 4)
ROOF = Roofline(bytes_per_s=1e9, flops_per_s=1e10)


def test_every_op_has_a_problem():
    assert set(PROBLEMS) == {op.id for op in OPS}


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.id)
def test_every_row_runs_its_problem(op, monkeypatch):
    monkeypatch.setitem(DIMS, Size.small, TINY)
    monkeypatch.setattr("portable.kernel.bench.measure._SAMPLE_MS", 0.01)
    figures = bench_op(op, CpuDevice(), "fp32", Size.small, ROOF)
    assert {figure.phase for figure in figures} >= {"forward"}
    assert all(figure.times.min_s > 0 and figure.work.num_bytes > 0 for figure in figures)
    references = [figure for figure in figures if figure.row == "reference"]
    assert all(figure.ratio_to_reference == 1.0 for figure in references)


def test_the_bytes_of_a_norm_are_its_operands_and_result(monkeypatch):
    monkeypatch.setitem(DIMS, Size.small, TINY)
    op = find_op("rms_norm")
    problem = make_problem(op.id, Size.small, torch.float32)
    out = load_target(op.target)(*problem.inputs.values())
    matrix, vector = 8 * 64 * 4, 64 * 4
    assert forward_work(op, problem, out).num_bytes == 2 * matrix + vector
    assert training_work(op, problem, out).num_bytes == 2 * (2 * matrix + vector) + matrix + vector


def test_what_is_mutated_is_written_too(monkeypatch):
    monkeypatch.setitem(DIMS, Size.small, TINY)
    op = find_op("adamw")
    problem = make_problem(op.id, Size.small, torch.float32)
    one = 8 * (64 * 64 + 64) * 4
    assert forward_work(op, problem, None).num_bytes == (4 + 3) * one


def test_the_slower_of_two_functions_takes_longer():
    a = torch.randn(64, 64)
    times = measure(CpuDevice(), {"one": lambda: a @ a, "fifty": lambda: [a @ a for _ in range(50)]}, 3)
    assert times["fifty"].min_s > 5 * times["one"].min_s


def test_the_roof_is_the_lower_of_two():
    assert ROOF.best_s(num_bytes=2e9, flops=1e10) == 2.0
    assert ROOF.best_s(num_bytes=1e9, flops=3e10) == 3.0
