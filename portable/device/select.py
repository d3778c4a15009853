"""From a name, or ``auto``, to a backend."""

from importlib.metadata import entry_points

from portable.core.errors import BackendUnavailable
from portable.core.registry import load_target
from portable.device.protocol import Backend

GROUP = "portable.backends"


def backend_names() -> list[str]:
    """Return the names of all installed backends, ours and third parties'."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_backend(name: str) -> Backend:
    """Return the backend registered as ``name``.

    Raises: BackendUnavailable if no installed package registers it.
    """
    for point in entry_points(group=GROUP):
        if point.name == name:
            return load_target(point.value)()
    known = ", ".join(backend_names()) or "none"
    raise BackendUnavailable(
        f"no installed package provides the backend '{name}'; installed backends: {known}"
    )


def detect_backend() -> Backend:
    """Return the usable backend with the highest priority.

    Raises: BackendUnavailable if none is usable, with what each looked for and found.
    """
    reports: list[str] = []
    for backend in sorted(map(load_backend, backend_names()), key=lambda item: -item.priority):
        probe = backend.probe()
        if probe.usable:
            return backend
        reports.append(f"{backend.name}: looked for {probe.looked_for}; found {probe.found}")
    raise BackendUnavailable("hardware=auto found no usable device. " + " ".join(reports))


def detect_hardware() -> str:
    """Return the name of the ``conf/hardware`` file that describes this machine."""
    return detect_backend().probe().hardware
