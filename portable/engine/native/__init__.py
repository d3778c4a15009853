"""Our own engine: it shares the trainer's weights and kernels."""
