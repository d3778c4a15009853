"""What stands in for the GPU's own library of functions, which the interpreter cannot call."""

import triton
import triton.language as tl


@triton.jit
def rsqrt(x):
    return tl.rsqrt(x)
