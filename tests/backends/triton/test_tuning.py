"""The tables of tiles; Triton is not needed to read them."""

import ast
from pathlib import Path

import pytest
import torch
import yaml

from backends.triton import tuning
from backends.triton.tuning import Machine, TileConfig, machine_of
from portable.core.errors import CapabilityError
from portable.device.capability import TileLimits

FOLDER = Path(tuning.__file__).parent
TABLES = ("cuda", "rocm", "interpreter")
CPU = torch.device("cpu")


def table(name: str) -> dict[str, dict[str, dict[str, int]]]:
    return yaml.safe_load((FOLDER / "tuning" / f"{name}.yaml").read_text(encoding="utf-8"))


def ops_in_source() -> set[str]:
    """Return the ops that are looked up: first arguments of tile() and the like, and the defaults there."""
    found = {"row", "column"}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("tile", "_tile", "row_tile"):
                found |= {x.value for x in node.args if isinstance(x, ast.Constant) and x.value}
    return found - {"32_bits", "wide"}


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch):
    """Let the CPU's tensors be those of an arch."""

    def choose(arch: str, **limits: int) -> Machine:
        machine = machine_of("cuda" if arch.startswith("sm_") else "rocm", arch, 108)
        if limits:
            machine = Machine(machine.table, arch, TileLimits(**limits), 108)
        monkeypatch.setattr(tuning, "machine", lambda device: machine)
        return machine

    return choose


@pytest.mark.parametrize("name", TABLES)
def test_table_has_every_op_and_no_other(name: str):
    variants = {f"{op}_{variant}" for op in ops_in_source() for variant in ("32_bits", "wide")}
    assert set(table(name)["default"]) - variants == ops_in_source()


@pytest.mark.parametrize("name", TABLES)
def test_archs_of_a_table_are_known_and_change_what_the_default_has(name: str):
    content = table(name)
    for arch in content.keys() - {"default"}:
        assert machine_of(name, arch, 1).arch == arch
        for op, entry in content[arch].items():
            assert set(entry) <= {"m", "n", "k", "num_warps", "num_stages", "elements"}, (arch, op)
            assert op in content["default"]


@pytest.mark.parametrize("name", TABLES)
def test_sizes_are_powers_of_2(name: str):
    for entries in table(name).values():
        for op, entry in entries.items():
            for key, value in entry.items():
                assert key == "num_stages" or value & (value - 1) == 0, (op, key, value)


def test_arch_without_a_table_takes_the_default(on):
    on("sm_86")
    assert tuning.tile("decode", CPU) == TileConfig(**table("cuda")["default"]["decode"])


def test_arch_that_nobody_described_is_an_error():
    with pytest.raises(CapabilityError, match="sm_60"):
        machine_of("cuda", "sm_60", 1)


def test_arch_and_variant_change_the_default(on):
    on("sm_90")
    plain, wide = tuning.tile("attention_backward", CPU), tuning.tile("attention_backward", CPU, "wide")
    assert (plain.m, plain.num_stages) == (64, 2)
    assert (wide.m, wide.n, wide.num_stages) == (32, 64, 1)
    assert tuning.tile("attention_backward", CPU, "unknown") == plain


@pytest.mark.parametrize("on_chip_bytes", [2**18, 2**16, 2**15, 2**14])
def test_tile_is_made_smaller_until_it_fits(on, on_chip_bytes: int):
    on("sm_90", warp_size=32, on_chip_bytes=on_chip_bytes, max_grid=1)
    found = tuning.tile("attention_forward", CPU, bytes_per_element=2, shared_width=128)
    fits = (found.m + 2 * found.n * found.num_stages) * 128 * 2 <= on_chip_bytes
    assert fits or (found.m, found.n, found.num_stages) == (16, 16, 1)


def test_row_tile_covers_the_row(on):
    on("gfx942")
    for width in (0, 1, 5, 128, 4096, 5000, 32768):
        found = tuning.row_tile(width, CPU)
        assert found.n >= width
        assert found.n < 2 * max(width, 1)
        assert found.m >= 1
        assert 1 <= found.num_warps <= 16


def test_column_tile_is_no_wider_than_the_row(on):
    on("sm_90")
    assert tuning.column_tile(100, CPU).n == 128
    assert tuning.column_tile(10**6, CPU).n == table("cuda")["default"]["column"]["n"]
