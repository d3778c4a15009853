"""Rows composed of torch operations, for every device: each saves time or memory against the reference.

Measured by ``tests/bench/composed_kernels.py`` on one thread of an AMD EPYC, float32 / bfloat16, forward and
backward, as multiples of the reference's thread time and of the memory it holds at most beyond the inputs,
gradients included:

    cross_entropy      2048 x 32000               time 0.30 / 0.25   memory 0.20 / 0.11
    gather_log_probs   2048 x 32000               time 0.35 / 0.28   memory 0.33 / 0.19
    cross_entropy of a vocabulary over ranks      time 0.77 / 0.40   memory 1.00 / 0.28
    lora_linear        2048 x 1024 to 2048, r 16  time 0.95 / 0.97   memory 0.63 / 0.64
    moe_permute        2048 x 1024, 4 of 16       time 0.71 / 0.46   memory 0.85 / 0.85
    moe_unpermute      2048 x 1024, 4 of 16       time 0.57 / 0.61   memory 0.80 / 0.81
    grouped_matmul     2041 x 1024 to 1024, 16    time 0.93 / 0.94   memory 0.58 / 0.58
    packed_matmul      4 bit, 1 x 1024 to 2048    time 0.37 / 0.48   memory 0.50 / 0.42   (forward only)
    packed_matmul      4 bit, 256 x 1024 to 2048  time 0.97 / 0.96   memory 0.71 / 0.54
    packed_matmul      3 bit, 256 x 1024 to 2048  time 1.24 / 1.46   memory 0.71 / 0.54
    nf4_dequantize     2048 x 1024                time 0.28 / 0.24   memory 0.38 / 0.48

Codes of 3, 5, 6 or 7 bits are the one case that takes longer: the matrix is unpacked once more for the
backward pass instead of being kept.
"""
