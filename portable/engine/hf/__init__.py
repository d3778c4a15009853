"""Any causal model that transformers knows, on a device or spread over device, host and disk."""
