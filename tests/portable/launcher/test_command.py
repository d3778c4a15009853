from __future__ import annotations

from pathlib import Path

import pytest

from portable.config.load import load
from portable.launcher.command import in_folder, without_launcher


def test_a_rank_gets_the_users_words_but_those_that_ask_for_ranks():
    words = [
        "data=x",
        "launcher=ray",
        "+launcher.processes=4",
        "hydra.sweep.dir=y",
        "hydra/launcher=z",
        "steps=3",
    ]
    assert without_launcher(words) == ["data=x", "steps=3", "launcher=local", "launcher.processes=1"]


@pytest.mark.parametrize("name", ["plain", "two words", "a=b,c", "it's", "${x}"])
def test_any_folder_survives_the_command_line(name: str, tmp_path: Path):
    output_dir, run_dir = in_folder(tmp_path / name)
    assert run_dir.partition("=")[2] == output_dir.partition("=")[2]
    if "${" not in name:
        assert load("pretrain", ["data=x", output_dir]).output_dir == str(tmp_path / name)
