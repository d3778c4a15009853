"""The positions of a row split among programs, and their parts joined."""

import pytest
import torch

from portable.kernel.reference import decode as reference

pytestmark = pytest.mark.triton_interpreter


@pytest.mark.parametrize("splits", [1, 2, 3, 7])
@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize("window", [None, 20])
def test_parts_are_joined(
    splits: int, sink: bool, window: int | None, device: torch.device, monkeypatch: pytest.MonkeyPatch
):
    from backends.triton import decode

    monkeypatch.setattr(decode, "_num_splits", lambda *_: splits)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(shape, generator=generator) for shape in ((4, 4, 16), *((4, 50, 2, 16),) * 2))
    # A row without positions, one of a single one, one that some parts do not reach, and a whole one.
    lengths = torch.tensor([0, 1, 17, 50])
    rest = {"window": window, "sink_N": torch.randn(4, generator=generator) if sink else None}
    wanted = reference.decode_attention(q, k, v, lengths, **rest)
    on_device = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in rest.items()}
    found = decode.decode_attention(*(x.to(device) for x in (q, k, v, lengths)), **on_device)
    torch.testing.assert_close(found.cpu(), wanted, rtol=1e-5, atol=1e-6)


def test_splits_fill_the_units_and_leave_no_part_too_short(device: torch.device):
    from backends.triton import decode, tuning

    units = tuning.machine(device).num_units
    assert decode._num_splits(4 * units, 10**6, device) == 1
    assert decode._num_splits(1, 10**6, device) == 2 * units
    assert decode._num_splits(1, 512, device) == 2
    assert decode._num_splits(1, 100, device) == 1
