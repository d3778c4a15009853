"""The feed-forward layer. Shapes: B rows, T tokens, D hidden."""

from torch import Tensor, nn

from portable.kernel.registry import KernelSet


class Mlp(nn.Module):
    """down(silu(gate(x)) * up(x)). Source: Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, hidden_size: int, intermediate_size: int, kernels: KernelSet) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down = nn.Linear(intermediate_size, hidden_size, bias=False)
        self._swiglu = kernels.pick("swiglu", size=intermediate_size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return (B, T, D)."""
        return self.down(self._swiglu(self.gate(x_BTD), self.up(x_BTD)))
