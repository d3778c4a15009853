"""What is right agrees, what is wrong is found: one of each, on two ranks. ``test_fault`` has all."""

from __future__ import annotations

from pathlib import Path

from portable.testing.process import run_processes


def test_a_right_layout_agrees_and_a_planted_fault_is_found(tmp_path: Path) -> None:
    first, other = run_processes("tests.portable.certificate.case_certify:both", 2, tmp_path)
    assert first == other
    assert first["right"] == {"agrees": True, "compared": [True] * 6, "departure": None}
    assert not first["wrong"]["agrees"]
    assert first["wrong"]["departure"] == ["blocks.0.input_norm.weight", "gradient of the parameter"]
