from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from portable.testing.process import run_processes
from tests.portable.sft.case_export import ADAPTERS, LAYOUTS


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("written")
    return folder, run_processes("tests.portable.sft.case_export:together", 2, folder / "ranks", str(folder))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_divided_model_is_written_as_a_whole_one(
    written: tuple[Path, list[dict[str, Any]]], kind: str, layout: str
):
    folder = written[0] / kind
    alone, found = folder / "alone", folder / layout
    assert (found / "adapter").is_dir() == (kind == "lora")
    for name in ("config.json", "model.safetensors"):
        assert (found / name).read_bytes() == (alone / name).read_bytes(), name


def test_no_rank_holds_more_than_two_streamed_weights(written: tuple[Path, list[dict[str, Any]]]):
    # One on its way, and the one before, which its loop still names.
    assert all(report["most_alive"] <= 2 for report in written[1])
