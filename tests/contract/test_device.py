"""What every registered backend that is usable here must do. Registering a backend brings these tests."""

import pytest
import torch

from portable.device.protocol import Dtype, Feature, Support
from portable.device.select import backend_names, load_backend

USABLE = [name for name in backend_names() if load_backend(name).probe().usable]


@pytest.fixture(params=USABLE)
def backend(request):
    return load_backend(request.param)


@pytest.fixture
def device(backend):
    return backend.device()


def test_some_backend_is_usable():
    assert "cpu" in USABLE


def test_backend_and_device_bear_the_registered_name(backend, device):
    assert backend.name == device.name
    assert isinstance(backend.priority, int)
    assert device.torch_device().type == device.torch_type


def test_info_describes_the_device(device):
    info = device.info()
    assert info.name
    assert info.vendor == device.vendor
    assert info.arch == device.arch
    assert info.num_cores >= 1
    assert info.total_bytes == device.memory().total_bytes
    assert device.count() >= 1


def test_memory_figures_fit_together(device):
    device.reset_peak_memory()
    memory = device.memory()
    assert 0 <= memory.free_bytes <= memory.total_bytes
    assert 0 <= memory.used_bytes <= memory.total_bytes
    kept = torch.ones(32 * 2**18, device=device.torch_device())  # 32 MiB
    device.synchronize()
    after = device.memory()
    assert after.used_bytes - memory.used_bytes > 16 * 2**20
    assert after.peak_bytes is None or after.peak_bytes >= kept.nbytes


def test_capability_covers_what_configs_may_name(device):
    capability = device.capability()
    assert set(capability.matmul_dtypes) == {dtype.name for dtype in Dtype}
    assert set(capability.strategies) >= {"single", "ddp", "fsdp"}
    assert set(capability.engines) >= {"native", "hf", "vllm", "lmdeploy"}
    assert capability.strategies["single"] == capability.engines["native"] == ""
    assert set(capability.reduce_ops) >= {"sum", "max"}
    assert capability.communicator
    for feature in Feature:
        assert device.supports(feature) == capability.supports(feature)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_offered_formats_multiply(device, dtype):
    if device.capability().matmul_dtypes[dtype.name] is Support.none:
        with pytest.raises((RuntimeError, NotImplementedError)):
            torch.ones(2, 2, device=device.torch_device(), dtype=dtype.torch()).mm(torch.ones(2, 2))
        return
    ones = torch.ones(4, 4, device=device.torch_device(), dtype=dtype.torch())
    assert torch.equal((ones @ ones).float().cpu(), torch.full((4, 4), 4.0))


@pytest.mark.parametrize("dtype", list(Dtype))
def test_autocast_sets_the_matmul_format_inside_the_block_only(device, dtype):
    ones = torch.ones(4, 4, device=device.torch_device())
    with device.autocast(dtype):
        assert (ones @ ones).dtype == dtype.torch()
    assert (ones @ ones).dtype == torch.float32


def test_random_streams_are_seeded_saved_and_restored(device):
    def draw():
        return torch.rand(4, device=device.torch_device())

    device.seed(1)
    first = draw()
    device.seed(1)
    assert torch.equal(draw(), first)
    state = device.rng_state()
    second = draw()
    assert not torch.equal(second, first)
    device.set_rng_state(state)
    assert torch.equal(draw(), second)


def test_generators_stand_alone(device):
    state = device.rng_state()
    values = [
        torch.rand(4, device=device.torch_device(), generator=device.generator(seed)) for seed in (3, 3, 4)
    ]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    device.seed(0)
    device.set_rng_state(state)


def test_compile_returns_something_callable(device):
    assert callable(device.compile(lambda x: x + 1))


def test_group_of_one_process(backend, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    group = backend.group(10.0)
    assert (group.rank, group.size) == (0, 1)
    assert torch.equal(group.all_reduce(torch.ones(2)), torch.ones(2))
    group.close()
