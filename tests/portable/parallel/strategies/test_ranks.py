"""Strategies over real processes; that they train what one process trains is in tests/contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.bench.model_state_memory import PRECISIONS, STRATEGIES, live_bytes
from tests.portable.parallel.strategies import case_ranks, fault
from tests.processes import run_processes

CASE = "tests.portable.parallel.strategies.case_ranks:run"
Reports = list[dict[str, Any]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return run_processes(CASE, 2, tmp_path_factory.mktemp("pair"), "pair")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return run_processes(CASE, 4, tmp_path_factory.mktemp("four"), "four")


@pytest.mark.parametrize("layout", case_ranks.PAIR)
def test_gradients_of_two_ranks_are_the_sum_over_both(pair: Reports, layout: str):
    assert all(report["gradients"][layout] < 1e-6 for report in pair)


@pytest.mark.slow
@pytest.mark.parametrize("layout", case_ranks.FOUR)
def test_gradients_add_up_over_every_axis_that_reads_other_tokens(four: Reports, layout: str):
    assert all(report["gradients"][layout] < 1e-6 for report in four)


def formats(pair: Reports, case: str) -> tuple[str, str, str]:
    found = [report["formats"][case] for report in pair]
    assert all(1e-4 < report["error"] < 0.05 for report in found)  # narrow formats are used, and stay near
    assert found[0] | {"error": 0} == found[1] | {"error": 0}
    return tuple(found[0][key].removeprefix("torch.") for key in ("module", "part", "gradient"))


@pytest.mark.parametrize("strategy", ["zero1", "zero2"])
def test_zero_computes_with_narrow_copies_and_updates_wide_parts(pair: Reports, strategy: str):
    assert formats(pair, f"{strategy}, mixed") == ("bfloat16", "float32", "float32")


@pytest.mark.parametrize("strategy", ["zero1", "zero2"])
def test_a_narrow_sum_is_kept_narrow(pair: Reports, strategy: str):
    assert formats(pair, f"{strategy}, narrow sum") == ("bfloat16", "float32", "bfloat16")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("kind", ["mixed", "narrow sum"])
def test_the_others_keep_wide_parameters(pair: Reports, strategy: str, kind: str):
    assert formats(pair, f"{strategy}, {kind}") == ("float32",) * 3


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "fsdp"])
def test_narrow_parameters_have_no_copies(pair: Reports, strategy: str):
    assert formats(pair, f"{strategy}, narrow") == ("bfloat16",) * 3


@pytest.mark.parametrize(
    ("strategy", "when"),
    [
        ("ddp", [False, True]),
        ("zero1", [False, True]),
        ("zero2", [True, True]),
        ("fsdp", [True, True]),
    ],
)
def test_gradients_travel_with_the_last_backward_or_where_they_are_divided_with_each(
    pair: Reports, strategy: str, when: list[bool]
):
    assert all(report["synced"][strategy] == when for report in pair)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2"])
def test_gradients_that_no_hook_saw_travel_at_the_end(pair: Reports, strategy: str):
    assert all(report["by_hand"][strategy] < 1e-6 for report in pair)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "fsdp"])
def test_parts_that_ranks_write_become_one_model(pair: Reports, strategy: str):
    assert all(report["filled"][strategy] for report in pair)


@pytest.mark.parametrize(
    ("planted", "text"),
    [
        ("ddp alone", "strategy=ddp needs 2 ranks on axis 'data' of the layout dp2, but"),
        ("zero1 alone", "strategy=zero1 needs 2 ranks on axis 'data' of the layout fsdp2, but"),
        ("zero2 alone", "strategy=zero2 needs 2 ranks"),
        ("fsdp alone", "strategy=fsdp needs 2 ranks"),
        ("ddp other way", "but they are joined by pigeon; use communicator=gloo"),
        ("zero1 other way", "but they are joined by pigeon; use communicator=gloo"),
        ("zero2 other way", "but they are joined by pigeon; use communicator=gloo"),
        ("fsdp other way", "but they are joined by pigeon; use communicator=gloo"),
        ("axes that do not multiply", "its axes 'fsdp' and 'batch' span 2 × 2"),
        ("left whole", "over the 2 ranks of axis 'shard', but torch left it whole"),
        ("own group", "over the groups of the axes shard (2 ranks), but torch took others"),
        ("too late", "grew after the sum over ranks had been made; call accumulate(last=True)"),
    ],
)
def test_a_setup_that_is_not_what_was_asked_for_is_refused(pair: Reports, planted: str, text: str):
    for report in pair:
        assert report["faults"][planted].startswith("CapabilityError")
        assert text in report["faults"][planted]


def test_every_planted_fault_is_told(pair: Reports):
    assert pair[0]["faults"].keys() == fault.ALL.keys()
    assert "no error" not in pair[0]["faults"].values()


@pytest.mark.parametrize("ranks", ["pair", pytest.param("four", marks=pytest.mark.slow)])
def test_model_state_takes_the_bytes_that_the_formulas_say(request: pytest.FixtureRequest, ranks: str):
    for report in request.getfixturevalue(ranks):
        assert len(report["memory"]) == len(STRATEGIES) * len(PRECISIONS)
        for row in report["memory"]:
            assert row["measured"] == pytest.approx(row["formula"], rel=0.01), row


def test_the_count_sees_every_tensor():
    before = live_bytes()
    held = {"hidden": [torch.zeros(1000)]}
    view = held["hidden"][0][:10]
    assert live_bytes() - before == 4000
    del held
    assert live_bytes() - before == 4000
    del view
    assert live_bytes() == before
