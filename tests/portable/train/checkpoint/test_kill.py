"""Some of the trials of ``tests/bench/kill_trials.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.kill_trials import run_trials


@pytest.mark.slow
def test_killed_runs_end_with_the_bits_of_one_that_was_left_alone(tmp_path: Path):
    trials = run_trials(tmp_path, 3, ranks=2, restart_ranks=2)
    assert all(trial.same_bits and trial.samples_right for trial in trials), trials


@pytest.mark.slow
def test_a_run_that_goes_on_with_twice_the_ranks_loses_no_sample(tmp_path: Path):
    (trial,) = run_trials(tmp_path, 1, ranks=2, restart_ranks=4)
    assert trial.samples_right, trial
    assert trial.difference <= 1e-5, trial
