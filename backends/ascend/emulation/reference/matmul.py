"""Matrix products: plain, of groups of rows, and of quantised numbers.

Shapes: M rows, K inner, N columns, E groups.
Source: torch_npu 2.13.0's schemas and documentation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backends.ascend.emulation.reference.registry import NotEmulated, Rejected, cover_only, reference

_BY_ROWS, _BY_INNER = 0, 2  # group_type
_NO_GROUPS = -1
_MAX_GROUPS = 1024
_CUMULATIVE, _COUNTS = 0, 1  # group_list_type
_ONE_OUTPUT = (2, 3)  # split_item
_FLOATS = {5: torch.float16, 6: torch.float32, 15: torch.bfloat16}  # torch's numbers of dtypes
_INT8 = 1
_INT8_MAX = 127


@reference("npu::npu_linear")
def npu_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return input @ weight.T + bias."""
    product = input @ weight.mT
    return product if bias is None else product + bias


@reference("npu::npu_linear_backward")
def npu_linear_backward(grad: Tensor, input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of input and weight."""
    return grad @ weight, grad.mT @ input


def _grouped(
    x: list[Tensor],
    weight: list[Tensor],
    bias: list[Tensor] | None,
    ends: list[int] | None,
    split_item: int,
) -> list[Tensor]:
    """Multiply each group of rows by its own matrix."""
    matrices = list(weight[0]) if len(weight) == 1 and weight[0].dim() == 3 else weight
    if ends is None:
        pieces = x
    elif len(x) == 1:
        pieces = [x[0][start:end] for start, end in zip([0, *ends], ends, strict=False)]
    else:
        raise NotEmulated("npu_grouped_matmul: the emulator covers group_list with one x only")
    if len(pieces) != len(matrices):
        raise Rejected(f"npu_grouped_matmul: {len(pieces)} groups of rows and {len(matrices)} matrices")
    rows_of_bias = (
        [None] * len(pieces)
        if bias is None
        else list(bias[0] if len(bias) == 1 and bias[0].dim() == 2 else bias)
    )
    outputs = [
        (piece.float() @ matrix.float() + (0 if row is None else row.float())).to(piece.dtype)
        for piece, matrix, row in zip(pieces, matrices, rows_of_bias, strict=True)
    ]
    if split_item not in _ONE_OUTPUT:
        return outputs
    joined = torch.cat(outputs)
    missing = x[0].shape[0] - joined.shape[0] if len(x) == 1 else 0
    if missing:
        raise Rejected(f"npu_grouped_matmul: group_list leaves {missing} rows of x without a group")
    return [joined]


def _ends(op: str, group_list: Tensor | list[int] | None, group_list_type: int | None) -> list[int] | None:
    if group_list is None:
        return None
    values = [int(value) for value in group_list]
    if group_list_type == _COUNTS:
        total = 0
        values = [total := total + value for value in values]
    elif group_list_type not in (_CUMULATIVE, None):
        raise NotEmulated(f"{op}: the emulator covers group_list_type 0 (ends) and 1 (counts)")
    if values != sorted(values):
        raise Rejected(f"{op}: group_list as ends must not fall: {values}")
    return values


@reference("npu::npu_grouped_matmul")
def npu_grouped_matmul(
    x: list[Tensor],
    weight: list[Tensor],
    *,
    bias: list[Tensor] | None = None,
    scale: list[Tensor] | None = None,
    offset: list[Tensor] | None = None,
    antiquant_scale: list[Tensor] | None = None,
    antiquant_offset: list[Tensor] | None = None,
    per_token_scale: list[Tensor] | None = None,
    group_list: Tensor | None = None,
    activation_input: list[Tensor] | None = None,
    activation_quant_scale: list[Tensor] | None = None,
    activation_quant_offset: list[Tensor] | None = None,
    split_item: int | None = 0,
    group_type: int | None = None,
    group_list_type: int | None = 0,
    act_type: int | None = 0,
    tuning_config: list[int] | None = None,
    output_dtype: int | None = None,
    x_dtype: int | None = None,
    weight_dtype: int | None = None,
    scale_dtype: int | None = None,
    per_token_scale_dtype: int | None = None,
) -> list[Tensor]:
    """Return the products of floating-point groups; groups are separate tensors or rows of one."""
    op = "npu_grouped_matmul"
    cover_only(
        op,
        scale=scale,
        offset=offset,
        antiquant_scale=antiquant_scale,
        antiquant_offset=antiquant_offset,
        per_token_scale=per_token_scale,
        activation_input=activation_input,
        activation_quant_scale=activation_quant_scale,
        activation_quant_offset=activation_quant_offset,
        act_type=act_type or None,
        output_dtype=output_dtype,
        x_dtype=x_dtype,
        weight_dtype=weight_dtype,
        scale_dtype=scale_dtype,
        per_token_scale_dtype=per_token_scale_dtype,
    )
    if group_type not in (None, _NO_GROUPS, _BY_ROWS) or not x[0].is_floating_point():
        raise NotEmulated(
            f"{op}: the emulator covers floating-point groups along rows (group_type 0) or none (-1)"
        )
    return _grouped(x, weight, bias, _ends(op, group_list, group_list_type), split_item or 0)


@reference("npu::npu_grouped_matmul_add")
def npu_grouped_matmul_add(
    input: Tensor,
    x: Tensor,
    weight: Tensor,
    group_list: Tensor,
    *,
    transpose_x: bool = True,
    transpose_weight: bool = False,
    group_type: int = 2,
    group_list_type: int | None = 0,
) -> Tensor:
    """Return input + x.T @ weight of each group of rows; input is (E, K, N), x (M, K), weight (M, N)."""
    op = "npu_grouped_matmul_add"
    if not transpose_x or transpose_weight or group_type != _BY_INNER:
        raise Rejected(f"{op}: only transpose_x=True, transpose_weight=False, group_type=2 are supported")
    if (
        x.dtype not in (torch.float16, torch.bfloat16)
        or x.dtype != weight.dtype
        or input.dtype != torch.float32
    ):
        raise Rejected(
            f"{op}: x and weight must be float16 or bfloat16 alike and input float32; got {x.dtype}, "
            f"{weight.dtype}, {input.dtype}"
        )
    if group_list_type != _CUMULATIVE:
        raise NotEmulated(f"{op}: the emulator covers ends as group_list; older kernels take nothing else")
    ends = _ends(op, group_list, _CUMULATIVE) or []
    if len(ends) != input.shape[0] or len(ends) > _MAX_GROUPS or ends[-1] > x.shape[0]:
        raise Rejected(f"{op}: group_list {ends} must be {input.shape[0]} ends up to {x.shape[0]}")
    groups = zip([0, *ends], ends, strict=False)
    return input + torch.stack([x[start:end].float().T @ weight[start:end].float() for start, end in groups])


@reference("npu::npu_dynamic_quant")
def npu_dynamic_quant(
    input: Tensor,
    *,
    smooth_scales: Tensor | None = None,
    group_index: Tensor | None = None,
    dst_type: int | None = None,
    quant_mode: str = "pertoken",
    dst_type_max: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return int8 rows and their float32 scales: the largest magnitude of a row becomes 127."""
    op = "npu_dynamic_quant"
    cover_only(op, group_index=group_index, dst_type_max=dst_type_max or None)
    if dst_type not in (None, _INT8) or quant_mode != "pertoken":
        raise NotEmulated(f"{op}: the emulator covers int8 and quant_mode pertoken")
    if input.dtype not in (torch.float16, torch.bfloat16) or input.dim() < 2:
        raise Rejected(
            f"{op}: {input.dtype} of {input.dim()} dims; it takes float16 and bfloat16 of at least 2"
        )
    x = input.float() if smooth_scales is None else input.float() * smooth_scales.float()
    scale = x.abs().amax(-1) / _INT8_MAX
    divisor = scale.masked_fill(scale == 0, 1.0).unsqueeze(-1)
    return (x / divisor).round().clamp(-_INT8_MAX - 1, _INT8_MAX).to(torch.int8), scale


@reference("npu::npu_quant_matmul")
def npu_quant_matmul(
    x1: Tensor,
    x2: Tensor,
    scale: Tensor,
    *,
    offset: Tensor | None = None,
    pertoken_scale: Tensor | None = None,
    bias: Tensor | None = None,
    output_dtype: int | None = None,
    x1_dtype: int | None = None,
    x2_dtype: int | None = None,
    pertoken_scale_dtype: int | None = None,
    scale_dtype: int | None = None,
    group_sizes: list[int] | None = None,
    y_scale: Tensor | None = None,
) -> Tensor:
    """Return (x1 @ x2 + int32 bias) * scale * pertoken_scale + float bias, for int8 operands."""
    op = "npu_quant_matmul"
    cover_only(
        op,
        offset=offset,
        x1_dtype=x1_dtype,
        x2_dtype=x2_dtype,
        pertoken_scale_dtype=pertoken_scale_dtype,
        scale_dtype=scale_dtype,
        group_sizes=group_sizes or None,
        y_scale=y_scale,
    )
    if x1.dtype != torch.int8 or x2.dtype != torch.int8 or not scale.is_floating_point():
        raise NotEmulated(f"{op}: the emulator covers int8 operands with a floating-point scale")
    if output_dtype not in _FLOATS:
        raise NotEmulated(f"{op}: the emulator covers output_dtype float16, bfloat16 and float32")
    early_bias = bias is not None and bias.dtype == torch.int32
    # Exact in int32; the chip has no operator for it outside of this one, so the host multiplies.
    product = (x1.cpu().int() @ x2.cpu().int()).to(x1.device)
    result = (product + bias if early_bias else product).float() * scale.float()
    if pertoken_scale is not None:
        result = result * pertoken_scale.float().unsqueeze(-1)
    if bias is not None and not early_bias:
        result = result + bias.float()
    return result.to(_FLOATS[output_dtype])
