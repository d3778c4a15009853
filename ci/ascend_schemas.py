"""Hold every call of torch_npu in ``backends/ascend`` against what a torch_npu wheel registers.

    python ci/ascend_schemas.py check                  against the shipped backends/ascend/schemas.txt
    python ci/ascend_schemas.py diff torch_npu-*.whl   what a newer wheel changes in what we use
    python ci/ascend_schemas.py write torch_npu-*.whl  ship what we use of this wheel

Operators are found by their schemas, which lie as text in the wheel's libraries; ``torch.npu`` functions by
their definitions in its Python files. Only what we use is shipped. No wheel needs to be installed.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "backends/ascend/schemas.txt"
# What the generic device asks of its module, it asks of torch.npu too.
GENERIC = ROOT / "backends/torch_device/device.py"
_LIBRARIES = re.compile(r"torch_npu/lib/\w+\.so")
_OPERATOR_PREFIXES = ("torch.ops.npu.", "torch_npu.")
_MODULE_PREFIXES = ("torch_npu.npu.", "torch.npu.", "self.module.")


@dataclass(frozen=True, slots=True)
class Use:
    """A place that names something of torch_npu: ``npu::x`` for an operator, ``torch.npu.x`` for the rest."""

    where: str
    name: str
    num_arguments: int | None = None  # positional ones; None where nothing is called
    keywords: tuple[str, ...] = ()


def our_files() -> list[Path]:
    """Return the files whose calls are checked."""
    folder = ROOT / "backends/ascend"
    return [*sorted(folder.glob("*.py")), *sorted(folder.glob("fused/*.py")), GENERIC]


def uses(path: Path) -> Iterator[Use]:
    """Yield what a file uses of torch_npu.

    Raises: ValueError for what would hide a call: an import of single names, or a starred argument.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch_npu":
            raise ValueError(f"{path.name}:{node.lineno} imports names of torch_npu; call them in full")
        if not isinstance(node, ast.Attribute) or id(node) in inside:
            continue
        name = _known_as(_dotted(node))
        if not name:
            continue
        where = f"{path.name}:{node.lineno}"
        call = called.get(id(node))
        if call is None:
            yield Use(where, name)
            continue
        if any(isinstance(argument, ast.Starred) for argument in call.args):
            raise ValueError(f"{where} stars an argument of {name}; nobody can check it")
        keywords = tuple(keyword.arg or "**" for keyword in call.keywords)
        yield Use(where, name, len(call.args), keywords)


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def _known_as(dotted: str) -> str:
    """Return the name that a wheel is searched for; "" for what is not torch_npu's."""
    for prefix in _MODULE_PREFIXES:
        if dotted.startswith(prefix):
            return "torch.npu." + dotted.removeprefix(prefix)
    for prefix in _OPERATOR_PREFIXES:
        if dotted.startswith(prefix):
            return "npu::" + dotted.removeprefix(prefix)
    return ""


def complaint(use: Use, shipped: Iterable[str]) -> str:
    """Return what is wrong with a use, or ""."""
    lines = [
        line for line in shipped if re.split(r"[.(]" if "::" in use.name else r"\(", line)[0] == use.name
    ]
    if not lines:
        return f"{use.where}: {use.name} is not in the wheel's list; write the list anew, if it exists"
    if use.num_arguments is None:
        return ""
    reasons = [_refusal(use, signature_of(line)) for line in lines]
    return "" if None in reasons else f"{use.where}: {use.name}: {reasons[0]}; it is {lines[0]}"


def _refusal(use: Use, signature: inspect.Signature) -> str | None:
    try:
        signature.bind(*range(use.num_arguments or 0), **dict.fromkeys(use.keywords))
    except TypeError as error:
        return str(error)
    return None


def signature_of(line: str) -> inspect.Signature:
    """Return the Python signature of a shipped line, a schema or a definition."""
    kinds = inspect.Parameter
    if "::" not in line:
        scope: dict[str, object] = {}
        parameters = line[line.index("(") :] if "(" in line else "()"
        exec(f"def f{parameters}: ...", scope)
        return inspect.signature(scope["f"])  # pyright: ignore[reportArgumentType]
    schema = torch._C.parse_schema(line)
    return inspect.Signature(
        [
            kinds(
                argument.name,
                kinds.KEYWORD_ONLY if argument.kwarg_only else kinds.POSITIONAL_OR_KEYWORD,
                default=None if argument.has_default_value() else kinds.empty,
            )
            for argument in schema.arguments
        ]
    )


def read_wheel(wheel: Path, names: set[str]) -> list[str]:
    """Return the wheel's lines for ``names``, sorted: schemas and definitions."""
    with zipfile.ZipFile(wheel) as archive:
        operators = {name.removeprefix("npu::") for name in names if name.startswith("npu::")}
        lines = {
            f"npu::{schema}"
            for member in archive.namelist()
            if _LIBRARIES.fullmatch(member)
            for schema in _schemas(archive.read(member), operators)
        }
        functions = {name.removeprefix("torch.npu.") for name in names if name.startswith("torch.npu.")}
        for member in archive.namelist():
            if re.fullmatch(r"torch_npu/npu/\w+\.py", member):
                lines |= set(_definitions(archive.read(member).decode(), functions))
    return sorted(lines)


def _schemas(library: bytes, operators: set[str]) -> Iterator[str]:
    """Yield the operators' schemas in a library. Prototypes in its documentation do not parse."""
    for found in library.split(b"\0"):
        if b") -> " not in found:
            continue
        text = found.decode(errors="replace").removeprefix("npu::")
        if re.split(r"[.(]", text)[0] not in operators:
            continue
        try:
            torch._C.parse_schema(f"npu::{text}")
        except RuntimeError:
            continue
        yield text


def _definitions(source: str, names: set[str]) -> Iterator[str]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name in names:
            yield f"torch.npu.{node.name}({_parameters(node, skip=0)})"
        if isinstance(node, ast.ClassDef):
            if node.name in names:
                yield f"torch.npu.{node.name}({_constructor(node)})"
            for setting in _settings(node, names):
                yield f"torch.npu.{setting}"


def _constructor(node: ast.ClassDef) -> str:
    makers = [
        item
        for item in node.body
        if isinstance(item, ast.FunctionDef) and item.name in ("__new__", "__init__")
    ]
    return _parameters(makers[0], skip=1) if makers else ""


def _parameters(function: ast.FunctionDef, *, skip: int) -> str:
    """Return the parameters without annotations, and without the first ``skip``; a default becomes None."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    first_default = len(positional) - len(arguments.defaults)
    parts = [
        argument.arg + ("=None" if index >= first_default else "")
        for index, argument in enumerate(positional)
        if index >= skip
    ]
    if arguments.vararg or arguments.kwonlyargs:
        parts.append(f"*{arguments.vararg.arg if arguments.vararg else ''}")
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parts.append(argument.arg + ("" if default is None else "=None"))
    if arguments.kwarg:
        parts.append(f"**{arguments.kwarg.arg}")
    return ", ".join(parts)


def _settings(node: ast.ClassDef, names: set[str]) -> Iterator[str]:
    """Yield settings such as ``config.x``: names that a class compares within its ``__setattr__``."""
    words = {item.value for item in ast.walk(node) if isinstance(item, ast.Constant)}
    setters = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    for name in names:
        group, _, setting = name.partition(".")
        if setting in words and "__setattr__" in setters and group.lower() in node.name.lower():
            yield name


def shipped_lines(path: Path = SHIPPED) -> list[str]:
    """Return the shipped list without its comments."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]


def main(arguments: list[str]) -> int:
    """Run a verb; returns the exit code."""
    match arguments:
        case ["check"]:
            complaints = [
                text
                for path in our_files()
                for use in uses(path)
                if (text := complaint(use, shipped_lines()))
            ]
            print("\n".join(complaints) or "every call fits")
            return int(bool(complaints))
        case ["diff", wheel]:
            new = read_wheel(Path(wheel), {use.name for path in our_files() for use in uses(path)})
            changes = list(unified_diff(shipped_lines(), new, SHIPPED.name, Path(wheel).name, "", "", 0, ""))
            print("\n".join(changes) or "nothing that we use has changed")
            return int(bool(changes))
        case ["write", wheel]:
            new = read_wheel(Path(wheel), {use.name for path in our_files() for use in uses(path)})
            head = [f"# What backends/ascend uses of {Path(wheel).name}; written by ci/ascend_schemas.py"]
            SHIPPED.write_text("\n".join([*head, *new]) + "\n", encoding="utf-8")
            return 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
