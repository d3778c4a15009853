"""AdamW whose moments take a byte each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from portable.kernel.entry import Kernel
from portable.kernel.registry import KernelSet
from portable.parallel.gradient import local
from portable.parallel.mesh import Mesh
from portable.parallel.placement import ParameterShard
from portable.train.config import AdamW8bitConfig
from portable.train.optim.adamw import AdamW, adamw_groups
from portable.train.optim.blockwise import Codebook
from portable.train.optim.kind import Kinds
from portable.train.optim.optimizer import Optimizer

# Numbers that are in float32 at one time: on the host what a cache holds, elsewhere few launches (128 MiB).
_HOST_CHUNK, _DEVICE_CHUNK = 2**18, 2**24
_CODEBOOKS = {"exp_avg": Codebook(signed=True), "exp_avg_sq": Codebook(signed=False)}


class AdamW8bit(AdamW):
    """AdamW by a picked kernel, on moments that are decoded for the step and encoded after it.

    The state of a large parameter is ``step`` and, for each moment, codes and ``_scale``s of this rank's
    part; smaller parameters, whose moments cost nothing, keep them in float32. What it exports is float32
    under torch's names, whatever the layout; taken back by the same layout, it is the same state to the bit.
    Source: Dettmers et al. 2022, arXiv:2110.02861, section 2.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],  # Any: torch's groups mix parameters and numbers
        kernel: Kernel,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        block_size: int,
        min_size: int,
    ) -> None:
        super().__init__(groups, kernel, lr=lr, betas=betas, eps=eps)
        self.block_size = block_size
        self.min_size = min_size

    def prepare(self, parameter: nn.Parameter) -> None:
        """Give ``parameter`` moments of zero."""
        if not self._is_large(parameter):
            super().prepare(parameter)
            return
        part = local(parameter)
        num_blocks = -(-part.numel() // self.block_size)
        state: dict[str, Tensor] = {"step": torch.tensor(0.0)}
        for name, codebook in _CODEBOOKS.items():
            zeros = torch.zeros(self.block_size, device=part.device)
            zero_code = codebook.encode(zeros, self.block_size)[0][0]
            state[name] = zero_code.expand(part.numel()).clone()
            state[f"{name}_scale"] = torch.zeros(num_blocks, device=part.device)
        self.state[parameter] = state

    def export_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return the state as float32 AdamW's."""
        state = self.state[parameter]
        if not self._is_large(parameter):
            return {name: local(value) for name, value in state.items()}
        shape = local(parameter).shape
        return {
            "step": state["step"],
            **{name: self._decode(state, name).view(shape) for name in _CODEBOOKS},
        }

    @torch.no_grad()
    def import_state(self, parameter: nn.Parameter, values: dict[str, Tensor]) -> None:
        """Take what ``export_state`` returned."""
        state = self.state[parameter]
        if not self._is_large(parameter):
            for name, value in values.items():
                local(state[name]).copy_(value)
            return
        state["step"].copy_(values["step"])
        for name, codebook in _CODEBOOKS.items():
            flat = values[name].to(state[name].device, torch.float32).reshape(-1)
            codes, scales = codebook.encode(flat, self.block_size)
            state[name].copy_(codes)
            state[f"{name}_scale"].copy_(scales)

    def _update(self, held: list[nn.Parameter], **settings: Any) -> None:  # Any: the kernel's numbers
        small = [parameter for parameter in held if not self._is_large(parameter)]
        if small:
            super()._update(small, **settings)
        for parameter in held:
            if self._is_large(parameter) and parameter.grad is not None:
                self._update_large(local(parameter), local(parameter.grad), self.state[parameter], settings)

    def _update_large(
        self, part: Tensor, gradient: Tensor, state: dict[str, Tensor], settings: dict[str, Any]
    ) -> None:  # Any: the kernel's numbers
        """Update one parameter, a chunk of whole blocks at a time, so that little of it is in float32."""
        flat, flat_gradient = part.reshape(-1), gradient.reshape(-1)
        chunk = _HOST_CHUNK if part.device.type == "cpu" else _DEVICE_CHUNK
        step = max(1, chunk // self.block_size) * self.block_size
        for first in range(0, len(flat), step):
            span = slice(first, first + step)
            blocks = slice(first // self.block_size, (first + step) // self.block_size)
            pieces = {name: (state[name][span], state[f"{name}_scale"][blocks]) for name in _CODEBOOKS}
            moments = {
                name: _CODEBOOKS[name].decode(codes, scales, self.block_size)
                for name, (codes, scales) in pieces.items()
            }
            self._adamw(
                [flat[span]],
                [flat_gradient[span]],
                [moments["exp_avg"]],
                [moments["exp_avg_sq"]],
                **settings,
            )
            for name, (codes, scales) in pieces.items():
                new_codes, new_scales = _CODEBOOKS[name].encode(moments[name], self.block_size)
                codes.copy_(new_codes)
                scales.copy_(new_scales)
        if flat.data_ptr() != part.data_ptr():  # a part that lies with gaps was updated in a copy
            part.copy_(flat.view(part.shape))

    def _decode(self, state: dict[str, Tensor], name: str) -> Tensor:
        return _CODEBOOKS[name].decode(state[name], state[f"{name}_scale"], self.block_size)

    def _is_large(self, parameter: nn.Parameter) -> bool:
        return local(parameter).numel() >= self.min_size


def build_adamw8bit(
    shards: Iterable[ParameterShard], kinds: Kinds, config: AdamW8bitConfig, kernels: KernelSet, mesh: Mesh
) -> Optimizer:
    """Return AdamW with 8-bit moments over all of ``shards``."""
    adamw = AdamW8bit(
        adamw_groups(shards, kinds, config.weight_decay),
        kernels.pick("adamw"),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        block_size=config.block_size,
        min_size=config.min_size,
    )
    return Optimizer([adamw])
