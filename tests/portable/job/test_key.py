import pytest

from portable.config.load import load
from portable.core.artefact import Artefact
from portable.core.errors import ConfigError
from portable.data.config import DataConfig
from portable.job.key import code_digest, references, resolve, stage_key
from portable.job.stage import stage_of
from portable.synth.config import SynthConfig


def artefact(tmp_path, digest: str) -> Artefact:
    return Artefact("corpus", tmp_path, digest, {})


@pytest.fixture
def job():
    return load("run", ["recipe=quickstart"])


def test_finds_references_at_any_depth(job) -> None:
    assert references(job.eval) == ["pretrain", "sft", "rl", "data", "synth"]
    assert references(job.data) == []


def test_resolve_puts_paths_and_leaves_the_config_alone(job, tmp_path) -> None:
    resolved = resolve(job.synth, {"data": artefact(tmp_path, "d")})
    assert resolved.data == str(tmp_path)
    assert isinstance(resolved, SynthConfig)
    assert job.synth.data == "@data"


def test_an_unknown_stage_is_named_with_its_neighbour(job, tmp_path) -> None:
    job.synth.data = "@dat"
    with pytest.raises(ConfigError, match="Did you mean 'data'"):
        resolve(job.synth, {"data": artefact(tmp_path, "d")})


def test_the_key_depends_on_settings_input_and_machine(job, tmp_path) -> None:
    stage, made = stage_of("pretrain"), {"data": artefact(tmp_path, "one")}
    first = stage_key(stage, job.pretrain, job, made)
    assert stage_key(stage, job.pretrain, job, made) == first
    assert stage_key(stage, job.pretrain, job, {"data": artefact(tmp_path, "two")}) != first
    job.precision.name = "other"
    assert stage_key(stage, job.pretrain, job, made) != first
    job.precision.name = "fp32"
    job.pretrain.seed += 1
    assert stage_key(stage, job.pretrain, job, made) != first


def test_the_key_does_not_depend_on_where_the_input_stands(job, tmp_path) -> None:
    stage = stage_of("pretrain")
    keys = {
        stage_key(stage, job.pretrain, job, {"data": artefact(tmp_path / name, "same")})
        for name in ("a", "b")
    }
    assert len(keys) == 1


def test_the_key_of_data_depends_on_the_files_read(job, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("one")
    job.data = DataConfig(source=str(tmp_path / "*.txt"))
    first = stage_key(stage_of("data"), job.data, job, {})
    (tmp_path / "a.txt").write_text("three")
    assert stage_key(stage_of("data"), job.data, job, {}) != first


def test_stages_that_need_no_machine_do_not_depend_on_it(job, tmp_path) -> None:
    made = {"data": artefact(tmp_path, "one")}
    first = stage_key(stage_of("synth"), job.synth, job, made)
    job.precision.name = "other"
    assert stage_key(stage_of("synth"), job.synth, job, made) == first


def test_code_of_other_packages_does_not_count() -> None:
    assert code_digest(("core",)) == code_digest(("core",))
    assert code_digest(("core",)) != code_digest(("core", "rl"))
