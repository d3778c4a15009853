"""Sizes and times as people read them."""

import pytest

from portable.core.text import format_bytes, format_count, format_seconds, parse_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3.4 * 2**30, "3.4 GiB"),
        (5 * 2**50, "5120.0 TiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_format_bytes(count: float, text: str):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1K"),
        (1234, "1.23K"),
        (3_400_000, "3.4M"),
        (7e9, "7B"),
        (2.5e12, "2500B"),
    ],
)
def test_format_count(count: float, text: str):
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7320, "2 h 02 min"),
    ],
)
def test_format_seconds(seconds: float, text: str):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2GiB", 2 << 30),
        ("512 MB", 512 * 10**6),
        ("1.5gib", 3 << 29),
        ("4096", 4096),
        ("3 b", 3),
        ("1TiB", 1 << 40),
        ("two", None),
        ("-1GiB", None),
        ("1 GiBs", None),
    ],
)
def test_parse_bytes(text: str, count: int | None):
    assert parse_bytes(text) == count
