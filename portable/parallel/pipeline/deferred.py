"""Weight gradients that are computed later than the gradients of what went in, to fill idle time.

Inside ``WeightGradients``, a linear layer's backward pass gives the gradient of its input at once, and leaves
that of its weight for later if asked to. What is kept until then is what that needs, the layer's input and
its output's gradient; everything else of the micro-batch is let go. Weights that are used in other ways
(norms, embeddings, fused kernels) get their gradients at once: they are exact, and not put off.

The backward pass must not hook the gradient of a weight, for those that were put off come by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Later = Callable[[], None]


class WeightGradients(TorchFunctionMode):
    """Entered around forward and backward passes; the latter may compute layers anew (recomputation).

    A fused kernel may join in: it remembers ``current()`` in its forward pass, and in its backward pass adds
    what it can put off to ``put_off``, unless that is None.
    """

    _entered: ClassVar[list[WeightGradients]] = []  # of all threads: backward passes have their own

    def __init__(self) -> None:
        super().__init__()
        self.put_off: list[Later] | None = None

    @classmethod
    def current(cls) -> WeightGradients | None:
        """Return the innermost that is entered."""
        return cls._entered[-1] if cls._entered else None

    def __enter__(self) -> Self:
        """Enter."""
        self._entered.append(self)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:  # Any: as in every context manager
        """Leave."""
        super().__exit__(*error)
        self._entered.pop()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # Any: the form that torch prescribes
        """Run ``linear`` in our way, everything else as it is.

        Torch leaves the mode while it handles a call; a backward pass must be inside, for it may compute
        layers anew. Begun at an edge of the graph in place of a tensor, it is not handled again.
        """
        kwargs = kwargs or {}
        if func is Tensor.backward:
            (root,) = args
            gradient = kwargs.pop("gradient", None)
            with self:
                first = torch.ones_like(root) if gradient is None else gradient
                return torch.autograd.backward(get_gradient_edge(root), first, **kwargs)
        if func is F.linear and not torch.compiler.is_compiling():
            values = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            if _can_be_put_off(values["input"], values["weight"]):
                return _Linear.apply(self, values["input"], values["weight"], values.get("bias"))
        return func(*args, **kwargs)

    @contextmanager
    def collect(self) -> Generator[list[Later]]:
        """In a backward pass within, put weight gradients off: the list holds what computes them."""
        later: list[Later] = []
        self.put_off = later
        try:
            yield later
        finally:
            self.put_off = None


def _can_be_put_off(x: Tensor, weight: Tensor) -> bool:
    """Whether gradients are wanted, of a plain parameter: only there can they be added by hand."""
    return (
        torch.is_grad_enabled()
        and isinstance(weight, nn.Parameter)
        and weight.requires_grad
        and type(weight.data) is Tensor
        and type(x) in (Tensor, nn.Parameter)
    )


class _Linear(torch.autograd.Function):
    """y = x Wᵀ + b, like torch's own under autocast too: products and what is kept are in y's format."""

    @staticmethod
    def forward(
        ctx: Any, gradients: WeightGradients, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        out = F.linear(x, weight, bias)
        ctx.gradients = gradients
        ctx.bias = bias
        ctx.weight = weight
        ctx.save_for_backward(x.to(out.dtype))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of nothing, x, W, b; those of W and b are None where they were put off."""
        (x,) = ctx.saved_tensors
        (out_grad,) = gradients
        weight, bias = ctx.weight, ctx.bias
        x_grad = out_grad @ weight.to(out_grad.dtype) if ctx.needs_input_grad[1] else None
        rows = out_grad.reshape(-1, out_grad.shape[-1])

        def weight_grad() -> Tensor:
            return (rows.t() @ x.reshape(-1, x.shape[-1])).to(weight.dtype)

        bias_grad = rows.sum(0).to(bias.dtype) if ctx.needs_input_grad[3] else None
        later = ctx.gradients.put_off
        if later is None:
            return None, x_grad, weight_grad(), bias_grad
        later.append(lambda: _add_gradient(weight, weight_grad()))
        return None, x_grad, None, bias_grad


@torch.no_grad()
def _add_gradient(weight: Tensor, gradient: Tensor) -> None:
    if weight.grad is None:
        weight.grad = gradient
    else:
        weight.grad += gradient
