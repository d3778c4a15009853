"""Ranks that share a row's tokens compute what one process computes that has them all."""

from __future__ import annotations

from typing import Any

import pytest

from portable.testing.process import run_processes
from tests.portable.parallel.context.case_context import (
    BALANCERS,
    FEW_SHAPES,
    METHODS,
    MODELS,
    SHAPES,
    Shape,
)

CASE = "tests.portable.parallel.context.case_context:run"
Reports = list[dict[str, Any]]
EXACT = 2e-6


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return run_processes(CASE, 2, tmp_path_factory.mktemp("pair"), "cpu", "2", *SHAPES, *MODELS)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    reports = run_processes(CASE, 2, tmp_path_factory.mktemp("sim"), "sim", "2", *FEW_SHAPES, "decoder")
    assert {report["device"] for report in reports} == {"sim"}
    return reports


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    chosen = (*FEW_SHAPES, "decoder", "further tokens")
    return run_processes(CASE, 4, tmp_path_factory.mktemp("four"), "cpu", "4", *chosen)


@pytest.fixture(params=["pair", pytest.param("four", marks=pytest.mark.slow)])
def ranks(request: pytest.FixtureRequest) -> Reports:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize("method", METHODS[2])
def test_attention_over_two_ranks(pair: Reports, method: str, balancer: str, shape: str):
    check_attention(pair, method, balancer, shape)


@pytest.mark.parametrize("shape", FEW_SHAPES)
@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize("method", METHODS[2])
def test_attention_over_two_simulated_devices(simulated: Reports, method: str, balancer: str, shape: str):
    check_attention(simulated, method, balancer, shape)


@pytest.mark.slow
@pytest.mark.parametrize("shape", FEW_SHAPES)
@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize("method", METHODS[4])
def test_attention_over_four_ranks(four: Reports, method: str, balancer: str, shape: str):
    check_attention(four, method, balancer, shape)


def check_attention(reports: Reports, method: str, balancer: str, shape: str) -> None:
    for report in reports:
        errors = report["attention"][f"{method}, {balancer}"][shape]
        assert max(errors.values()) <= EXACT, errors


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS[2])
def test_a_model_over_two_ranks(pair: Reports, method: str, model: str):
    check_model(pair, method, model)


@pytest.mark.parametrize("method", METHODS[2])
def test_a_model_over_two_simulated_devices(simulated: Reports, method: str):
    check_model(simulated, method, "decoder")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["decoder", "further tokens"])
@pytest.mark.parametrize("method", METHODS[4])
def test_a_model_over_four_ranks(four: Reports, method: str, model: str):
    check_model(four, method, model)


def check_model(reports: Reports, method: str, model: str) -> None:
    for report in reports:
        errors = report["model"][method][model]
        assert errors["loss"] <= EXACT, errors
        assert max(errors.values()) <= 1e-5, errors


def test_sixteen_bits_stay_near(ranks: Reports, simulated: Reports):
    for report in (*ranks, *simulated):
        assert all(1e-4 < error < 2e-2 for error in report["narrow"].values()), report["narrow"]


def sizes(ranks: int) -> dict[str, int]:
    """Bytes of a rank's part of q, k, v and output in the traffic's case, in 16 bits."""
    shape = Shape(kv_heads=2, width=12, value_width=8)
    tokens = shape.rows * shape.length // ranks
    heads = {"q": (shape.heads, shape.width), "k": (shape.kv_heads, shape.width)}
    heads |= {"v": (shape.kv_heads, shape.value_width), "out": (shape.heads, shape.value_width)}
    return {name: 2 * tokens * count * width for name, (count, width) in heads.items()}


def test_a_ring_sends_keys_and_values_once_a_pass_and_their_gradients_in_float32(ranks: Reports):
    size = sizes(len(ranks))
    once = (len(ranks) - 1) * (size["k"] + size["v"])
    for report in ranks:
        ring = report["traffic"]["ring"]
        assert (ring["forward"]["bytes"], ring["backward"]["bytes"]) == (once, once + 2 * once)


@pytest.mark.slow
def test_a_ring_keeps_two_foreign_blocks(four: Reports):
    for report in four:
        ring = report["traffic"]["ring"]
        assert ring["forward"]["alive"] == 2 * 2  # k and v: in use, and arriving
        assert ring["backward"]["alive"] == 2 * 2 + 2 * 2  # and their gradients


def test_ulysses_sends_what_does_not_stay(ranks: Reports):
    count, size = len(ranks), sizes(len(ranks))
    copies = max(1, count // 2)  # two key-value heads
    once = (size["q"] + copies * (size["k"] + size["v"]) + size["out"]) * (count - 1) // count
    for report in ranks:
        ulysses = report["traffic"]["ulysses"]
        assert (ulysses["forward"]["bytes"], ulysses["backward"]["bytes"]) == (once, once)
