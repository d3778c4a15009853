import subprocess
import sys

import pytest

from portable.cli.main import main


def test_help_names_every_verb(capsys) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in (
        "run",
        "data",
        "pretrain",
        "synth",
        "sft",
        "rl",
        "eval",
        "export",
        "serve",
        "chat",
        "doctor",
    ):
        assert f"\n  {verb} " in text


def test_no_words_at_all_print_the_help(capsys) -> None:
    assert main([]) == 0
    assert "usage: portable" in capsys.readouterr().out


def test_a_wrong_verb_is_a_user_error_with_its_neighbour(capsys) -> None:
    assert main(["pretrian"]) == 2
    assert "Did you mean 'pretrain'" in capsys.readouterr().err


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("portable 0.")


def run(*words: str, cwd) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "portable", *words], capture_output=True, text=True, cwd=cwd, timeout=120
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sft", "model_path=m", "data=d", "learning_rat=3"], "no setting 'learning_rat'"),
        (["sft", "hardware=cuda_h100"], "hardware=cuda_h100 cannot be used"),
        (["data", "source=/no/such/*.txt"], "matches no file"),
        (["pretrain", "steps=3"], "needs 'data', which has no default"),
        (["run", "recipe=quikstart"], "Did you mean 'quickstart'"),
    ],
)
def test_mistakes_end_with_code_2_one_paragraph_and_no_traceback(words, said, tmp_path) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path) -> None:
    done = run("data", "source=/no/such/*.txt", "--debug", cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_cfg_job_prints_what_would_be_chosen_elsewhere(tmp_path) -> None:
    done = run("sft", "--cfg", "job", "hardware=ascend_910b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for piece in ("name: fsdp", "name: vllm", "name: bf16", "npu_fusion"):
        assert piece in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_prints_the_choice(tmp_path) -> None:
    done = run("sft", "hardware=rocm_mi250x", "dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rocm_mi250x" in done.stdout + done.stderr
    assert "fsdp" in done.stdout + done.stderr
