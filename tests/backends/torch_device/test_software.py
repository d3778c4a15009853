import subprocess
import sys

from backends.torch_device import software
from backends.torch_device.software import (
    TorchBuild,
    engine_reasons,
    package_version,
    read_torch_build,
)


def test_builds_are_told_apart_without_importing_torch(tmp_path):
    file = tmp_path / "version.py"
    for text, build, kind in [
        (
            "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip = None",
            TorchBuild("2.13.0+cpu"),
            "CPU",
        ),
        (
            "__version__ = '2.13.0'\ncuda: Optional[str] = '13.0'",
            TorchBuild("2.13.0", cuda="13.0"),
            "CUDA 13.0",
        ),
        ("__version__ = '2.13.0'\nhip = '7.2.1-ab'", TorchBuild("2.13.0", hip="7.2.1-ab"), "ROCm 7.2.1-ab"),
    ]:
        file.write_text("from typing import Optional\n" + text)
        assert read_torch_build(file) == build
        assert build.kind == kind
    assert read_torch_build(tmp_path / "absent.py") is None


def test_this_build_is_read_as_torch_says_it():
    code = (
        "import sys; from backends.torch_device.software import read_torch_build; b = read_torch_build();"
        "early = 'torch' in sys.modules; import torch;"
        "sys.exit(early or b.version != torch.__version__ or b.cuda != (torch.version.cuda or ''))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_packages_are_found_by_distribution():
    assert package_version("torch")
    assert package_version("no-such-distribution") is None


def test_reasons(monkeypatch):
    monkeypatch.setattr(software, "has_package", lambda name: name == "vllm")
    reasons = engine_reasons({"vllm": ("vllm",), "lmdeploy": ("lmdeploy", "some_plugin")}, {"x": "never"})
    assert reasons["native"] == reasons["hf"] == reasons["vllm"] == ""
    assert reasons["lmdeploy"].endswith("pip install lmdeploy some-plugin")
    assert reasons["x"] == "never"
