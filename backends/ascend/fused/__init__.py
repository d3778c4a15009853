"""The operators of the NPU as kernel rows, one family a file; ``backends/ascend/kernels.py`` lists them."""
