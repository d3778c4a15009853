"""Models of transformers train on two ranks as on one."""

from __future__ import annotations

from typing import Any

import pytest

from portable.testing.process import run_processes
from tests.portable.model.hf.case_hf import TWO, alone
from tests.portable.model.hf.folders import make_folder


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("hf")
    for kind in {model for model, *_ in TWO.values()}:
        make_folder(kind, folder / kind)
    ranks = run_processes("tests.portable.model.hf.case_hf:together", 2, folder, str(folder))
    return alone(str(folder)), ranks


@pytest.mark.parametrize("name", TWO)
def test_a_layout_trains_as_one_process_does(
    name: str, reports: tuple[dict[str, Any], list[dict[str, Any]]]
) -> None:
    single, ranks = reports
    model, _, _, frozen = TWO[name]
    expected = single[f"{model}/{frozen}"]
    for rank in ranks:
        assert rank[name]["losses"] == pytest.approx(expected["losses"], abs=2e-6)
        assert rank[name]["norms"] == pytest.approx(expected["norms"], rel=1e-5)
        assert rank[name]["weights"].keys() == expected["weights"].keys()
        for key, values in rank[name]["weights"].items():
            assert values == pytest.approx(expected["weights"][key], abs=2e-4), key
