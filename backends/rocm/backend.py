"""AMD GPUs, as ``portable`` finds them through the entry-point group ``portable.backends``."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from backends.rocm.driver import AMD, KernelAnswer, ask_kernel
from backends.torch_device.backend import TorchBackend, refuse_other_accelerator
from backends.torch_device.hardware_file import hardware_for, without_figures
from backends.torch_device.probing import hides_all
from backends.torch_device.settings import NO_AUTOLOAD
from backends.torch_device.software import TorchBuild, read_torch_build
from backends.torch_device.version_findings import version_findings
from portable.device.backend import Finding, Level, Probe

if TYPE_CHECKING:
    from backends.rocm.device import RocmDevice

_TABLES = Path(__file__).with_name("versions.yaml")
_LOOKED_FOR = "AMD's kernel driver (/dev/kfd) with a visible GPU, and a ROCm build of torch"
_INSTALL_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/rocm7.2"
_INSTALL_DRIVER = (
    "install the amdgpu driver; in a container, start it with --device=/dev/kfd --device=/dev/dri"
)
_HIP, _ROCR = "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"


class RocmBackend(TorchBackend):
    """Usable with a GPU that the kernel shows and lets us open, and a ROCm build of torch."""

    name = "rocm"
    priority = 60  # torch's CUDA names lead here too; the kernel tells the two apart
    visible_devices = _HIP
    transport = "nccl"  # torch's name for RCCL

    def __init__(self, root: Path = Path("/"), torch_version_file: Path | None = None) -> None:
        self._root = root
        self._torch_version_file = torch_version_file

    def probe(self) -> Probe:
        """Read the kernel's list of GPUs, and what torch was built for."""
        answer = ask_kernel(self._root)
        problem = _problem(answer, read_torch_build(self._torch_version_file))
        if problem is not None:
            return Probe(False, self.name, _LOOKED_FOR, problem.text, problem.remedy)
        chip = answer.chips[0]
        found = f"{len(answer.chips)} x {chip.name or 'AMD GPU'} ({chip.arch})"
        return Probe(True, hardware_for(self.name, chip), _LOOKED_FOR, found)

    def environment(self, *, deterministic: bool = False) -> dict[str, str]:
        """Keep other plug-ins out, and Ray from hiding GPUs by a second variable.

        Ray sets ROCR_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES by its version; with both set, GPUs are counted
        twice over and a worker may be left without any.
        """
        ray = {f"RAY_EXPERIMENTAL_NOSET_{name}": "1" for name in (_HIP, _ROCR)}
        return NO_AUTOLOAD | ray

    def findings(self) -> list[Finding]:
        """Tell what keeps the GPUs from being used, and whether the versions go together."""
        build = read_torch_build(self._torch_version_file)
        problem = _problem(ask_kernel(self._root), build)
        if problem is not None:
            return [problem]
        probe = self.probe()
        found = {
            "torch": build.version if build else None,
            "rocm": ".".join(build.hip.split(".")[:2]) if build else None,  # the rest counts builds
            "python": platform.python_version(),
        }
        findings = [Finding(Level.good, "GPU", probe.found), *version_findings(_TABLES, found)]
        return findings + without_figures(self.name, probe.hardware)

    def new_device(self) -> RocmDevice:
        """Make the device. Raises: BackendUnavailable if torch drives another kind already."""
        refuse_other_accelerator("cuda")
        from backends.rocm.device import RocmDevice

        return RocmDevice()


def _problem(answer: KernelAnswer, build: TorchBuild | None) -> Finding | None:
    """Return what keeps the machine from being used. It is bad where there is a GPU, else no news."""
    if not answer.has_device:
        return Finding(Level.note, "GPU", "no /dev/kfd", _INSTALL_DRIVER)
    if not answer.chips:
        return Finding(Level.note, "GPU", "/dev/kfd, but the kernel shows no GPU", _INSTALL_DRIVER)
    chip = answer.chips[0].name or answer.chips[0].arch
    if answer.vendor != AMD:
        text = f"a GPU of PCI vendor {answer.vendor:#x} behind AMD's interface; its abilities are not AMD's"
        return Finding(Level.bad, "GPU", text, "install a package that provides a backend for it")
    if not answer.may_open:
        remedy = "sudo usermod -aG render,video $USER, then log in again"
        return Finding(Level.bad, "driver", f"{chip}, but this user may not open /dev/kfd", remedy)
    return _visibility_problem(chip) or _torch_problem(chip, build)


def _visibility_problem(chip: str) -> Finding | None:
    hip, rocr = os.environ.get(_HIP), os.environ.get(_ROCR)
    if hip is not None and rocr is not None:
        text = (
            f"{chip}, but both {_HIP}='{hip}' and {_ROCR}='{rocr}' are set; the first counts among what the "
            "second leaves, so together they may hide every GPU"
        )
        return Finding(Level.bad, "GPU", text, f"unset {_ROCR}, and name GPUs by {_HIP} alone")
    for name, value in ((_HIP, hip), (_ROCR, rocr)):
        if hides_all(value):
            text = f"{chip}, but {name}='{value}' hides every GPU"
            return Finding(Level.bad, "GPU", text, f"unset {name}, or name GPUs by it")
    return None


def _torch_problem(chip: str, build: TorchBuild | None) -> Finding | None:
    if build is None:
        return Finding(Level.bad, "torch", f"{chip}, but no torch is installed", _INSTALL_TORCH)
    if not build.hip:
        text = f"{chip}, but torch {build.version} is a {build.kind} build"
        return Finding(Level.bad, "torch", text, _INSTALL_TORCH)
    return None
