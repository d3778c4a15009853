"""How the backend introduces itself, without torch."""

from backends.sim.backend import SimBackend


def test_it_is_never_chosen_by_itself():
    assert SimBackend().priority < 0


def test_without_a_compiler_it_is_not_usable(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    probe = SimBackend().probe()
    assert not probe.usable
    assert "apt install g++" in probe.remedy
    (finding,) = SimBackend().findings()
    assert finding.level.name == "bad"


def test_a_compiler_is_all_it_needs(monkeypatch, tmp_path):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho g++ 99\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PORTABLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    probe = SimBackend().probe()
    assert probe.usable
    assert probe.found == str(compiler)
    assert "compiled" in probe.first_use


def test_a_compiler_that_does_not_run_is_none(monkeypatch, tmp_path):
    (tmp_path / "g++").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    probe = SimBackend().probe()
    assert not probe.usable
    assert "does not run" in probe.found
    assert "apt install g++" in probe.remedy


def test_a_subclass_is_another_chip():
    class OtherBackend(SimBackend):
        name = "other"
        transport = "otherccl"

    capability = OtherBackend().own_capability()
    assert (capability.arch, capability.communicator) == ("other", "otherccl")
