from pathlib import Path

import pytest

from portable.testing.process import run_processes

X, W, Y = 24 * 8, 16 * 8, 24 * 16  # values of x, W and x W^T in case_tile
GRID, CUBE = 2, 2


@pytest.mark.parametrize(
    ("mode", "depth", "size"),
    [
        ("2d", 1, 4),
        pytest.param("2.5d", 1, 4, marks=pytest.mark.slow),
        pytest.param("2.5d", 2, 8, marks=pytest.mark.slow),
        pytest.param("3d", 1, 8, marks=pytest.mark.slow),
    ],
)
def test_a_tiled_model_computes_what_the_whole_one_does(
    mode: str, depth: int, size: int, tmp_path: Path
) -> None:
    target = "tests.portable.parallel.tensor.case_tile:run"
    for report in run_processes(target, size, tmp_path, mode, str(depth), str(size), timeout_s=600):
        assert report.pop("volume") == expected_volume(mode, depth)
        for case, distances in report.items():
            worst = {name: distance for name, distance in distances.items() if distance > 1e-5}
            assert not worst, (case, worst)
            assert distances["log_probs"] < 5e-6, case


def expected_volume(mode: str, depth: int) -> dict[str, int]:
    """Return what the papers' algorithms move per rank, in values.

    SUMMA (arXiv:2104.05343, table 1): each of q steps brings a block, 1 / q², of x and of W; the gradients of
    x and W take as much each, a reduction in the place of one broadcast. With a depth (arXiv:2105.14500) a
    rank has 1 / depth of the tokens. Cube (arXiv:2105.14450): of a block, 1 / l², all but 1 / l travels for
    x, W and the product; backward, for the product's gradient, and for those of x and W.
    """
    if mode == "3d":
        once = (X + W + Y) * (CUBE - 1) // CUBE**3
        return {"forward": once, "both": 2 * once}
    once = (X // depth + W) // GRID
    return {"forward": once, "both": 3 * once}
