"""The doctor on this machine, and on machines with plug-ins that are broken in every way."""

import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO

import pytest

from portable.cli.doctor import examine, run_doctor
from portable.core.errors import ConfigError
from tests.plugins import install

BACKENDS = """
import os
from backends.cpu.backend import CpuBackend
from portable.device.backend import Finding, Level, Probe


class Fine(CpuBackend):
    name, priority = "fine", 5


class Absent(CpuBackend):
    name = "absent"

    def probe(self):
        return Probe(False, "cpu", "an absent chip", "an empty slot", "Plug it in.")

    def findings(self):
        return [Finding(Level.bad, "slot", "the slot is empty, the driver is there", "open the case")]


class Crashing(CpuBackend):
    name = "crashing"

    def probe(self):
        os.abort()
"""


@pytest.fixture(scope="module")
def report():
    return examine()


def row_of(report, kind, name):
    (row,) = [row for row in report[kind] if row["name"] == name]
    return row


def doctor(site, *words):
    """Run the command on a machine where the packages in ``site`` are installed too."""
    path = os.pathsep.join([str(site), *sys.path])
    command = [sys.executable, "-m", "portable", "doctor", *words]
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "140"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_this_processor_is_usable(report) -> None:
    cpu = row_of(report, "backends", "cpu")
    assert cpu["state"] == "usable"
    assert cpu["provided_by"] == "portable-llm"
    assert cpu["capability"]["dtypes"]["matmul"]["fp32"] == "native"
    assert cpu["capability"]["engines"]["native"] == ""
    assert cpu["capability"]["engines"]["vllm"] != ""


def test_every_row_of_every_kernel_is_ranked_with_reasons(report) -> None:
    ranked = row_of(report, "backends", "cpu")["kernels"]
    assert ranked["fp32"]["token_log_probs"][0] == {"row": "native", "why_not": ""}
    assert {"row": "kept", "why_not": "the row takes fp32, not bf16"} in ranked["bf16"]["token_log_probs"]
    for ops in ranked.values():
        for rows in ops.values():
            assert [row["why_not"] == "" for row in rows] == [True] + [False] * (len(rows) - 1)


def test_every_hardware_file_is_judged_with_a_remedy(report) -> None:
    assert row_of(report, "hardware", "cpu")["fits"]
    away = row_of(report, "hardware", "ascend_910b")
    assert not away["usable"]
    assert away["remedy"]
    assert "davinci" in away["looked_for"]


def test_json_is_json(report, monkeypatch, capsys) -> None:
    monkeypatch.setattr("portable.cli.doctor.examine", lambda: report)  # an examination takes seconds
    code = run_doctor(["--json"])
    assert json.loads(capsys.readouterr().out) == report
    assert code == (1 if report["problems"] else 0)
    assert {"packages", "backends", "plugins", "hardware", "torch", "chosen", "problems"} == set(report)


def test_other_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="--jsn"):
        run_doctor(["--jsn"])


def test_text_is_for_people(tmp_path) -> None:
    text = doctor(tmp_path).stdout
    lines = text.splitlines()
    assert "backends usable here" in lines[0]
    assert "hardware=auto takes" in lines[0]
    assert "native, hf; not vllm: " in text
    assert "sdpa for attention" in text
    assert "hardware, this" in text
    assert "packages" in text


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """A machine on which everything is broken that can be; its report, its page and the exit codes."""
    site = tmp_path_factory.mktemp("site")
    backends = {"fine": "ward:Fine", "absent": "ward:Absent", "crashing": "ward:Crashing"}
    backends |= {"missing": "ward_gone:Backend", "exploding": "ward_exploding:Backend", "lost": "ward:Lost"}
    points = {
        "portable.backends": backends,
        "portable.engines": {"gone": "ward_gone:build"},
        "portable.conf": {"nowhere": "ward_conf.nowhere"},
    }
    files = {"ward.py": BACKENDS, "ward_exploding.py": "raise ZeroDivisionError('at import')\n"}
    install(site, "ward", points, files)
    install(site, "ward-again", {"portable.backends": {"fine": "ward:Absent"}}, {})
    install(site, "selfish", {"torch.backends": {"selfish": "selfish:load"}}, {"selfish.py": SELFISH})
    done = doctor(site, "--json")
    report = json.loads(done.stdout)
    with redirect_stdout(StringIO()) as page, pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "140")
        patch.setattr("portable.cli.doctor.examine", lambda: report)
        code = run_doctor([])
    return report, page.getvalue(), (done.returncode, code)


SELFISH = "def load():\n    raise OSError('libchip.so: cannot open shared object file')\n"


def test_the_exit_code_tells_of_trouble(ward) -> None:
    assert ward[2] == (1, 1)


def test_the_healthy_are_examined_beside_the_broken(ward) -> None:
    report, _, _ = ward
    assert report["chosen"] == "cpu"
    assert row_of(report, "backends", "fine")["state"] == "usable"
    assert row_of(report, "backends", "cpu")["state"] == "usable"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "No module named 'ward_gone'"),
        ("exploding", "ZeroDivisionError: at import"),
        ("lost", "has no attribute 'Lost'"),
        ("crashing", "signal 6"),
    ],
)
def test_a_broken_backend_is_a_finding(ward, name, reason) -> None:
    report, page, _ = ward
    row = row_of(report, "backends", name)
    assert row["state"] == "broken"
    assert reason in row["found"]
    assert "pip uninstall ward" in row["remedy"]
    assert f"portable.backends: {name}" in page


def test_other_broken_plugins_are_findings(ward) -> None:
    report, page, _ = ward
    assert {row["name"] for row in report["plugins"]} == {"gone", "nowhere", "fine"}
    assert "ward_gone" in row_of(report, "plugins", "gone")["found"]
    assert "ward_conf.nowhere" in row_of(report, "plugins", "nowhere")["found"]
    assert "portable.conf: nowhere" in page


def test_two_packages_with_one_name_are_a_finding(ward) -> None:
    report, page, _ = ward
    row = row_of(report, "plugins", "fine")
    assert {row["provided_by"], row["remedy"].split(", or ")[1]} == {"ward", "ward-again"}
    assert "which is found first" in page


def test_hardware_that_is_there_but_does_not_work_is_a_problem(ward) -> None:
    report, page, _ = ward
    assert row_of(report, "backends", "absent")["state"] == "unusable"
    (problem,) = [problem for problem in report["problems"] if problem["subject"] == "absent: slot"]
    assert problem["remedy"] == "open the case"
    assert "open the case" in page
    assert "an empty slot" in page
    assert "Plug it in." in page


def test_an_extension_that_breaks_torch_is_named(ward) -> None:
    report, page, _ = ward
    assert "selfish" in report["torch"]["text"]
    assert "libchip.so" in report["torch"]["text"]
    assert "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in page
