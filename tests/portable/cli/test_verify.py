"""``portable verify kernels``."""

import json

import pytest

from portable.cli.main import main
from portable.cli.verify import run_verify
from portable.core.errors import BackendUnavailable, ConfigError
from portable.kernel.entry import KernelEntry

WRONG = KernelEntry(
    op="swiglu", name="wrong", backend="cpu", target="portable.kernel.reference.activation:geglu_erf"
)


@pytest.fixture
def _with_wrong_row(monkeypatch):
    from portable.kernel import registry

    before = registry.all_entries
    monkeypatch.setattr(registry, "all_entries", lambda backend="": [*before(backend), WRONG])


def test_rows_that_are_right_pass(capsys):
    assert main(["verify", "kernels", "--backend", "cpu", "--op", "swiglu", "--row", "reference"]) == 0
    row, end = capsys.readouterr().out.splitlines()
    assert row.split()[:4] == ["swiglu", "reference", "fp32", "1.00"]
    assert end == "1 rows on cpu: 1 passed, 0 failed"


@pytest.mark.usefixtures("_with_wrong_row")
def test_a_row_that_is_wrong_fails_the_command_and_is_told_in_full(capsys):
    assert run_verify(["kernels", "--backend", "cpu", "--row", "wrong", "--dtype", "fp32,bf16"]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out.splitlines()[0]
    assert "swiglu/plain in bf16, row wrong (portable.kernel.reference.activation:geglu_erf): output 0" in out
    assert run_verify(["kernels", "--backend", "cpu", "--row", "wrong", "--dtype", "fp32", "--json"]) == 1
    (record,) = json.loads(capsys.readouterr().out)
    assert not record["passed"]
    assert record["dtype"] == "fp32"


def test_the_table_goes_into_a_page(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    words = ["kernels", "--backend", "cpu", "--op", "geglu", "--dtype", "bf16", "--markdown", str(page)]
    assert run_verify(words) == 0
    assert run_verify(words) == 0
    text = page.read_text()
    assert text.count("| geglu__erf | reference | 1.00 |") == 1
    assert text.count("| geglu__tanh | reference | 1.00 |") == 1
    assert "### cpu: " in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rows"], "portable verify kernels, not 'rows'"),
        ([], "portable verify kernels"),
        (["kernels", "--fast"], "unrecognized arguments: --fast"),
        (["kernels", "--backend", "cpu", "--dtype", "bf61"], "Did you mean 'bf16'"),
        (["kernels", "--backend", "cpu", "--op", "swiglo"], "Did you mean 'swiglu'"),
        (["kernels", "--backend", "cpu", "--row", "referense"], "Did you mean 'reference'"),
        (["kernels", "--backend", "cpu", "--op", "muon_step", "--row", "sdpa"], "has no row 'sdpa' on cpu"),
    ],
)
def test_words_that_it_does_not_know(words: list[str], says: str):
    with pytest.raises(ConfigError, match=says):
        run_verify(words)


def test_a_backend_that_cannot_be_used_says_what_would_help():
    with pytest.raises(BackendUnavailable, match="the backend 'rocm' looked for"):
        run_verify(["kernels", "--backend", "rocm"])


def test_help(capsys):
    assert run_verify(["kernels", "--help"]) == 0
    assert "--markdown FILE" in capsys.readouterr().out
