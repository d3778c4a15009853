"""The words after a verb."""

from __future__ import annotations

import os

import pytest

from portable.cli.words import WordParser, kernel_words, prepared_backend
from portable.core.errors import BackendUnavailable, ConfigError


def test_a_wrong_word_is_an_error_that_leads_to_the_help():
    parser = WordParser(prog="portable bench kernels", add_help=False)
    parser.add_argument("--size", choices=("small", "medium"))
    with pytest.raises(
        ConfigError, match=r"portable bench kernels: .*'tiny'.*see portable bench kernels --help"
    ):
        parser.parse_args(["--size", "tiny"])


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["kernels", "--json", "-h"]])
def test_help_is_asked_for_anywhere(words: list[str]):
    assert kernel_words("verify", words) is None


def test_the_rest_comes_back():
    assert kernel_words("verify", ["kernels", "--op", "swiglu"]) == ["--op", "swiglu"]


@pytest.mark.parametrize("words", [[], ["kernel"]])
def test_what_is_no_subject_is_told(words: list[str]):
    with pytest.raises(ConfigError, match=r"portable bench takes what to bench: portable bench kernels"):
        kernel_words("bench", words)


def test_a_backend_comes_with_its_variables():
    backend = prepared_backend("cpu")
    assert backend.name == "cpu"
    assert all(name in os.environ for name in backend.environment())
    assert prepared_backend("").probe().usable


def test_a_backend_that_is_not_installed_is_an_error():
    with pytest.raises((BackendUnavailable, ConfigError), match="cpq"):
        prepared_backend("cpq")
