"""Tables that cannot be run, and what is said of them."""

from __future__ import annotations

import pytest

from portable.core.errors import ConfigError
from portable.parallel.pipeline.schedule.action import Action, parse_actions
from portable.parallel.pipeline.schedule.table import Table, make_table, timeline


def rows(*lines: str) -> list[list[Action]]:
    return [[action for word in line.split() for action in parse_actions(word) or ()] for line in lines]


def table(*lines: str) -> Table:
    return make_table("here", rows(*lines))


def test_a_table_knows_its_stages_and_micro_batches() -> None:
    made = table("0F0 0F1 0B0 0B1", "1F0 1I0 1W0 1F1 1B1")
    assert (made.stage_rank, made.num_micro_batches, made.splits_backward) == ((0, 1), 2, True)


def test_the_timeline_waits_for_what_is_needed() -> None:
    spans = timeline(table("0F0 0B0", "1F0 1B0"), lambda action: 2.0, transfer=0.5)
    assert {str(span.action): (span.start, span.end) for span in spans} == {
        "0F0": (0.0, 2.0),
        "1F0": (2.5, 4.5),
        "1B0": (4.5, 6.5),
        "0B0": (7.0, 9.0),
    }


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("0F0 0B0", ""), "row 1 has no action"),
        (("0F0 0B0", "0F1 1F0 1B0"), "row 1 has 0F1, but stage 0 is on row 0"),
        (("0F0 0B0", "2F0 2B0"), "stage 1 does nothing"),
        (("0F0 0F0 0B0", "1F0 1B0"), "row 0 has 0F0 twice"),
        (("0F0 0B0", "1F0 1B0 1F1 1B1"), "row 0 lacks 0F1"),
        (("0F0 0B0", "1F0"), "row 1 lacks 1I0 and 1W0, or 1B0"),
        (("0F0 0B0", "1F0 1I0"), "row 1 lacks 1W0; add it"),
        (("0F0 0B0", "1F0 1I0 1B0 1W0"), "row 1 has 1B0 and 1I0, which give the same gradient"),
        (("0B0 0F0", "1F0 1B0"), r"row 0 stops before action 0 \(0B0\), which needs 0F0 of row 0"),
        (
            ("0F1 0F0 0B0 0B1", "1F0 1B0 1F1 1B1 "),
            None,
        ),
        (
            ("0F0 0B0 0F1 0B1", "1F1 1F0 1B0 1B1"),
            r"row 0 stops before action 1 \(0B0\), which needs 1B0 or its half 1I0 of row 1; "
            r"row 1 stops before action 0 \(1F1\), which needs 0F1 of row 0",
        ),
    ],
)
def test_what_cannot_be_run_is_named(lines: tuple[str, ...], told: str | None) -> None:
    if told is None:  # out of order, but nobody waits for ever
        assert table(*lines)
        return
    with pytest.raises(ConfigError, match=told):
        table(*lines)


def test_an_action_beyond_the_last_micro_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="row 0 has 0F1, but there are 1 micro-batches"):
        make_table("here", rows("0F0 0B0 0F1 0B1"), num_micro_batches=1)
