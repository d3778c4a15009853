"""What can be mended, by the name under which the rules' files ask for it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping

from portable.lint.finding import Edit, Fix
from portable.lint.fix.device import NAME, device_at, scope_of
from portable.lint.module import Module
from portable.lint.source import Source
from portable.lint.value import last_name

Fixer = Callable[[Module, Source, ast.AST], Fix | None]
_MODELS = ("model", "module", "network", "net")
_OPEN = re.compile(r"[ \t]*\(")


def _move_to_device(module: Module, source: Source, node: ast.AST) -> Fix | None:
    """``x.kind()`` → ``x.to(device)``. Safe where ``device`` is certainly of that kind, without an index."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.args:
        return None
    device = device_at(module, node)
    edits = _rename_and_insert(source, node, node.func.attr, "to", NAME)
    if device is None or edits is None:
        return None
    return Fix(edits, safe=device.kind == node.func.attr)


def _name_device(module: Module, source: Source, node: ast.AST) -> Fix | None:
    """``x.to("kind")`` → ``x.to(device)``, also ``device="kind"``. Safe where ``device`` is the same.

    A function that is not torch's may want a text: there ``device`` must be one.
    """
    parent = module.parents.get(node)
    call = module.parents.get(parent) if isinstance(parent, ast.keyword) else parent
    if not isinstance(node, ast.Constant) or not isinstance(call, ast.Call):
        return None
    device = device_at(module, node)
    moves = isinstance(call.func, ast.Attribute) and call.func.attr == "to"
    if device is None or not (moves or (isinstance(parent, ast.keyword) and parent.arg == NAME)):
        return None
    takes_any = moves or scope_of(module, call).dotted(call.func).startswith("torch.")
    start, end = source.bounds(node)
    same = device.kind == node.value and (takes_any or not device.is_torch_device)
    return Fix((Edit(start, end, NAME),), safe=same)


def _map_to_cpu(module: Module, source: Source, node: ast.AST) -> Fix | None:
    """Add ``map_location="cpu"`` to ``torch.load``. Safe inside a model's ``load_state_dict``, which copies.

    What else has a ``load_state_dict``, such as a schedule, may keep the tensors where they are.
    """
    if not isinstance(node, ast.Call) or len(node.args) != 1 or isinstance(node.args[0], ast.Starred):
        return None
    end = source.bounds(node.args[0])[1]
    rest = source.text[end : source.bounds(node)[1]]
    if not (rest.strip() == ")" or rest.lstrip().startswith(",")):
        return None
    parent = module.parents.get(node)
    copied = (
        isinstance(parent, ast.Call)
        and isinstance(parent.func, ast.Attribute)
        and parent.func.attr == "load_state_dict"
        and last_name(parent.func.value).lower().endswith(_MODELS)
        and not any(keyword.arg in {"assign", None} for keyword in parent.keywords)
    )
    return Fix((Edit(end, end, ', map_location="cpu"'),), safe=copied)


def _autocast_by_type(module: Module, source: Source, node: ast.AST) -> Fix | None:
    """``torch.kind.amp.autocast()`` → ``torch.amp.autocast(device.type)``, likewise ``GradScaler``."""
    call = module.parents.get(node)
    if (
        not isinstance(node, ast.Attribute | ast.Name)
        or not isinstance(call, ast.Call)
        or call.func is not node
    ):
        return None
    scope = scope_of(module, node)
    _, kind, _, name, *_ = [*scope.dotted(node).split("."), "", "", "", ""]
    device = device_at(module, call)
    if name not in {"autocast", "GradScaler"} or device is None or not device.is_torch_device:
        return None
    if scope.resolve("torch") != "torch" or call.args:  # the order of positional arguments differs
        return None
    start, end = source.bounds(node)
    opening = _OPEN.match(source.text, end)
    if opening is None:
        return None
    inserted = "device.type" + (", " if call.keywords else "")
    edits = (Edit(start, end, f"torch.amp.{name}"), Edit(opening.end(), opening.end(), inserted))
    return Fix(edits, safe=device.kind.split(":")[0] == kind)


def _from_extension(module: Module, source: Source, node: ast.AST) -> Fix | None:
    """``torch.kind_name`` → ``torch_kind.kind_name``, where the extension's package is imported."""
    if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
        return None
    extension = f"torch_{node.attr.split('_')[0]}"
    if scope_of(module, node).resolve(extension) != extension:
        return None
    start, end = source.bounds(node.value)
    return Fix((Edit(start, end, extension),), safe=True)


def _rename_and_insert(
    source: Source, call: ast.Call, old: str, new: str, argument: str
) -> tuple[Edit, ...] | None:
    """Return edits that rename the called method and insert a first argument; None if it is written oddly."""
    end = source.bounds(call.func)[1]
    opening = _OPEN.match(source.text, end)
    if opening is None or source.text[end - len(old) : end] != old:
        return None
    inserted = argument + (", " if call.args or call.keywords else "")
    return Edit(end - len(old), end, new), Edit(opening.end(), opening.end(), inserted)


FIXES: Mapping[str, Fixer] = {
    "move_to_device": _move_to_device,
    "name_device": _name_device,
    "map_to_cpu": _map_to_cpu,
    "autocast_by_type": _autocast_by_type,
    "from_extension": _from_extension,
}
