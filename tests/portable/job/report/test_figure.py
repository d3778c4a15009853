"""Figures: what each draws from a stage's numbers, and that it draws nothing when there is nothing."""

from typing import Any

import pytest

from portable.job.report import figure

ROWS: list[dict[str, float | None]] = [
    {"step": 1, "loss": 8.0},
    {"step": 2, "loss": 6.0, "heldout_bits_per_byte": 4.0},
    {"step": 3, "loss": None},
    {"step": 4, "loss": 5.0, "heldout_bits_per_byte": 3.0},
]
SUMMARY = {"unigram_bits_per_byte": 4.7, "xz_bits_per_byte": 2.2}


def test_column_takes_known_values_only():
    assert figure.column(ROWS, "loss") == [(1, 8.0), (2, 6.0), (4, 5.0)]
    assert figure.column(ROWS, "mfu") == []


def test_loss_is_drawn_raw_and_smoothed():
    chart = figure.loss_chart(ROWS, "sft")
    assert chart.count("<path") == 2
    assert "tone-sft faint" in chart
    assert "optimiser step" in chart


def test_bits_stand_beside_both_baselines():
    chart = figure.bits_chart(ROWS, SUMMARY)
    assert "byte counts 4.70" in chart
    assert "xz -9 2.20" in chart
    assert "model 3.00" in chart
    assert chart.count('class="level"') == 2
    assert figure.bits_chart(ROWS, {}).count('class="level"') == 0


def test_one_measurement_stands_beside_both_baselines_too():
    rows = figure.bits_rows({**SUMMARY, "bits_per_byte": 3.1})
    assert [(row["model"], row["value"]) for row in rows] == [
        ("byte counts", "4.700"),
        ("xz -9", "2.200"),
        ("model", "3.100"),
    ]
    assert 'cx="62%"' in rows[2]["track"]
    assert figure.bits_rows({}) == []


@pytest.mark.parametrize("rows", [[], ROWS[:1]])
def test_too_little_to_draw_is_nothing(rows: list[dict[str, float | None]]):
    assert figure.loss_chart(rows, "base") == ""
    assert figure.bits_chart(rows, SUMMARY) == ""


def test_every_seed_has_its_named_curve():
    seeds = [{"seed": n, "reward": [0.1, 0.2, 0.4], "kl": [None, 0.1, 0.2]} for n in (0, 1, 7)]
    chart = figure.reward_chart(seeds)
    assert chart.count("<path") == 6
    assert all(f">seed {n}<" in chart for n in (0, 1, 7))
    assert figure.kl_chart(seeds).count("<path") == 3


def test_unmeasured_kl_is_no_figure():
    assert figure.kl_chart([{"seed": 0, "kl": [None, None]}, {"seed": 1}]) == ""


def task(*scores: tuple[float, float | None, float | None]) -> dict[str, Any]:
    names = ("base", "sft", "mine")
    return {
        "scores": {
            name: {"value": value, "low": low, "high": high, "count": 1200}
            for name, (value, low, high) in zip(names, scores, strict=False)
        }
    }


def test_shares_are_always_shown_from_nought_to_one():
    scale = figure.task_scale(task((0.1, 0.05, 0.2)))
    assert (scale.low, scale.high) == (0, 1)


def test_other_scores_begin_at_nought_and_end_where_needed():
    scale = figure.task_scale(task((2.1, 2.0, 2.2), (2.6, 2.4, 2.7)))
    assert scale.low == 0
    assert 2.7 <= scale.high <= 3


def test_rows_carry_number_interval_and_count():
    rows = figure.task_rows(task((0.1, 0.05, 0.2), (0.5, None, None), (0.9, 0.8, 1.0)))
    assert [row["model"] for row in rows] == ["base", "sft", "mine"]
    assert rows[0]["value"] == "0.100"
    assert rows[0]["bounds"] == "0.050 – 0.200"
    assert rows[1]["bounds"] == ""
    assert rows[2]["count"] == 1200
    assert "tone-sft" in rows[1]["track"]
    assert "tone-rl" in rows[2]["track"]


def test_known_models_keep_their_colour_wherever_they_stand():
    assert figure.tone_of("rl", 0) == "tone-rl"
    assert figure.tone_of("first", 0) == "tone-base"
    assert figure.tone_of("tenth", 9) == "tone-other"


def test_one_leap_of_the_divergence_does_not_flatten_the_rest():
    seeds = [{"seed": 0, "kl": [0.5] * 39 + [400.0]}]
    drawn = str(figure.kl_chart(seeds))
    assert "400" not in drawn
    assert "1.0" in drawn
