"""Memory against time: activations that are computed twice, matrices and token rows taken in tiles."""
