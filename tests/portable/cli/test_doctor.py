import json

import pytest

from portable.cli.doctor import examine, run_doctor
from portable.core.errors import ConfigError


@pytest.fixture(scope="module")
def findings():
    return examine()


def test_this_processor_is_usable(findings) -> None:
    (cpu,) = [row for row in findings["backends"] if row["name"] == "cpu"]
    assert cpu["usable"]
    assert cpu["matmul_dtypes"]["fp32"] == "native"
    assert cpu["engines"]["native"] == ""
    assert cpu["engines"]["vllm"] != ""


def test_every_hardware_file_is_judged_with_a_remedy(findings) -> None:
    rows = {row["name"]: row for row in findings["hardware"]}
    assert rows["cpu"]["usable"]
    assert not rows["ascend_910b"]["usable"]
    assert rows["ascend_910b"]["remedy"].startswith("install ")
    assert "davinci" in rows["ascend_910b"]["looked_for"]


def test_json_is_json(capsys) -> None:
    assert run_doctor(["--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"packages", "backends", "hardware"}


def test_text_is_for_people(capsys) -> None:
    assert run_doctor([]) == 0
    text = capsys.readouterr().out
    assert "cores" in text
    assert "engine native: usable" in text


def test_other_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="--jsn"):
        run_doctor(["--jsn"])
