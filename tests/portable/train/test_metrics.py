from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from portable.train.metrics import TensorBoardSink, Throughput


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_tensorboard_shows_what_is_known(tmp_path: Path):
    sink = TensorBoardSink(tmp_path / "board")
    sink.write(1, {"loss": 2.5, "mfu": None})
    sink.write(2, {"loss": 2.0, "mfu": None})
    sink.close()
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.5), (2, 2.0)]


def test_speed_is_tokens_over_time_since_the_last_reading():
    clock = Clock()
    speed = Throughput(clock=clock)
    clock.now += 2.0
    assert speed.read(100)["tokens_per_s"] == pytest.approx(50.0)
    clock.now += 1.0
    assert speed.read(100)["tokens_per_s"] == pytest.approx(100.0)


def test_the_time_before_the_start_does_not_count():
    clock = Clock()
    speed = Throughput(clock=clock)
    clock.now += 50.0
    speed.restart()
    clock.now += 1.0
    assert speed.read(100)["tokens_per_s"] == pytest.approx(100.0)


def test_pauses_do_not_count():
    clock = Clock()
    speed = Throughput(clock=clock)
    clock.now += 1.0
    speed.pause()
    clock.now += 50.0
    speed.go_on()
    speed.go_on()  # going on twice takes nothing off again
    clock.now += 1.0
    assert speed.read(100)["tokens_per_s"] == pytest.approx(50.0)


def test_mfu_is_over_the_peak_of_all_devices():
    clock = Clock()
    speed = Throughput(world_size=4, flops_per_token=6e9, peak_flops=3e14, clock=clock)
    clock.now += 1.0
    assert speed.read(100_000)["mfu"] == pytest.approx(0.5)


@pytest.mark.parametrize(("flops", "peak"), [(None, 1e12), (6e9, None)])
def test_without_both_figures_there_is_no_mfu(flops: float | None, peak: float | None):
    clock = Clock()
    speed = Throughput(flops_per_token=flops, peak_flops=peak, clock=clock)
    clock.now += 1.0
    assert speed.read(10)["mfu"] is None
