"""Random numbers of the devices."""

import torch


def draw(**options):
    return torch.rand(4, device="sim", **options)


def test_a_seed_repeats_and_a_state_resumes():
    torch.sim.manual_seed(1)
    first, second = draw(), draw()
    assert not torch.equal(first, second)
    torch.sim.manual_seed(1)
    assert torch.equal(draw(), first)
    state = torch.sim.get_rng_state()
    assert state.shape == (16,)
    assert state.device.type == "cpu"
    assert torch.equal(draw(), second)
    torch.sim.set_rng_state(state)
    assert torch.equal(draw(), second)


def test_host_and_device_do_not_share_a_stream():
    torch.manual_seed(1)
    host = torch.rand(4)
    torch.manual_seed(1)
    device = draw()
    assert torch.equal(torch.rand(4), host)  # the device's draw took nothing from the host's
    assert not torch.equal(device.cpu(), host)
    torch.manual_seed(1)  # seeds every device, too
    assert torch.equal(draw(), device)


def test_each_device_has_a_stream():
    torch.sim.manual_seed_all(3)
    torch.rand(4, device="sim:0")
    state = torch.sim.get_rng_state_all()
    assert not torch.equal(state[0], state[1])
    torch.sim.set_rng_state_all(reversed(state))
    assert torch.equal(torch.sim.get_rng_state(0), state[1])


def test_generators_stand_alone():
    generator = torch.Generator(device="sim").manual_seed(5)
    assert generator.device.type == "sim"
    state = torch.sim.get_rng_state()
    first = draw(generator=generator)
    assert torch.equal(torch.sim.get_rng_state(), state)
    copy = torch.Generator(device="sim")
    copy.set_state(generator.get_state())
    assert torch.equal(draw(generator=copy), draw(generator=generator))
    assert torch.equal(draw(generator=generator.manual_seed(5)), first)


def test_dropout_draws_from_the_device():
    host = torch.get_rng_state()
    torch.sim.manual_seed(2)
    first = torch.nn.functional.dropout(torch.ones(64, device="sim"), 0.5)
    assert 0 < first.count_nonzero().item() < 64
    torch.sim.manual_seed(2)
    assert torch.equal(torch.nn.functional.dropout(torch.ones(64, device="sim"), 0.5), first)
    assert torch.equal(torch.get_rng_state(), host)


def test_fork_rng_restores_the_device():
    state = torch.sim.get_rng_state()
    with torch.random.fork_rng(devices=[0], device_type="sim"):
        draw()
    assert torch.equal(torch.sim.get_rng_state(), state)


def test_distributions_look_right():
    values = torch.randn(10_000, device="sim")
    assert abs(values.mean().item()) < 0.05
    assert abs(values.std().item() - 1) < 0.05
    assert sorted(torch.randperm(10, device="sim").tolist()) == list(range(10))
