"""NVIDIA GPUs, as ``portable`` finds them through the entry-point group ``portable.backends``."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backends.cuda.driver import DriverAnswer, ask_driver
from backends.torch_device.backend import TorchBackend, refuse_other_accelerator
from backends.torch_device.hardware_file import Chip, hardware_for, without_figures
from backends.torch_device.probing import existing, hides_all, load_library
from backends.torch_device.settings import NO_AUTOLOAD
from backends.torch_device.software import TorchBuild, read_torch_build
from backends.torch_device.version_findings import version_answers, version_findings
from portable.device.backend import Finding, Level, Probe

if TYPE_CHECKING:
    from backends.cuda.device import CudaDevice

_TABLES = Path(__file__).with_name("versions.yaml")
_LOOKED_FOR = "an NVIDIA driver (libcuda.so.1) with a visible GPU, and a CUDA build of torch that it can run"
_INSTALL_DRIVER = (
    "install the NVIDIA driver; in a container, start it with its GPUs (docker run --gpus all ...)"
)
_INSTALL_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/{}"
# How NVIDIA's own driver names its GPUs. Others put their chips behind torch.cuda under names of their own.
_OWN_NAMES = ("nvidia", "tesla", "quadro", "titan", "geforce", "grid")


@dataclass(frozen=True, slots=True)
class _Machine:
    """What was found, before anything is concluded."""

    nodes: tuple[str, ...]  # of the kernel's driver
    answer: DriverAnswer | None  # None where the library does not load
    complaint: str  # of the loader
    torch: TorchBuild | None
    visible: str | None

    def versions(self) -> dict[str, str | None]:
        """Return what the version tables speak of."""
        chips = self.answer.chips if self.answer else ()
        weakest = min((_number(chip.arch) for chip in chips), default=None)
        return {
            "torch": self.torch.version if self.torch else None,
            "cuda": (self.torch.cuda or None) if self.torch else None,
            "driver_cuda": self.answer.cuda_version if self.answer else None,
            "compute_capability": None if weakest is None else f"{weakest // 10}.{weakest % 10}",
            "python": platform.python_version(),
        }


class CudaBackend(TorchBackend):
    """Usable with a driver that answers, a GPU that is NVIDIA's, and a build of torch that fits both."""

    name = "cuda"
    priority = 50
    visible_devices = "CUDA_VISIBLE_DEVICES"
    transport = "nccl"

    def __init__(
        self, library: str = "libcuda.so.1", root: Path = Path("/"), torch_version_file: Path | None = None
    ) -> None:
        self._library = library
        self._root = root
        self._torch_version_file = torch_version_file

    def probe(self) -> Probe:
        """Ask the driver for its GPUs, and read what torch was built for."""
        machine = self._look()
        problem = _problem(machine)
        if problem is not None:
            return Probe(False, self.name, _LOOKED_FOR, problem.text, problem.remedy)
        chips = machine.answer.chips if machine.answer else ()
        found = f"{len(chips)} x {chips[0].name} ({chips[0].arch})"
        return Probe(True, hardware_for(self.name, chips[0]), _LOOKED_FOR, found)

    def environment(self, *, deterministic: bool = False) -> dict[str, str]:
        """Keep other plug-ins out and Ray from hiding GPUs; reproducible matmuls need room set aside."""
        from_ray = {
            "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"
        }  # a worker takes the GPU of its local rank
        return NO_AUTOLOAD | from_ray | ({"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if deterministic else {})

    def findings(self) -> list[Finding]:
        """Tell what keeps the GPUs from being used, and whether the versions go together."""
        machine = self._look()
        problem = _problem(machine)
        if problem is not None:
            return [problem]
        probe = self.probe()
        findings = [Finding(Level.good, "GPU", probe.found), *version_findings(_TABLES, machine.versions())]
        return findings + without_figures(self.name, probe.hardware)

    def new_device(self) -> CudaDevice:
        """Make the device. Raises: BackendUnavailable if torch drives another kind already."""
        refuse_other_accelerator("cuda")
        from backends.cuda.device import CudaDevice

        return CudaDevice()

    def _look(self) -> _Machine:
        library = load_library(self._library)
        return _Machine(
            nodes=tuple(existing(("/dev/nvidia[0-9]*", "/dev/dxg"), self._root)),
            answer=None if isinstance(library, str) else ask_driver(library),
            complaint=library if isinstance(library, str) else "",
            torch=read_torch_build(self._torch_version_file),
            visible=os.environ.get(self.visible_devices),
        )


def _problem(machine: _Machine) -> Finding | None:
    """Return what keeps the machine from being used. It is bad where there is a GPU, else no news."""
    answer = machine.answer
    if answer is None and not machine.nodes:
        return Finding(Level.note, "GPU", f"no NVIDIA driver ({machine.complaint})", _INSTALL_DRIVER)
    if answer is None:
        text = f"{machine.nodes[0]}, but the driver's library does not load ({machine.complaint})"
        return Finding(Level.bad, "driver", text, _INSTALL_DRIVER)
    if hides_all(machine.visible):
        text = f"an NVIDIA driver, but CUDA_VISIBLE_DEVICES='{machine.visible}' hides every GPU"
        return Finding(Level.bad, "GPU", text, "unset CUDA_VISIBLE_DEVICES, or name GPUs by it")
    if answer.error or not answer.chips:
        text = f"an NVIDIA driver for CUDA {answer.cuda_version}, but {answer.error or 'no GPU'}"
        level = Level.bad if machine.nodes else Level.note
        return Finding(level, "driver", text, "see what nvidia-smi says; " + _INSTALL_DRIVER)
    return _foreign(answer.chips[0]) or _torch_problem(machine, answer)


def _foreign(chip: Chip) -> Finding | None:
    if chip.name.lower().startswith(_OWN_NAMES):
        return None
    text = f"a chip that calls itself '{chip.name}' behind NVIDIA's interface; its abilities are not NVIDIA's"
    return Finding(Level.bad, "GPU", text, "install a package that provides a backend for it")


def _torch_problem(machine: _Machine, answer: DriverAnswer) -> Finding | None:
    chip = answer.chips[0]
    wheel = "cu130" if _major(answer.cuda_version) >= 13 and _number(chip.arch) >= 75 else "cu126"
    remedy = _INSTALL_TORCH.format(wheel)
    if machine.torch is None:
        return Finding(Level.bad, "torch", f"{chip.name}, but no torch is installed", remedy)
    if not machine.torch.cuda:
        text = f"{chip.name}, but torch {machine.torch.version} is a {machine.torch.kind} build"
        return Finding(Level.bad, "torch", text, remedy)
    for clash in version_answers(_TABLES, machine.versions())[0].clashes:
        needs = f"torch for {clash.because} needs {clash.name} {clash.wanted}"
        text = f"{chip.name}, but {needs}; found {clash.found}"
        return Finding(Level.bad, "driver", text, clash.remedy)
    return None


def _number(arch: str) -> int:
    return int(arch.removeprefix("sm_"))


def _major(version: str) -> int:
    return int(version.partition(".")[0])
