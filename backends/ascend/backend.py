"""Ascend NPUs, as ``portable`` finds them through the entry-point group ``portable.backends``."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backends.ascend.capability import arch_of
from backends.ascend.driver import RuntimeAnswer, ask_runtime, read_cann_version
from backends.torch_device.backend import TorchBackend, refuse_other_accelerator
from backends.torch_device.hardware_file import Chip, hardware_for, without_figures
from backends.torch_device.probing import existing, hides_all, load_library
from backends.torch_device.settings import NO_AUTOLOAD
from backends.torch_device.software import TorchBuild, has_package, package_version, read_torch_build
from backends.torch_device.version_findings import version_answers, version_findings
from portable.core.errors import BackendUnavailable, CapabilityError
from portable.device.backend import Finding, Level, Probe

if TYPE_CHECKING:
    from backends.ascend.device import AscendDevice
    from portable.collective.protocol import Group

_TABLES = Path(__file__).with_name("versions.yaml")
_LOOKED_FOR = "CANN's runtime (libascendcl.so) with a visible NPU, and a torch_npu that fits torch"
_INSTALL = "install the Ascend driver and CANN: https://www.hiascend.com/cann"
_SET_UP = "source /usr/local/Ascend/ascend-toolkit/set_env.sh (or where CANN is), and start again"
_CPU_TORCH = "pip install torch=={} --index-url https://download.pytorch.org/whl/cpu"
_CONNECT_RANGE_S = (120, 7200)  # of HCCL_CONNECT_TIMEOUT; assumed, no document was at hand
_DETERMINISTIC = {
    "HCCL_DETERMINISTIC": "true",  # collectives; "strict" would ask for symmetric machines
    "LCCL_DETERMINISTIC": "1",  # the collectives inside fused operators
    "CLOSE_MATMUL_K_SHIFT": "1",  # matmuls otherwise start their sums at places that depend on the core
}


@dataclass(frozen=True, slots=True)
class _Machine:
    """What was found, before anything is concluded."""

    nodes: tuple[str, ...]  # of the kernel's driver
    answer: RuntimeAnswer | None  # None where the library does not load
    complaint: str  # of the loader
    torch: TorchBuild | None
    torch_npu: str | None
    cann: str | None
    visible: str | None

    def versions(self) -> dict[str, str | None]:
        """Return what the version tables speak of."""
        return {
            "torch_npu": self.torch_npu,
            "torch": self.torch.version if self.torch else None,
            "cann": self.cann,
            "python": platform.python_version(),
        }


class AscendBackend(TorchBackend):
    """Usable with a runtime that shows an NPU, and a torch_npu that fits torch. First in line: plug-ins like
    torch_npu can make torch's CUDA names answer, never the other way round."""

    name = "ascend"
    priority = 100
    visible_devices = "ASCEND_RT_VISIBLE_DEVICES"
    transport = "hccl"

    def __init__(
        self,
        library: str = "libascendcl.so",
        root: Path = Path("/"),
        torch_version_file: Path | None = None,
    ) -> None:
        self._library = library
        self._root = root
        self._torch_version_file = torch_version_file

    def probe(self) -> Probe:
        """Ask CANN's runtime for its devices, and read which torch and torch_npu are installed."""
        machine = self._look()
        problem = _problem(machine)
        if problem is not None or machine.answer is None:
            found, remedy = (problem.text, problem.remedy) if problem else ("nothing", _INSTALL)
            return Probe(False, self.name, _LOOKED_FOR, found, remedy)
        answer = machine.answer
        found = f"{answer.count} x {answer.soc_name}, torch_npu {machine.torch_npu}"
        hardware = hardware_for(self.name, Chip(arch_of(answer.soc_name)))
        return Probe(True, hardware, _LOOKED_FOR, found)

    def environment(self, *, deterministic: bool = False) -> dict[str, str]:
        """Keep torch from loading torch_npu before its faults can be explained, and Ray from hiding NPUs."""
        ray = {f"RAY_EXPERIMENTAL_NOSET_{self.visible_devices}": "1"}
        return NO_AUTOLOAD | ray | (_DETERMINISTIC if deterministic else {})

    def findings(self) -> list[Finding]:
        """Tell what keeps the NPUs from being used, and whether the versions go together."""
        machine = self._look()
        problem = _problem(machine)
        if problem is not None:
            return [problem]
        probe = self.probe()
        findings = [Finding(Level.good, "NPU", probe.found), *version_findings(_TABLES, machine.versions())]
        return findings + without_figures(self.name, probe.hardware)

    def new_device(self) -> AscendDevice:
        """Import torch_npu and make the device.

        Raises: BackendUnavailable if torch drives another kind already, or torch_npu cannot be imported.
        """
        refuse_other_accelerator("npu")
        try:
            from backends.ascend.device import AscendDevice
        except (ImportError, OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise BackendUnavailable(
                f"torch_npu is installed but cannot be imported: {reason}. Often CANN's settings are "
                f"missing: {_SET_UP}"
            ) from error
        return AscendDevice()

    def group(self, timeout_s: float, *, check_calls: bool = True) -> Group:
        """Join this process to its peers. HCCL reads how long it may wait once, from the environment, and a
        limit that is set there already counts."""
        for variable, value in hccl_limits(timeout_s).items():
            os.environ.setdefault(variable, value)
        return super().group(timeout_s, check_calls=check_calls)

    def _look(self) -> _Machine:
        library = load_library(self._library)
        home = os.environ.get("ASCEND_HOME_PATH")
        return _Machine(
            nodes=tuple(existing(("/dev/davinci[0-9]*",), self._root)),
            answer=None if isinstance(library, str) else ask_runtime(library),
            complaint=library if isinstance(library, str) else "",
            torch=read_torch_build(self._torch_version_file),
            torch_npu=package_version("torch_npu") if has_package("torch_npu") else None,
            cann=read_cann_version(Path(home) if home else None),
            visible=os.environ.get(self.visible_devices),
        )


def hccl_limits(timeout_s: float) -> dict[str, str]:
    """Return the variables, in whole seconds, that keep HCCL from waiting longer than a group may.

    torch's own ``timeout`` does not reach HCCL, which waits half an hour for a peer in a collective. Two
    minutes is the shortest that it takes for making a communicator.
    """
    from portable.collective.watch import patience_s

    limit_s = max(1, int(patience_s(timeout_s)))
    connect_s = min(max(limit_s, _CONNECT_RANGE_S[0]), _CONNECT_RANGE_S[1])
    return {"HCCL_EXEC_TIMEOUT": str(limit_s), "HCCL_CONNECT_TIMEOUT": str(connect_s)}


def _problem(machine: _Machine) -> Finding | None:
    """Return what keeps the machine from being used. It is bad where there is an NPU, else no news."""
    answer = machine.answer
    if answer is None and not machine.nodes:
        return Finding(Level.note, "NPU", f"no CANN ({machine.complaint}) and no /dev/davinci*", _INSTALL)
    if answer is None:
        text = f"{machine.nodes[0]}, but CANN's runtime does not load ({machine.complaint})"
        return Finding(Level.bad, "CANN", text, _SET_UP)
    if hides_all(machine.visible):
        text = f"CANN, but ASCEND_RT_VISIBLE_DEVICES='{machine.visible}' hides every NPU"
        return Finding(Level.bad, "NPU", text, "unset ASCEND_RT_VISIBLE_DEVICES, or name NPUs by it")
    if answer.error or not answer.count:
        level = Level.bad if machine.nodes else Level.note
        return Finding(level, "NPU", f"CANN, but {answer.error or 'no NPU'}", "see what npu-smi info says")
    return _unknown_chip(answer) or _torch_problem(machine, answer)


def _unknown_chip(answer: RuntimeAnswer) -> Finding | None:
    try:
        arch_of(answer.soc_name)
    except CapabilityError as error:
        return Finding(Level.bad, "NPU", str(error), "add it, or ask us to")
    return None


def _torch_problem(machine: _Machine, answer: RuntimeAnswer) -> Finding | None:
    chip = answer.soc_name
    if machine.torch_npu is None or machine.torch is None:
        missing = "torch_npu" if machine.torch else "torch"
        text = f"{chip}, but {missing} is not installed"
        return Finding(Level.bad, missing, text, "pip install 'portable-llm[ascend]'")
    if machine.torch.cuda or machine.torch.hip:
        text = (
            f"{chip}, but torch {machine.torch.version} is a {machine.torch.kind} build: torch drives one "
            "kind of accelerator a process, and torch_npu refuses to be the second"
        )
        return Finding(Level.bad, "torch", text, _CPU_TORCH.format(machine.torch.version.partition("+")[0]))
    for clash in version_answers(_TABLES, machine.versions())[0].clashes:
        if clash.certain and clash.name == "torch":
            text = f"{chip}, but {clash.because} goes with torch {clash.wanted}; found {clash.found}"
            return Finding(Level.bad, "torch_npu", text, clash.remedy)
    return None
