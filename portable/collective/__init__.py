"""Processes that compute together: the Protocol, one process alone, and torch.distributed."""
