"""The real torch_npu on an ordinary processor.

torch_npu is Huawei's package, unchanged, with its Python API, allocator, schemas and autograd. Below it lies
a stand-in for CANN (``runtime/``), and the kernels that it would start on the chip are computed by the host
(``kernels/``, ``reference/``). ``run.py`` starts a program in it; README.md says what is covered.
"""
