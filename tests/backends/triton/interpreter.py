"""Triton's interpreter, with four gaps closed so that it computes what a GPU computes.

Triton 3.9 keeps bfloat16 as 16-bit integers. Its interpreter cuts float32 off where hardware rounds to the
nearest even number, and ``tl.dot`` and ``*`` multiply the integers themselves. A number that is handed to a
kernel stays Python's, in 64 bits, where a compiled kernel gets a float32 tensor. These four are replaced
here; nothing else is.
"""

import os

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def mend() -> None:
    """Replace the four functions of the interpreter."""
    import numpy as np
    import torch
    from triton import language as tl
    from triton.runtime import interpreter

    convert, wrap = interpreter._convert_float, interpreter._implicit_cvt

    def as_float(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle.data
        return (handle.data.astype(np.uint32) << 16).view(np.float32)

    def convert_float(data, source, target, rounding):
        if (source, target) == (tl.bfloat16, tl.float32):
            return data.view(np.uint16).astype(np.uint32) << 16
        if (source, target) == (tl.float32, tl.bfloat16):
            rounded = torch.from_numpy(np.array(data, dtype=np.float32, ndmin=1)).to(torch.bfloat16)
            return rounded.view(torch.int16).numpy().view(np.uint16).reshape(data.shape)
        return convert(data, source, target, rounding)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        product = np.matmul(as_float(a), as_float(b), dtype=d.data.dtype)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    multiply = interpreter.InterpreterBuilder.create_fmul

    def create_fmul(self, a, b):
        if a.dtype.scalar != tl.bfloat16:
            return multiply(self, a, b)
        product = convert_float(as_float(a) * as_float(b), tl.float32, tl.bfloat16, None)
        return interpreter.TensorHandle(product, tl.bfloat16)

    def implicit_cvt(arg):
        if not isinstance(arg, float):
            return wrap(arg)
        return tl.tensor(interpreter.TensorHandle(np.array([arg], dtype=np.float32), tl.float32), tl.float32)

    interpreter._convert_float = convert_float
    interpreter._implicit_cvt = implicit_cvt
    interpreter.InterpreterBuilder.create_dot = create_dot
    interpreter.InterpreterBuilder.create_fmul = create_fmul
