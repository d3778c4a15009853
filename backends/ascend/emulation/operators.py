"""Which of torch_npu's operators are computed by the host, which stay torch_npu's, and which are refused."""

from __future__ import annotations

import torch

# Memory and the description of tensors. Their code is torch_npu's own and starts nothing on the chip.
KEPT_ATEN = frozenset(
    {
        "_lazy_clone",
        "_pin_memory",
        "_reshape_alias",
        "as_strided",
        "as_strided_",
        "contiguous",
        "empty.memory_format",
        "empty_like",
        "empty_strided",
        "is_pinned",
        "is_set_to",
        "new_empty_strided",
        "record_stream",
        "resize_",
        "resize_as_",
        "set_",
        "set_.source_Storage",
        "set_.source_Storage_storage_offset",
        "set_.source_Tensor",
        "squeeze",
        "squeeze.dim",
        "unfold",
        "unsqueeze",
        "view",
        "view_as_complex",
        "view_as_real",
    }
)
KEPT_NPU = frozenset(
    {
        "get_npu_format",
        "get_storage_size",
        "set_op_timeout_ms",
    }
)

# torch_npu has gradient rules of its own for some operators of torch. Most lead to operators that the
# emulator knows; these lead straight to kernels of the chip, so torch's own rule or composition is used.
TORCH_AUTOGRAD = (
    "gru.input",
    "lstm.data",
    "lstm.input",
    "lstm_cell",
    "max.out",
    "min.out",
    "nanmean.out",
    "one_hot",
    "stft",
)


def registered(name_space: str) -> list[str]:
    """Return the operators of ``name_space`` that have a kernel for this device, without the name space."""
    # torch_npu also registers kernels under names that nothing defines; nobody can call those.
    defined = {
        f"{schema.name}.{schema.overload_name}".rstrip(".")
        for schema in torch._C._jit_get_all_schemas()  # the list that torch.ops itself is made from
    }
    names = torch._C._dispatch_get_registrations_for_dispatch_key("PrivateUse1")
    prefix = f"{name_space}::"
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix) and name in defined)


def has_host_kernel(name: str) -> bool:
    """Tell whether the CPU can compute ``name``: by a kernel of its own or as a composition of others."""
    return torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, "CPU")
