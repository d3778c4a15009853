"""A model of everything that a strategy may meet, on ranks that read different samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from portable.parallel.mesh import Mesh
from portable.parallel.placement import EXPERT_PLACEMENT, Placement, chunk

WIDTH, ROWS, NUM_EXPERTS = 8, 17, 4


class Experts(nn.Module):
    """This rank's experts, of which each looks at every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(NUM_EXPERTS, WIDTH, WIDTH) / 4)

    def forward(self, x: Tensor, first: int) -> Tensor:
        scales = torch.arange(1.0, NUM_EXPERTS + 1)[first : first + self.up.shape[0]].to(x.dtype)
        return torch.einsum("bd,edf,e->bf", x, self.up.tanh(), scales)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.experts = Experts()

    def forward(self, x: Tensor, first: int) -> Tensor:
        return self.experts(torch.tanh(self.inner(x)), first)


class Odd(nn.Module):
    """An odd number of rows, one row, no rows at all, a scalar, a frozen layer, one that nobody uses."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Parameter(torch.randn(ROWS, WIDTH))
        self.row = nn.Parameter(torch.randn(1, WIDTH))
        self.nothing = nn.Parameter(torch.randn(0, WIDTH))
        self.scale = nn.Parameter(torch.randn(()))
        self.frozen = nn.Linear(WIDTH, WIDTH, bias=False)
        self.frozen.weight.requires_grad_(requires_grad=False)
        self.unused = nn.Linear(WIDTH, WIDTH, bias=False)
        self.blocks = nn.ModuleDict({"0": Block(), "1": Block()})
        self.first_expert = 0

    def forward(self, ids: Tensor) -> Tensor:
        """Return the sum over samples, of this rank's experts."""
        x = self.frozen(self.table[ids] + self.row) * self.scale
        for block in self.blocks.values():
            x = x + block(x, self.first_expert)
        return x.float().square().sum() / 100


def samples(reader: int, micro_batch: int) -> Tensor:
    """Return the token ids of a rank along the data axis."""
    return torch.randint(ROWS, (3,), generator=torch.Generator().manual_seed(10 * reader + micro_batch))


def cut_experts(model: Odd, mesh: Mesh) -> dict[str, Placement]:
    """Leave this rank its experts along ``ep``; return where every parameter lies."""
    placements = {name: Placement(tuple(found.shape)) for name, found in model.named_parameters()}
    start, length = chunk(NUM_EXPERTS, mesh.size("ep"), mesh.index("ep"))
    for name, block in model.blocks.items():
        block.experts.up = nn.Parameter(block.experts.up.detach().narrow(0, start, length).clone())
        shape = (NUM_EXPERTS, WIDTH, WIDTH)
        placements[f"blocks.{name}.experts.up"] = Placement(shape, **EXPERT_PLACEMENT).cut(0, "ep")
    model.first_expert = start
    return placements


def expected_gradients(mesh: Mesh, num_micro_batches: int) -> dict[str, Tensor]:
    """Return whole gradients of the sum over all ranks: computed here, one rank's share after the other."""
    whole = Odd()
    for reader in range(mesh.size("data")):
        start, length = chunk(NUM_EXPERTS, mesh.layout.ep, reader % mesh.layout.ep)
        for micro_batch in range(num_micro_batches):
            _of_experts(whole, samples(reader, micro_batch), start, length).backward()
    return {
        name: torch.zeros_like(found) if found.grad is None else found.grad
        for name, found in whole.named_parameters()
        if found.requires_grad
    }


def _of_experts(model: Odd, ids: Tensor, start: int, length: int) -> Tensor:
    """Run the whole model with the experts of one rank only."""
    own = {
        f"blocks.{key}.experts.up": block.experts.up[start : start + length]
        for key, block in model.blocks.items()
    }
    model.first_expert = start
    return torch.func.functional_call(model, own, (ids,))
