import json

import pytest

from portable.cli.bench import run_bench
from portable.core.errors import ConfigError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("portable.kernel.bench.measure._SAMPLE_MS", 0.01)
    monkeypatch.setattr("portable.kernel.bench.roofline._COPY_BYTES", 2**12)
    monkeypatch.setattr("portable.kernel.bench.roofline._MATMUL_SIZE", 16)


def test_a_table_has_a_line_for_each_row(capsys):
    assert run_bench(["kernels", "--backend", "cpu", "--op", "moe_gate"]) == 0
    text = capsys.readouterr().out
    assert "| moe_gate__softmax | reference * | forward |" in text
    assert "| moe_gate__sigmoid | reference * | training |" in text


def test_json_holds_the_numbers_of_the_table(capsys):
    assert run_bench(["kernels", "--backend", "cpu", "--op", "rms_norm__add", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["copy_bytes_per_s"] > 0
    rows = {(row["row"], row["phase"]): row for row in record["rows"]}
    assert rows["reference", "training"]["ratio_to_reference"] == 1.0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["kernel"], "portable bench kernels, not 'kernel'"),
        (["kernels", "--size", "huge"], "invalid choice"),
        (["kernels", "--backend", "cpu", "--op", "rms_nrom"], "Did you mean 'rms_norm'"),
    ],
)
def test_words_it_does_not_know_are_explained(words, text):
    with pytest.raises(ConfigError, match=text):
        run_bench(words)
