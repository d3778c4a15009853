"""The stair: which package of ``portable`` may import which."""

from collections.abc import Iterator

from tests.architecture.tree import SourceFile, SourceTree, Violation

STAIR = (
    {"core"},
    {"config"},
    {"kernel", "collective", "device", "hardware", "lint"},
    {"parallel", "model", "launcher"},
    {"train", "engine", "data", "plan"},
    {"eval"},
    {"sft", "rl", "synth"},
    {"job"},
    {"trace"},  # runs a job up to a step and watches it, as a verb's page asks
    {"certificate"},  # runs a layout beside one process
    {"cli", "studio", "testing"},
)
STEP = {package: step for step, packages in enumerate(STAIR) for package in packages}

# Neighbours on one step do not know each other, except for these, each for a reason.
SIDEWAYS = {
    ("train", "data"): "the trainer draws its batches from a source",
    ("kernel", "device"): "rows are picked by device and dtype",
    ("device", "collective"): "a backend joins its processes into a group",
    ("device", "hardware"): "a backend is configured by a hardware file",
    ("collective", "device"): "a group emulates what the device's communicator lacks",
    ("parallel", "model"): "a strategy wraps what the model package builds",
}

# What a backend may know: the Protocols it implements, and the words they exchange.
OPEN_TO_BACKENDS = {
    "core",
    "config",
    "kernel",
    "collective",
    "device",
    "hardware",
    "parallel",
    "model",
    "engine",
    "launcher",
}


def imports_climb(tree: SourceTree) -> list[Violation]:
    """Find imports that go up the stair, or sideways without leave, and packages that have no step."""
    return [violation for file in tree.files("portable") for violation in _climbs(file)]


def _climbs(file: SourceFile) -> Iterator[Violation]:
    package = file.package or ("cli" if file.name.endswith("__main__.py") else "core")
    if package not in STEP:
        yield Violation(
            file.name, 1, f"package '{package}' has no step on the stair; give it one in layers.py"
        )
        return
    for node, module in file.imports():
        target = _package_of(module)
        if target is None or target == package:
            continue
        if target not in STEP:
            yield file.at(node, f"{module} is not a package of the stair")
        elif STEP[target] > STEP[package]:
            yield file.at(node, f"{package} must not import {target}, which stands higher")
        elif STEP[target] == STEP[package] and (package, target) not in SIDEWAYS:
            yield file.at(node, f"{package} must not import its neighbour {target}")


def _package_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "portable" or len(parts) < 2 or parts[1] in {"__version__", "__all__"}:
        return None
    return parts[1]


def portable_imports_backends(tree: SourceTree) -> list[Violation]:
    """Find imports of ``backends`` from ``portable``: backends are found by entry point."""
    return [
        file.at(node, "portable must not import backends; announce it by an entry point")
        for file in tree.files("portable")
        for node, module in file.imports()
        if module.split(".")[0] == "backends"
    ]


def backends_import_too_high(tree: SourceTree) -> list[Violation]:
    """Find backends that know more of ``portable`` than its Protocols."""
    return [
        file.at(
            node, f"a backend must not import portable.{package}; it implements Protocols and knows no stage"
        )
        for file in tree.files("backends")
        for node, module in file.imports()
        if (package := _package_of(module)) is not None and package not in OPEN_TO_BACKENDS
    ]
