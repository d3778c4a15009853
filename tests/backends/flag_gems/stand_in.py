"""What stands in for flag_gems, which cannot be imported without a GPU: its functions in plain torch.

Signatures, formats of results and refusals are those of flag_gems 5.0.2.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
from torch import Tensor


def rms_norm_forward(x: Tensor, normalized_shape: list[int], weight: Tensor, eps: float = 1e-5):
    assert normalized_shape == list(x.shape[-1:])
    rstd = torch.rsqrt(x.float().square().mean(-1) + eps)
    return (x.float() * rstd.unsqueeze(-1) * weight).to(x.dtype), rstd.flatten()


def rms_norm_backward(
    dy: Tensor, x: Tensor, inv_rms: Tensor, normalized_shape: list[int], weight: Tensor, eps: float = 1e-5
):
    rstd = inv_rms.view(*x.shape[:-1], 1)
    normed, scaled = x.float() * rstd, dy.float() * weight
    dx = rstd * (scaled - normed * (scaled * normed).mean(-1, keepdim=True))
    return dx.to(x.dtype), (dy.float() * normed).view(-1, x.shape[-1]).sum(0).to(x.dtype)


def silu_and_mul_kernel(x: Tensor, y: Tensor):
    dtype = torch.promote_types(x.dtype, y.dtype)
    return (torch.nn.functional.silu(x.float()) * y).to(dtype)


def silu_and_mul_grad_kernel(x: Tensor, y: Tensor, dgrad: Tensor):
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), dgrad.dtype)
    sigmoid = x.float().sigmoid()
    slope = sigmoid * (1 + x.float() * (1 - sigmoid))
    return (slope * dgrad * y).to(dtype), (dgrad * x.float() * sigmoid).to(dtype)


def apply_rotary_pos_emb(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    position_ids: Tensor | None = None,
    rotary_interleaved: bool = False,
    inplace: bool = False,
):
    assert cos.stride(-1) == sin.stride(-1) == 1
    assert cos.shape[-1] * 2 == q.shape[-1] == k.shape[-1]
    assert position_ids is not None
    assert position_ids.shape == q.shape[:-2] == k.shape[:-2]
    assert not inplace
    cos, sin = (table[position_ids].float().unsqueeze(-2) for table in (cos, sin))

    def turn(x: Tensor) -> Tensor:
        first, second = (x[..., ::2], x[..., 1::2]) if rotary_interleaved else x.chunk(2, -1)
        turned = (first * cos - second * sin, second * cos + first * sin)
        joined = torch.stack(turned, -1).flatten(-2) if rotary_interleaved else torch.cat(turned, -1)
        return joined.to(x.dtype)

    return turn(q.view(q.shape)), turn(k.view(k.shape))


def install() -> None:
    """Register the functions as ``flag_gems`` under the names that the rows import."""
    places = {
        "flag_gems": [],
        "flag_gems.ops": [rms_norm_forward, rms_norm_backward],
        "flag_gems.fused": [apply_rotary_pos_emb],
        "flag_gems.fused.silu_and_mul": [silu_and_mul_kernel, silu_and_mul_grad_kernel],
    }
    for name, functions in places.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__path__ = []
        for function in functions:
            setattr(module, function.__name__, function)
        sys.modules[name] = module
