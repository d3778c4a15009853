"""The page on parallelism: its pictures and tables are what the code makes, its commands run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ci.parallelism_tables import AXES, PAGE, compositions, names
from ci.pictures.gallery import FOLDER, PICTURES
from portable.config.alias import alias_names
from portable.config.load import load
from portable.model.config import ModelConfig
from portable.model.decoder import Decoder
from portable.parallel.shard_plan import DECODER, Role, ShardPlan
from portable.testing.runtime import make_runtime
from tests.portable.certificate.matrix import FOUR, TWO

TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
STARTS = ("torchrun --nproc-per-node=2 -m portable pretrain ", "portable verify parallel ")


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!http)([^)]+)\)", TEXT)
    assert len(targets) > 20
    for target in targets:
        file, _, heading = target.partition("#")
        page = PAGE.parent / file if file else PAGE
        assert page.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors, target


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_shown_and_is_as_drawn(name: str) -> None:
    """Draw anew with ``python -m ci.pictures``."""
    assert f"](img/parallel/{name}.svg)" in TEXT
    assert (FOLDER / f"{name}.svg").read_text(encoding="utf-8") == PICTURES[name]().svg()


def test_no_picture_is_left_over() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(PICTURES)


def test_what_goes_together_is_what_the_code_says() -> None:
    """Write anew with ``python -m ci.parallelism_tables``."""
    assert compositions(make_runtime()) in TEXT


def test_pairs_of_axes_run_through_the_certificate() -> None:
    axes = [name.strip("`").split("`")[0] for name in AXES if "2d" not in name]
    pairs = [{a, b} for place, a in enumerate(axes) for b in axes[place + 1 :]]
    tried = [set(name.split(" × ")) for name in FOUR]
    assert [pair for pair in pairs if pair not in tried] == []
    assert set(axes) <= set(TWO)


def test_every_name_that_is_understood_stands_in_the_table() -> None:
    assert names() in TEXT
    for name in alias_names():
        assert f"`{name.removeprefix('parallel.')}`" in TEXT, name


def test_the_plan_divides_a_dense_decoder_as_ours_does() -> None:
    (code,) = re.findall(r"```python\nplan = (.*?)```", TEXT, re.DOTALL)
    plan = eval(code, {"ShardPlan": ShardPlan, "Role": Role})
    with torch.device("meta"):
        model = Decoder(ModelConfig(num_layers=1, tie_embeddings=False), make_runtime().kernels)
    for name, _ in model.named_modules():
        assert plan.role(name) is DECODER.role(name), name
    for name, _ in model.named_parameters():
        assert plan.role_of_parameter(name) is DECODER.role_of_parameter(name), name


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(command: str) -> None:
    (start,) = [start for start in STARTS if command.startswith(start)]
    words = [word for word in shlex.split(command.removeprefix(start)) if not word.startswith("--")]
    load("pretrain", [word for word in words if "=" in word])


@pytest.mark.slow
def test_the_commands_run_in_order(tmp_path: Path) -> None:
    corpus = f"portable data source={PAGE.parent}/*.md tokenizer.vocab_size=512 output_dir=runs/corpus"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    for command in (corpus, *COMMANDS):
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, command + done.stdout + done.stderr
