"""From a name, or ``auto``, to a backend."""

import logging
from functools import cache
from importlib.metadata import entry_points

from portable.core.errors import BackendUnavailable
from portable.core.registry import blame, load_target
from portable.device.backend import Backend, Level

logger = logging.getLogger(__name__)
GROUP = "portable.backends"


def backend_names() -> list[str]:
    """Return the names of all installed backends, ours and third parties'."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_backend(name: str) -> Backend:
    """Return the backend registered as ``name``.

    Raises: BackendUnavailable if no installed package registers it, or if that package cannot be loaded.
    """
    for point in entry_points(group=GROUP):
        if point.name == name:
            return _backend(name, point.value)
    known = ", ".join(backend_names()) or "none"
    raise BackendUnavailable(
        f"no installed package provides the backend '{name}'; installed backends: {known}"
    )


@cache
def _backend(name: str, target: str) -> Backend:
    """Return the process's one object of a backend: it keeps what ``configure`` told it."""
    with blame(f"the backend '{name}' cannot be loaded"):
        return load_target(target)()


def detect_backend() -> Backend:
    """Return the usable backend with the highest priority.

    Raises: BackendUnavailable if none is usable, with what each looked for and found.
    """
    reports: list[str] = []
    backends: list[Backend] = []
    for name in backend_names():
        try:
            backends.append(load_backend(name))
        except BackendUnavailable as error:  # somebody else's broken package must not keep us from what works
            reports.append(_passed_over(error))
    for backend in sorted(backends, key=lambda item: -item.priority):
        try:
            with blame(f"the backend '{backend.name}' cannot look for its hardware"):
                probe = backend.probe()
                findings = [] if probe.usable else backend.findings()
        except BackendUnavailable as error:
            reports.append(_passed_over(error))
            continue
        if probe.usable:
            return backend
        reports.append(f"{backend.name}: looked for {probe.looked_for}; found {probe.found}.")
        for finding in findings:  # hardware that is there and cannot be used is never passed over in silence
            if finding.level is Level.bad:
                words = backend.name, finding.subject, finding.text, finding.remedy
                logger.warning("%s is passed over: %s: %s. %s", *words)
    raise BackendUnavailable("hardware=auto found no usable device. " + " ".join(reports))


def _passed_over(error: BackendUnavailable) -> str:
    logger.warning("%s; see portable doctor", error)
    return f"{error}."


def detect_hardware() -> str:
    """Return the name of the ``conf/hardware`` file that describes this machine."""
    return detect_backend().probe().hardware
