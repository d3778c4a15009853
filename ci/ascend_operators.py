"""List the operators of torch that torch_npu has kernels for; what it lacks runs on the CPU.

Run under the emulator, and keep the output: python ci/ascend_operators.py > backends/ascend/operators.txt
The simulated accelerator counts fallbacks by it when it is like an Ascend chip.
"""

from __future__ import annotations

import torch
import torch_npu


def main() -> None:
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("PrivateUse1")
    names = {name.partition(".")[0] for name in registered if name.startswith("aten::")}
    print(f"# torch_npu {torch_npu.__version__}: operators with a kernel, overloads together")
    print("\n".join(sorted(names)))


if __name__ == "__main__":
    main()
