"""kill -9 at any moment, then the same command.

It finishes, and the weights are those of an uninterrupted run.
"""

import os
import random
import signal
import time

import pytest

from tests.chain.chain import run_recipe, start_recipe


@pytest.mark.slow  # many kills in all stages; the test below has one, in the stage that takes longest
def test_killed_again_and_again_the_results_are_equal(mini, tmp_path) -> None:
    whole_s = sum(stage["time_s"] for stage in mini.manifest["stages"])
    rng = random.Random(20)
    store, kills = tmp_path / "store", 0
    for attempt in range(5):
        process = start_recipe(tmp_path / f"run-{attempt}", store)
        # Long enough to import and do some work, short enough to fall into every stage over the attempts.
        time.sleep(4 + rng.uniform(0.05, 0.3) * whole_s)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    finished = run_recipe(tmp_path / "run", store)
    assert kills >= 2
    assert finished.digests == mini.digests


def test_killed_inside_training_it_continues_from_a_checkpoint(mini, tmp_path) -> None:
    store = tmp_path / "store"
    process = start_recipe(tmp_path / "first", store, "stages=[data,pretrain]")
    try:
        deadline = time.monotonic() + 300
        while not list(store.glob("pretrain-*/checkpoints/step-*")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "no checkpoint appeared"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finished = run_recipe(tmp_path / "run", store, "stages=[data,pretrain]")
    assert "data" in finished.reused
    assert finished.digests["pretrain"] == mini.digests["pretrain"]
    (log,) = store.glob("pretrain-*/metrics.jsonl")
    assert len(log.read_text().splitlines()) > 0
