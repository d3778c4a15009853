"""How programs are started; Triton is not needed for it."""

import pytest
import torch

from backends.triton import tuning
from backends.triton.launch import flat_rows, launch, num_programs
from backends.triton.tuning import machine_of


class Recorder:
    """Notes launches as a kernel of Triton would take them."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]):
        def start(*args: object, **meta: object) -> None:
            self.grids.append(grid)

        return start


def test_an_empty_grid_is_not_started():
    kernel, x = Recorder(), torch.ones(2)
    launch(kernel, (0, 3), x, x)
    launch(kernel, (2, 3), x, x, BLOCK=16)
    assert kernel.grids == [(2, 3)]


def test_programs_are_a_few_for_every_unit_and_no_more_than_the_work(monkeypatch: pytest.MonkeyPatch):
    machine = machine_of("cuda", "sm_90", 100)
    monkeypatch.setattr(tuning, "machine", lambda device: machine)
    device = torch.device("cpu")
    assert num_programs(7, device) == 7
    assert num_programs(10_000, device) == 400
    assert num_programs(0, device) == 0


@pytest.mark.parametrize(
    ("shape", "rows"), [((2, 3, 4), (6, 4)), ((4,), (1, 4)), ((0, 4), (0, 4)), ((3, 0), (0, 0))]
)
def test_rows_are_those_of_the_last_dim(shape: tuple[int, ...], rows: tuple[int, ...]):
    assert flat_rows(torch.ones(shape)).shape == rows


def test_rows_are_contiguous():
    rows = flat_rows(torch.ones(4, 6).T)
    assert rows.is_contiguous()
