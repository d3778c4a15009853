"""What torch_npu's operators compute, in torch: one module for one family, one function for one schema."""
