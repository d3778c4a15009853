"""Watches one micro-batch of a step: what goes into every module and kernel and what comes out, both ways.

The numbers of the step stay as they are. To tell the gradient that one call contributes from that of all uses
of a tensor, each call takes and returns views of its own (``view_as``): a node of the graph, no arithmetic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from portable.core.registry import load_target
from portable.kernel.entry import Kernel, KernelEntry
from portable.kernel.op import Op
from portable.trace.arguments import map_tensors, name_arguments, parameter_names, split_arguments, tensors_in
from portable.trace.recording import Node
from portable.trace.replay import KernelCall, Replay, examine, mutated_tensors, too_large
from portable.trace.summary import Summariser

ROOT = "(model)"
UPDATE_SITE = "(optimizer)"  # where the kernels of the update are called, as no module is
Tree = Any  # the arguments or results of any function


class Phase(Enum):
    """What of the step is going on; only then is anything noted."""

    idle = "idle"
    forward = "forward"
    backward = "backward"
    update = "update"


class Tracer:
    """Notes the calls of one micro-batch in ``nodes``; with ``replays`` it repeats every kernel call.

    ``observe`` is the observer of a ``KernelSet``, set before the model is built. A kernel's tensors are held
    between its forward and its backward pass, when autograd holds most of them anyway.
    """

    def __init__(self, *, replays: bool = False) -> None:
        self.phase = Phase.idle
        self.nodes: list[Node] = []
        self.replays: list[Replay] = []
        self._replaying = replays
        self._open: list[Node] = []
        self._unfinished: dict[str, KernelCall] = {}
        self._names: Counter[str] = Counter()
        self._num_backward = 0
        self._summarise = Summariser()

    def watch(self, model: nn.Module) -> None:
        """Hook all modules of ``model``."""
        for name, module in model.named_modules():
            module.register_forward_pre_hook(self._entering(name or ROOT, module), with_kwargs=True)
            module.register_forward_hook(self._left)

    def observe(self, op: Op, row: KernelEntry, kernel: Kernel) -> Kernel:
        """Return what is called instead of ``kernel``; outside of the traced step it does nothing else."""

        names = parameter_names(load_target(op.target))

        def observed(*args: Tree, **kwargs: Tree) -> Tree:
            computes = self.phase is Phase.forward and not op.mutates
            updates = self.phase is Phase.update and bool(op.mutates) and self._replaying
            if not computes and not updates:
                return kernel(*args, **kwargs)
            call = KernelCall("", op, row, name_arguments(names, args, kwargs), len(args))
            return self._compute(call, kernel) if computes else self._update(call, kernel)

        return observed

    def end_backward(self) -> None:
        """Judge the kernels whose backward pass did not reach all that it should have."""
        self.phase = Phase.idle
        for call in self._unfinished.values():
            self.replays.append(examine(call))
        self._unfinished.clear()

    def _entering(
        self, name: str, module: nn.Module
    ) -> Callable[[nn.Module, tuple[Tree, ...], dict[str, Tree]], Tree]:
        names = parameter_names(module.forward)

        def enter(_: nn.Module, args: tuple[Tree, ...], kwargs: dict[str, Tree]) -> Tree:
            if self.phase is not Phase.forward:
                return None
            node = Node(self._number(name))
            self._open.append(node)
            taken = self._take_in(node, name_arguments(names, args, kwargs), None)
            return split_arguments(taken, len(args))

        return enter

    def _left(self, _: nn.Module, _args: tuple[Tree, ...], output: Tree) -> Tree:
        return self._put_out(self._open.pop(), output, None) if self.phase is Phase.forward else None

    def _compute(self, call: KernelCall, kernel: Kernel) -> Tree:
        site = self._open[-1].name if self._open else ROOT
        node = Node(self._number(f"{site}:{call.op.id}"), call.row.name)
        call.name = node.name
        kept = call if self._replaying else None
        taken = self._take_in(node, call.arguments, kept)
        call.arguments = _detached(call.arguments)
        args, kwargs = split_arguments(taken, call.num_positional)
        result = kernel(*args, **kwargs)
        if kept is not None:
            kept.outputs = tensors_in(_detached(result))
            kept.autocast = _autocast_dtype(kept)
        result = self._put_out(node, result, kept)
        if kept is not None:
            self._unfinished[kept.name] = kept
            self._finish_if_complete(kept, backward=any(map(_wants_gradient, tensors_in(result).values())))
        return result

    def _update(self, call: KernelCall, kernel: Kernel) -> Tree:
        call.name = self._number(f"{UPDATE_SITE}:{call.op.id}")
        args, kwargs = split_arguments(call.arguments, call.num_positional)
        if reason := too_large(call):
            self.replays.append(Replay(call.name, call.op.id, call.row.name, skipped=reason))
            return kernel(*args, **kwargs)
        call.outputs = mutated_tensors(call)
        call.arguments = map_tensors(call.arguments, lambda _, tensor: tensor.detach().to("cpu", copy=True))
        result = kernel(*args, **kwargs)
        self.replays.append(examine(call))
        return result

    def _take_in(self, node: Node, arguments: dict[str, Tree], call: KernelCall | None) -> dict[str, Tree]:
        """Note the inputs of a call, and return views of them that tell their gradients."""

        def take(path: str, tensor: Tensor) -> Tensor:
            # Parameters are compared before the step, and their gradients after it.
            noted = not isinstance(tensor, nn.Parameter)
            if noted:
                node.inputs[path] = self._summarise(tensor)
            if not _wants_gradient(tensor):
                return tensor
            if call is not None:
                call.awaited.add(path)

            def reached(gradient: Tensor) -> None:
                if noted:
                    node.grad_inputs[path] = self._summarise(gradient)
                node.backward_place = self._num_backward
                self._num_backward += 1
                if call is not None:
                    call.grad_inputs[path] = gradient.detach()
                    self._finish_if_complete(call, backward=True)

            return _hooked_view(tensor, reached)

        return map_tensors(arguments, take)

    def _put_out(self, node: Node, output: Tree, call: KernelCall | None) -> Tree:
        """Note the outputs of a call that has ended, and return views of them that tell their gradients.

        An output may also be used inside the call, as a sum that is returned and normalised: that part of its
        gradient is not given to the call.
        """

        def put(path: str, tensor: Tensor) -> Tensor:
            node.outputs[path] = self._summarise(tensor)
            if not _wants_gradient(tensor):
                return tensor

            def reached(gradient: Tensor) -> None:
                node.grad_outputs[path] = self._summarise(gradient)
                if call is not None:
                    call.grad_outputs[path] = gradient.detach()

            return _hooked_view(tensor, reached)

        self.nodes.append(node)
        return map_tensors(output, put)

    def _finish_if_complete(self, call: KernelCall, *, backward: bool) -> None:
        """Repeat the call now if nothing of it is outstanding: it lets go of its tensors."""
        if backward and call.awaited - call.grad_inputs.keys():
            return
        if self._unfinished.pop(call.name, None) is not None:
            self.replays.append(examine(call))

    def _number(self, name: str) -> str:
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}#{self._names[name]}"


def _wants_gradient(tensor: Tensor) -> bool:
    return torch.is_grad_enabled() and tensor.requires_grad


def _hooked_view(tensor: Tensor, reached: Callable[[Tensor], None]) -> Tensor:
    view = tensor.view_as(tensor)
    view.register_hook(reached)
    return view


def _detached(value: Tree) -> Tree:
    return map_tensors(value, lambda _, tensor: tensor.detach())


def _autocast_dtype(call: KernelCall) -> torch.dtype | None:
    kind = next(iter(call.inputs.values())).device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
