"""Counting, and samples that do not depend on order."""

import random

from portable.core.record import Document
from portable.data.clean.funnel import FunnelStep, StepCount


def test_counts_add_up():
    count = StepCount(2, 1, 20, 10, 0.5)
    count.add(StepCount(3, 3, 30, 31, 0.25))
    assert count == StepCount(5, 4, 50, 41, 0.75)


def test_drops_are_counted_by_reason():
    step = FunnelStep("length", "filter", 5)
    for number, reason in enumerate(["too_short", "too_long", "too_short"]):
        step.drop(Document("text", str(number)), reason)
    row = step.to_json()
    assert row["dropped"] == {"too_long": 1, "too_short": 2}
    assert sorted(sample["reason"] for sample in row["samples"]) == ["too_long", "too_short", "too_short"]


def test_samples_are_the_same_in_any_order_and_few():
    documents = [Document(f"text {number}", f"id {number}") for number in range(50)]
    rows = []
    for seed in range(3):
        random.Random(seed).shuffle(documents)
        step = FunnelStep("length", "filter", 4)
        for document in documents:
            step.drop(document, "too_short")
        rows.append(step.to_json()["samples"])
    assert len(rows[0]) == 4
    assert rows[0] == rows[1] == rows[2]


def test_samples_are_spread_and_cut():
    step = FunnelStep("length", "filter", 10)
    for number in range(1000):
        step.drop(Document("x" * 5000, f"{number:04d}"), "too_long")
    samples = step.to_json()["samples"]
    assert max(int(sample["id"]) for sample in samples) > 300
    assert all(len(sample["text"]) == 400 for sample in samples)


def test_no_samples_can_be_asked_for():
    step = FunnelStep("length", "filter", 0)
    step.drop(Document("text", "a"), "too_short")
    assert step.to_json()["samples"] == []


def test_the_row_has_the_fields_of_the_report():
    step = FunnelStep("read", "read", 1, StepCount(3, 2, 30, 20, 1.23456))
    assert step.to_json() == {
        "op": "read",
        "kind": "read",
        "documents_in": 3,
        "documents_out": 2,
        "bytes_in": 30,
        "bytes_out": 20,
        "time_s": 1.235,
        "dropped": {},
        "samples": [],
    }
