"""Every rule is shown a tree with a planted violation, which it must see, and one without, to be silent."""

from pathlib import Path

import pytest

from tests.architecture import rules
from tests.architecture.start import heavy_after_help, outside_standard_library
from tests.architecture.tree import SourceTree

INNOCENT = '''"""Triton and cuda may be named in a docstring."""

# So may ascend in a comment.


def relationship_of(champs: str, *, chipset: int = 0) -> str:
    """Say nothing of npu here."""
    return champs.lower().get("cfg", chipset)
'''


def plant(root: Path, files: dict[str, str]) -> SourceTree:
    """Write ``files`` below ``root``."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return SourceTree(root)


PLANTED = {
    # name of the case: (rule, file, text)
    "import goes up": ("imports_climb", "portable/core/a.py", "from portable.train import trainer\n"),
    "import goes up lazily": (
        "imports_climb",
        "portable/model/a.py",
        "def f() -> None:\n    import portable.sft.run\n",
    ),
    "import goes up by text": (
        "imports_climb",
        "portable/model/a.py",
        "import importlib\nimportlib.import_module('portable.job.run')\n",
    ),
    "import goes up relatively": ("imports_climb", "portable/model/a.py", "from ..sft import run\n"),
    "import goes up for types": (
        "imports_climb",
        "portable/engine/a.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from portable.rl.loop import Loop\n",
    ),
    "import goes up from the package": (
        "imports_climb",
        "portable/kernel/a.py",
        "from portable import job\n",
    ),
    "import goes sideways": (
        "imports_climb",
        "portable/engine/a.py",
        "from portable.train.config import TrainConfig\n",
    ),
    "import goes sideways backwards": (
        "imports_climb",
        "portable/data/a.py",
        "import portable.train.trainer\n",
    ),
    "package without a step": ("imports_climb", "portable/cellar/a.py", "x = 1\n"),
    "portable imports a backend": (
        "portable_imports_backends",
        "portable/device/a.py",
        "import backends.cpu\n",
    ),
    "backend imports a stage": (
        "backends_import_too_high",
        "backends/cpu/a.py",
        "from portable.sft import run\n",
    ),
    "vendor identifier": ("vendor_words", "portable/model/a.py", "use_cuda = True\n"),
    "vendor class": ("vendor_words", "portable/model/a.py", "class NPUDevice:\n    pass\n"),
    "vendor function": (
        "vendor_words",
        "portable/model/a.py",
        "def isRocmThere() -> bool:\n    return True\n",
    ),
    "vendor attribute": ("vendor_words", "portable/model/a.py", "def f(x: object) -> None:\n    x.cuda()\n"),
    "vendor argument": ("vendor_words", "portable/model/a.py", "def f(mps: int) -> None:\n    pass\n"),
    "vendor keyword": ("vendor_words", "portable/model/a.py", "x = dict(xpu=1)\n"),
    "vendor string": ("vendor_words", "portable/model/a.py", "x = 'cuda:0'\n"),
    "vendor in an f-string": ("vendor_words", "portable/model/a.py", "n = 0\nx = f'npu:{n}'\n"),
    "vendor import": ("vendor_words", "portable/model/a.py", "import torch_npu\n"),
    "vendor communicator": ("vendor_words", "portable/model/a.py", "x = ('nccl', 'gloo')\n"),
    "vendor file": ("vendor_words", "portable/model/triton_norm.py", "x = 1\n"),
    "torch.accelerator": (
        "vendor_words",
        "portable/model/a.py",
        "import torch\nn = torch.accelerator.device_count()\n",
    ),
    "torch.accelerator imported": ("vendor_words", "portable/model/a.py", "from torch import accelerator\n"),
    "file too long": ("long_files", "portable/model/a.py", "x = 1\n" * 601),
    "function too long": ("long_functions", "portable/model/a.py", "def f() -> None:\n" + "    x = 1\n" * 80),
    "files long on average": ("mean_file_size", "portable/model/a.py", "x = 1\n" * 500),
    "config.get": (
        "config_digging",
        "portable/model/a.py",
        "def f(cfg: dict) -> int:\n    return cfg.get('x', 1)\n",
    ),
    "self.config.get": (
        "config_digging",
        "portable/model/a.py",
        "def f(self) -> int:\n    return self.train_config.get('x')\n",
    ),
    "getattr(config)": (
        "config_digging",
        "portable/model/a.py",
        "def f(config: object) -> int:\n    return getattr(config, 'x', 1)\n",
    ),
    "except everything": (
        "broad_excepts",
        "portable/model/a.py",
        "try:\n    x = 1\nexcept Exception:\n    pass\n",
    ),
    "bare except": ("broad_excepts", "backends/cpu/a.py", "try:\n    x = 1\nexcept:\n    pass\n"),
    "except everything, and raise only sometimes": (
        "broad_excepts",
        "portable/model/a.py",
        "try:\n    x = 1\nexcept Exception as error:\n    if str(error):\n        raise OSError from error\n",
    ),
    "except in a tuple": (
        "broad_excepts",
        "portable/model/a.py",
        "try:\n    x = 1\nexcept (ValueError, BaseException):\n    pass\n",
    ),
    "assert": ("asserts", "portable/data/a.py", "def f(x: int) -> None:\n    assert x > 0\n"),
    "assert in a folder that only sounds like tests": (
        "asserts",
        "backends/testing/a.py",
        "def f(x: int) -> None:\n    assert x > 0\n",
    ),
    "import of tests": (
        "imports_climb",
        "portable/device/a.py",
        "from portable.testing import process\n",
    ),
    "print": ("prints", "portable/train/a.py", "print('loss')\n"),
    "utils": ("nameless_modules", "portable/train/utils.py", "x = 1\n"),
    "common folder": ("nameless_modules", "portable/train/common/loss.py", "x = 1\n"),
    "no argument type": ("missing_annotations", "portable/model/a.py", "def f(x) -> None:\n    pass\n"),
    "no result type": ("missing_annotations", "portable/model/a.py", "def f(x: int):\n    pass\n"),
    "no type of **extra": (
        "missing_annotations",
        "portable/model/a.py",
        "def f(**extra) -> None:\n    pass\n",
    ),
    "no type in a method": (
        "missing_annotations",
        "portable/model/a.py",
        "class A:\n    def f(self, x) -> None:\n        pass\n",
    ),
    "torch.load": ("unsafe_torch_load", "portable/train/a.py", "import torch\nx = torch.load('x')\n"),
    "torch.load, flag off": (
        "unsafe_torch_load",
        "backends/cpu/a.py",
        "import torch\nx = torch.load('x', weights_only=False)\n",
    ),
    "load from torch": ("unsafe_torch_load", "portable/train/a.py", "from torch import load\n"),
    "conf file too long": ("long_conf_files", "conf/model/a.yaml", "x: 1\n" * 40),
    "conf file too long at the top": ("long_conf_files", "conf/a.yaml", "x: 1\n" * 40),
    "too few tests": ("too_few_tests", "portable/model/a.py", "x = 1\n" * 10),
}


@pytest.mark.parametrize("case", PLANTED)
def test_planted_violation_is_caught(case: str, tmp_path: Path):
    rule, name, text = PLANTED[case]
    tree = plant(tmp_path, {"portable/__init__.py": "", name: text})
    found = rules.RULES[rule](tree)
    assert len(found) >= 1
    assert all(
        name.startswith(violation.path) or violation.path in {"portable", "tests"} for violation in found
    )
    assert all(":" in str(violation) for violation in found)


def test_each_rule_has_a_planted_violation():
    assert {rule for rule, _, _ in PLANTED.values()} == set(rules.RULES)


@pytest.mark.parametrize("name", rules.RULES)
def test_innocent_tree_is_left_alone(name: str, tmp_path: Path):
    tree = plant(
        tmp_path,
        {
            "portable/__init__.py": '__version__ = "1"\n',
            "portable/model/a.py": INNOCENT,
            "portable/testing/a.py": "def test_a(x: int) -> None:\n    assert x\n",
            "portable/train/a.py": "from portable import __version__\nfrom portable.data import source\n",
            "portable/cli/main.py": "import torch\nprint(torch.load('x', weights_only=True))\n",
            "backends/cuda/device.py": "from portable.core import errors\nname = 'cuda'\n",
            "conf/model/a.yaml": "x: 1\n" * 39,
            "tests/test_a.py": "x = 1\n" * 15,
        },
    )
    assert rules.RULES[name](tree) == []


def test_function_of_the_longest_allowed_size_passes(tmp_path: Path):
    body = "def f() -> None:\n" + "    x = 1\n" * 79
    tree = plant(tmp_path, {"portable/model/a.py": body, "portable/model/b.py": "x = 1\n" * 600})
    assert rules.long_functions(tree) == []
    assert rules.long_files(tree) == []


def test_package_with_a_foreign_import_is_caught(tmp_path: Path):
    plant(tmp_path, {"portable/__init__.py": "import json\nimport yaml\n"})
    assert "yaml" in outside_standard_library(tmp_path, tmp_path / "modules.json")


def test_package_with_standard_imports_passes(tmp_path: Path):
    plant(tmp_path, {"portable/__init__.py": "import json, decimal\n"})
    assert outside_standard_library(tmp_path, tmp_path / "modules.json") == set()


def test_help_that_loads_a_heavy_library_is_caught(tmp_path: Path):
    files = {"portable/__init__.py": "", "portable/cli/__init__.py": ""}
    plant(
        tmp_path, {**files, "portable/cli/main.py": "import numpy\n\ndef main():\n    raise SystemExit(0)\n"}
    )
    assert heavy_after_help(tmp_path, tmp_path / "modules.json") == {"numpy"}


def test_help_that_fails_is_not_taken_for_a_light_one(tmp_path: Path):
    plant(tmp_path, {"portable/__init__.py": ""})
    with pytest.raises(RuntimeError, match="ModuleNotFoundError"):
        heavy_after_help(tmp_path, tmp_path / "modules.json")
