from pathlib import Path

import pytest

from portable.config.load import load
from portable.core.errors import BackendUnavailable, ConfigError, StorageError
from portable.core.storage import read_json
from portable.job.run import run_job


@pytest.fixture
def texts(tmp_path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for index in range(60):
        (folder / f"{index}.txt").write_text(
            f"Document number {index} tells how the part called p{index} is mounted, in plain words.\n"
            f"It is long enough to be kept, and it differs from the others in its number {index * 7919}.\n"
            * 2
        )
    return folder


def data_job(texts: Path, *overrides: str):
    ops = [
        "ops={}",
        "tokenizer.vocab_size=280",
        "dedup.minhash=false",
        "num_workers=1",
        "heldout_fraction=0.2",
    ]
    return load("data", ["hardware=cpu", f"source={texts}", *ops, *overrides])


def test_a_stage_leaves_its_artefact_and_the_circumstances(texts, tmp_path) -> None:
    out = tmp_path / "out"
    assert run_job("data", data_job(texts), "a: 1\n", out, command="portable data") == out
    for name in ("artefact.json", "config.yaml", "environment.json", "run.log", "tokenizer/tokenizer.json"):
        assert (out / name).is_file(), name
    assert read_json(out / "environment.json")["command"] == "portable data"


def test_the_same_folder_continues_the_same_settings_only(texts, tmp_path) -> None:
    out = tmp_path / "mine"
    job = data_job(texts, f"output_dir={out}")
    assert run_job("data", job, "a: 1\n", tmp_path / "unused") == out
    digest = read_json(out / "artefact.json")["digest"]
    run_job("data", job, "a: 1\n", tmp_path / "unused")
    assert read_json(out / "artefact.json")["digest"] == digest
    with pytest.raises(ConfigError, match="other settings"):
        run_job("data", job, "a: 2\n", tmp_path / "unused")


def test_another_layout_continues_and_is_told(texts, tmp_path, caplog) -> None:
    out = tmp_path / "out"
    run_job("data", data_job(texts), "strategy: {name: ddp}\n", out)
    with caplog.at_level("INFO"):
        run_job("data", data_job(texts), "strategy: {name: fsdp}\n", out)
    assert "with other strategy.name" in caplog.text
    assert "fsdp" in (out / "config.yaml").read_text()


def test_a_dry_run_leaves_nothing(texts, tmp_path) -> None:
    out = tmp_path / "out"
    assert run_job("data", data_job(texts, "dry_run=true"), "", out) is None
    assert not out.exists()


def test_hardware_that_is_not_here_is_refused_before_anything_is_written(texts, tmp_path) -> None:
    out = tmp_path / "out"
    job = load("data", ["hardware=rocm_mi300x", f"source={texts}"])
    with pytest.raises(BackendUnavailable, match="rocm_mi300x"):
        run_job("data", job, "", out)
    assert not out.exists()


def test_an_output_folder_that_cannot_be_written_is_named(texts) -> None:
    with pytest.raises(StorageError, match="output_dir"):
        run_job("data", data_job(texts, "output_dir=/proc/portable"), "", Path("unused"))
