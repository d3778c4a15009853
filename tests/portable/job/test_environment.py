from portable.core.storage import read_json
from portable.job.environment import describe_device, git_revision, package_versions, record_environment


def test_records_revision_versions_and_machine(tmp_path) -> None:
    content = record_environment(tmp_path, "cpu", "portable run")
    assert read_json(tmp_path / "environment.json") == content
    assert content["command"] == "portable run"
    assert content["device"]["num_cores"] >= 1
    assert content["versions"]["torch"].startswith("2.13")


def test_the_revision_is_a_commit_or_nothing() -> None:
    revision = git_revision()
    assert revision is None or len(revision.rstrip("+")) == 12


def test_a_backend_that_is_not_here_is_only_named() -> None:
    assert describe_device("no_such") == {"name": "no_such"}


def test_versions_of_packages_that_are_not_installed_are_left_out() -> None:
    assert set(package_versions()) >= {"python", "torch", "numpy"}
